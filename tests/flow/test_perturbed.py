"""Perturbed critics and fields: exact derivatives, and errors of the size and scale asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.checks import check_adjoint, check_jvp, check_vjp
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import AnalyticCritic, DistanceCritic, QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.flow.perturbed import PerturbedCritic, PerturbedField
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.sampling import sample

DIM = 3
BASE = QuadraticCritic(np.array([0.5, -1.0, 0.2]), np.diag([1.0, 2.0, 0.5]))
MIXTURE = GaussianMixture.isotropic(
    [0.4, 0.6], np.random.default_rng(0).standard_normal((2, DIM)), 0.3
)


class Flat(AnalyticCritic):
    """Q = 0, so that a perturbed critic is its perturbation."""

    def value(self, action: Array) -> Array:
        return np.zeros(len(action), dtype=action.dtype)

    def gradient(self, action: Array) -> Array:
        return np.zeros_like(action)


def field(seed: int = 3, amplitude: float = 0.7) -> PerturbedField:
    return PerturbedField(MixtureFlow(MIXTURE), amplitude, 0.4, seed)


def points(rows: int = 4, dim: int = DIM) -> Array:
    return np.random.default_rng(5).standard_normal((rows, dim))


@pytest.mark.parametrize("seed", [0, 1])
def test_critic_derivatives(seed: int) -> None:
    critic = PerturbedCritic(BASE, 0.3, 0.5, seed)
    x = points()
    check_jvp(critic.value, lambda a, u: (critic.gradient(a) * u).sum(-1), x)
    check_jvp(
        critic.value,
        lambda a, u: (critic.gradient(a) * u).sum(-1),
        x,
        oracle="central_difference",
    )
    check_jvp(critic.gradient, critic.hessian_product, x)
    check_adjoint(critic.gradient, critic.hessian_product, critic.hessian_product, x)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_field_products(t: float) -> None:
    flow, x = field(), points()

    def f(a: Array) -> Array:
        return flow.forward(a, a, t)[0]

    def jvp(a: Array, u: Array) -> Array:
        return flow.jvp(u, flow.forward(a, a, t)[1])

    def vjp(a: Array, u: Array) -> Array:
        return flow.vjp(u, flow.forward(a, a, t)[1])

    check_jvp(f, jvp, x)
    check_jvp(f, jvp, x, oracle="central_difference")
    check_vjp(f, vjp, x)
    check_adjoint(f, jvp, vjp, x)


def correlations(
    error: Callable[[int, Array], Array], apart: float, seeds: int
) -> tuple[Array, Array]:
    """(value at 0, value at distance `apart`) over draws, (seeds,) each."""
    x = np.zeros((2, 2))
    x[1, 0] = apart
    values = np.array([error(seed, x) for seed in range(seeds)])
    return values[:, 0], values[:, 1]


@pytest.mark.parametrize("kind", ["critic", "field"])
def test_error_has_the_size_and_the_length_scale_asked_for(kind: str) -> None:
    amplitude, length, seeds = 0.4, 0.25, 3000
    flat = Flat()
    mixture = GaussianMixture.isotropic([1.0], [[0.0, 0.0]], 1.0)
    base = MixtureFlow(mixture)

    def error(seed: int, x: Array) -> Array:
        if kind == "critic":
            return PerturbedCritic(flat, amplitude, length, seed, features=16).value(x)
        exact = base.forward(x, x, 0.5)[0]
        perturbed = PerturbedField(base, amplitude, length, seed, features=16)
        return (perturbed.forward(x, x, 0.5)[0] - exact)[:, 1]

    here, there = correlations(error, length, seeds)
    # 3000 draws: one standard error is 1.3% of a standard deviation, and 0.012 of this correlation
    assert abs(here.std() / amplitude - 1) < 0.06
    assert abs(np.corrcoef(here, there)[0, 1] - np.exp(-0.5)) < 0.05
    assert abs(here.mean()) < 4 * amplitude / np.sqrt(seeds)


def test_gradient_of_the_error_is_amplitude_over_length() -> None:
    gradients = [PerturbedCritic(Flat(), 0.4, 0.25, s).gradient(points(1)) for s in range(1000)]
    # 3000 correlated values of which each is exact in the mean: measured within 3%
    assert abs(np.std(gradients) / (0.4 / 0.25) - 1) < 0.06


@pytest.mark.slow
def test_field_error_is_smooth_in_time_and_independent_between_coordinates() -> None:
    x = np.zeros((1, 2))
    base = MixtureFlow(GaussianMixture.isotropic([1.0], [[0.0, 0.0]], 1.0))

    def error(seed: int, t: float) -> Array:
        made = PerturbedField(base, 1.0, 0.3, seed, features=16, time_length=0.5)
        return (made.forward(x, x, t)[0] - base.forward(x, x, t)[0])[0]

    first = np.array([error(s, 0.1) for s in range(2000)])
    later = np.array([error(s, 0.6) for s in range(2000)])
    assert abs(np.corrcoef(first[:, 0], later[:, 0])[0, 1] - np.exp(-0.5)) < 0.06
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.09  # 4 standard errors


def test_a_draw_is_a_function_of_its_seed() -> None:
    x = points()
    critic = PerturbedCritic(BASE, 0.3, 0.5, 7)
    assert np.array_equal(critic.value(x), PerturbedCritic(BASE, 0.3, 0.5, 7).value(x))
    assert not np.allclose(critic.value(x), replace(critic, seed=8).value(x))
    assert not np.allclose(field(3).forward(x, x, 0.5)[0], field(4).forward(x, x, 0.5)[0])


def test_amplitude_zero_is_the_base_exactly() -> None:
    x = points()
    assert np.array_equal(PerturbedCritic(BASE, 0.0, 0.5, 1).gradient(x), BASE.gradient(x))
    exact, cache = MixtureFlow(MIXTURE).forward(x, x, 0.4)
    v, perturbed = field(amplitude=0.0).forward(x, x, 0.4)
    assert np.array_equal(v, exact)
    flow = field(amplitude=0.0)
    assert np.array_equal(flow.vjp(x, perturbed), MixtureFlow(MIXTURE).vjp(x, cache))


def test_kinks_of_the_base_are_kept_and_rows_are_independent() -> None:
    assert PerturbedCritic(DistanceCritic(0.3), 0.1, 1.0, 0).kinks == (0.3,)
    x = points()
    whole = field().forward(x, x, 0.4)[0]
    # BLAS may sum a row in another order in another batch: measured 2e-16
    assert np.allclose(field().forward(x[:1], x[:1], 0.4)[0], whole[:1], rtol=0, atol=1e-14)


def test_the_sampler_takes_both() -> None:
    flow = GuidedFlow(field(), PerturbedCritic(BASE, 0.1, 0.5, 0), 4, action_bound=None)
    obs = np.zeros((5, 0))
    assert sample(flow, obs, estimator="bptt", weight=0.1, rng=0).shape == (5, DIM)
    with pytest.raises(InputError, match="closed-form"):
        sample(flow, obs, estimator="oracle", weight=0.1, rng=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"amplitude": -1.0}, "amplitude"),
        ({"amplitude": np.nan}, "amplitude"),
        ({"length": 0.0}, "length"),
        ({"seed": -1}, "seed"),
        ({"features": 0}, "features"),
        ({"time_length": 0.0}, "time_length"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(field(), **change)  # type: ignore[arg-type]
