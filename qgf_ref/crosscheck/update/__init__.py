"""A training update against the reference: which loss, gradient or parameter differs."""
