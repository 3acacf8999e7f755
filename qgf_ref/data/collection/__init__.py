"""Collecting OGBench data sets with OGBench's own scripted oracles."""
