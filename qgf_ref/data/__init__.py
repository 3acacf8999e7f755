"""Data sets of transitions and the chunk windows drawn from them."""
