"""Guidance as an optimiser of Q."""
