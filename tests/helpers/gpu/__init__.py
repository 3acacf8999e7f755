"""A stand-in for a GPU: kernels compiled for the CPU, and the CuPy calls made of them."""
