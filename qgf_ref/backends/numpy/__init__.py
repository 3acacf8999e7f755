"""The reference: the primitives and the loop as they stand."""
