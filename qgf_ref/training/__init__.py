"""Training: behaviour cloning and IQL on an OGBench data set, resumable bit for bit."""
