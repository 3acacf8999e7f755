"""The bank of named mistakes of a sampler."""
