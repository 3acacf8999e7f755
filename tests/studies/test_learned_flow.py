"""The velocity network of the laboratory: bits, dtype, and how near it comes to the exact field."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.studies.didactic.learned_flow import learned_flow
from qgf_ref.studies.shared.scenes import TRIMODAL


def test_same_seed_same_bits() -> None:
    nets = [learned_flow(TRIMODAL, hidden=(8,), updates=5, batch=16, seed=s) for s in (3, 3, 4)]
    first, again, other = (net.params.arrays() for net in nets)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    assert nets[0].dtype == np.float64
    assert nets[0].obs_dim == 0


def test_learns_the_exact_velocity() -> None:
    """Two modes, 800 updates of a small net: its mean squared error against the velocity's own."""
    mixture = GaussianMixture.isotropic([0.5, 0.5], [[-1.0], [1.0]], 0.3)
    net, exact = learned_flow(mixture, hidden=(32, 32), updates=800), MixtureFlow(mixture)
    rng = np.random.default_rng(1)
    obs = np.zeros((500, 0))
    # measured 0.036, 0.18, 0.047; untrained 1.4, 1.5, 1.2
    for t, most in ((0.1, 0.08), (0.5, 0.35), (0.8, 0.1)):
        x = mixture.at_time(t).sample(rng, 500)
        v = exact.forward(obs, x, t)[0]
        error = net.forward(obs, x, t)[0] - v
        assert (error**2).mean() < most * (v**2).mean()


def test_bad_input() -> None:
    with pytest.raises(InputError, match="updates"):
        learned_flow(TRIMODAL, updates=0)
    with pytest.raises(InputError, match="hidden"):
        learned_flow(TRIMODAL, hidden=())
