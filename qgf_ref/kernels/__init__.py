"""Accelerated kernels. Numba is imported with the first module of this package that needs it."""
