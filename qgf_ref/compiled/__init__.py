"""The sampler as one compiled program: recorded from the reference loop, run by one interpreter."""
