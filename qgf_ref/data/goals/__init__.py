"""Goal-conditioned data: compact trajectories, goals drawn from them, relabelled batches."""
