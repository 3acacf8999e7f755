"""Flows: the linear path, Euler integration with its products, and closed-form mixture flows."""
