"""Where compiled kernels were until 0.1: see `qgf_ref.backends.numba.kernels`."""
