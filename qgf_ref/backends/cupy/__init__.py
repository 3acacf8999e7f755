"""The backend cupy: CUDA kernels of our own, launched through CuPy."""
