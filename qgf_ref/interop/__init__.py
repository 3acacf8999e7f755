"""Checkpoints and traces: our own format, and other frameworks' without importing them."""
