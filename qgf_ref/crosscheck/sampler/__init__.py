"""A sampler against the reference: which quantity differs first, and by which mistake."""
