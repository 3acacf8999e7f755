"""Noise of each estimator under small changes of its query."""
