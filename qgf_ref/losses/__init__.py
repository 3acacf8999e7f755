"""Training losses with hand-derived gradients, Adam, and the target update."""
