"""Tensors with names of other people, mapped to the parameters of our parts."""
