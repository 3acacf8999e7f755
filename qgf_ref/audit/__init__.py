"""The audit of a checkpoint: derivative checks, estimator profiles, precision, report."""
