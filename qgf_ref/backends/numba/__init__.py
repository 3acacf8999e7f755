"""Compiled for the processor: kernels for the primitives, an interpreter for the program."""
