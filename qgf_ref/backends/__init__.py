"""What runs the primitives and the recorded sampler: a folder for each backend."""
