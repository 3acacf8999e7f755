"""Success, losses and cost against the size of the networks."""
