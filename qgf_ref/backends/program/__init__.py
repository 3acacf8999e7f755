"""The sampler as a program: recorded from the reference loop, the same for every backend."""
