"""The Jacobian and the clip's mask, apart and together."""
