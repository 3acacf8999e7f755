"""Estimators that correct qgf, against the exact tilted law."""
