"""`check_velocity`, `check_critic`, `check_gradient` of a flow of anybody's networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.pointwise import agreement, setting_of, stepwise_case
from qgf_ref.crosscheck.sampler.subject import FlowNetworks
from qgf_ref.flow.convention import convention
from qgf_ref.testing import check_critic, check_gradient, check_velocity
from tests.crosscheck.closed_flow import OBS, ROWS, D, T, flow


def functions_of_a_port(name: str) -> dict[str, Callable[..., Any]]:
    """u, Q, ∇Q and G of `qgf` of a float32 port in a convention, told the convention's times."""
    own, told = flow("float32", name), convention(name)

    def velocity(obs: Array, x: Array, tau: Array) -> Array:
        assert obs.dtype == x.dtype == tau.dtype == np.float32 and tau.shape == (ROWS,)
        return own.field.base.forward(obs, x, float(tau[0]))[0]  # type: ignore[attr-defined]

    def critic(obs: Array, x: Array) -> Array:
        return own.critic.forward(obs, x)[0]

    def gradient(obs: Array, x: Array) -> Array:
        q, cached = own.critic.forward(obs, x)
        return own.critic.vjp((q == q.min(axis=0)).astype(np.float32), cached)

    def guidance(obs: Array, x: Array, tau: Array) -> Array:
        rest = np.abs(1 - told.noise_time - tau[:, None])
        at = x + told.sign * rest * velocity(obs, x, tau)
        return gradient(obs, np.clip(at, -1, 1))

    return {"v": velocity, "q": critic, "g": gradient, "qgf": guidance}


@pytest.mark.parametrize("name", ["openpi", pytest.param("flow_matching", marks=pytest.mark.slow)])
def test_functions_of_a_port_are_checked_alone(name: str) -> None:
    parts = functions_of_a_port(name)
    whole = flow("float64", name)
    assert check_velocity(parts["v"], whole, observations=OBS).agrees
    assert check_critic(parts["q"], whole, observations=OBS).agrees
    assert check_gradient(parts["g"], whole, observations=OBS).agrees
    assert check_gradient(parts["qgf"], whole, "qgf", observations=OBS).agrees
    in_chunks = check_velocity(
        lambda s, x, t: parts["v"](s, x, t)[:, None], whole, observations=OBS
    )
    assert in_chunks.agrees
    for wrong, says in (
        (partial(check_velocity, lambda s, x, t: -parts["v"](s, x, t)), "the other sign"),
        (partial(check_velocity, lambda s, x, t: parts["v"](s, x, 1 - t)), "DISAGREES"),
        (partial(check_critic, lambda s, x: 2 * parts["q"](s, x)), "is 2 times the reference"),
        (partial(check_gradient, lambda s, x: parts["g"](s, x) / ROWS), "gradient-batch-mean"),
        (
            partial(check_gradient, lambda s, x, t: parts["g"](s, x), estimator="qgf"),
            "query-noisy",
        ),
        (partial(check_velocity, lambda s, x, t: 0 * s[:, :D]), "does not depend on the obs"),
    ):
        with pytest.raises(CrossCheckError) as caught:
            wrong(whole, observations=OBS)
        assert says in str(caught.value)


def test_of_a_critic_that_ignores_observations_nobody_asks_it() -> None:
    own = adapters.functions(
        lambda s, x, t: -x, lambda s, x: -(x**2).sum(axis=1), action_shape=D, obs_dim=5,
        dtype="float32", denoise_steps=T, differences=("vjp", "jvp"),
    )  # fmt: skip
    assert check_critic(lambda s, x: -(x**2).sum(axis=1), own).agrees
    with pytest.raises(CrossCheckError, match="is 2 times the reference"):
        check_critic(lambda s, x: -2 * (x**2).sum(axis=1), own)


def test_a_value_that_nearly_cancels_rounds_as_its_terms_do() -> None:
    """One row, whose Q is 1e-5 where those of others are 5: a robot's run often is one row."""
    rng = np.random.default_rng(0)
    of_obs, of_action = rng.standard_normal((64, 5)), 0.02 * rng.standard_normal((64, D))
    phase, row = rng.uniform(0, 6, 64), rng.standard_normal((1, D)).astype(np.float32)

    def critic(s: Array, x: Array, order: int = 1) -> Array:
        parts = (a.astype(x.dtype) for a in (of_obs, of_action, phase))
        by_obs, by_action, shift = parts
        angles = (s[:, None] * by_obs).sum(axis=2) + (x[:, None] * by_action).sum(axis=2) + shift
        terms = np.cos(angles)[:, ::order]
        total = np.add.accumulate(terms, axis=1, dtype=x.dtype)[:, -1]
        return total - x.dtype.type(level)

    level = 0.0
    level = float(critic(OBS[:1].astype(float), row.astype(float))[0]) - 1e-5
    own = adapters.functions(
        lambda s, x, t: -x, critic, action_shape=D, obs_dim=5, dtype="float64", denoise_steps=T,
        differences=("vjp", "jvp"), action_bound=None,
    )  # fmt: skip
    networks = FlowNetworks.of(own, OBS, 100)
    theirs = {"q": critic(OBS[:1], row, -1)[None, None], "a": row[None], "a1_hat": row[None]}
    case = stepwise_case(OBS[:1], row, theirs, ("q",))
    assert agreement(setting_of(networks, "ood", 1), case, "critic", networks).agrees
    off = {**theirs, "q": theirs["q"] + np.float32(1e-4)}
    with pytest.raises(CrossCheckError, match="unknown at q"):
        wrong = stepwise_case(OBS[:1], row, off, ("q",))
        agreement(setting_of(networks, "ood", 1), wrong, "critic", networks)
