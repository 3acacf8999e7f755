"""Compiled primitives: matrix product, dense block, activations, losses, Adam."""
