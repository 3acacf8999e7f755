"""Gradient estimators: one to a file, one signature, one registry."""
