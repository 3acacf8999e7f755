"""Bias and variance of each estimator against the exact guidance."""
