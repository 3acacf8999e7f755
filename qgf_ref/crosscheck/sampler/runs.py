"""The two runs of a port: from its own states, and from another's.

Both go through the one denoising loop and the one set of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.denoising import conclude, denoise, denoising_step, drift_of
from qgf_ref.errors import NonFiniteError
from qgf_ref.flow.chain import chain_steps
from qgf_ref.flow.euler import integrate
from qgf_ref.guidance.base import DenoisingStep, Guidance
from qgf_ref.guidance.queries import members_at, one_step_estimate


class Inputs(NamedTuple):
    """What a run starts from: obs (B, O), noise (B·n, D), weight () or (B·n, 1), n, and the noise
    z (T, B·n, D) of a chain that draws.
    """

    obs: Array
    noise: Array
    weight: float | Array
    best_of: int
    z: Array | None = None

    def rows(self, rows: Array) -> Inputs:
        """Of some observations."""
        many = candidates_of(rows, self.best_of)
        weight = self.weight if isinstance(self.weight, float) else self.weight[many]
        z = None if self.z is None else self.z[:, many]
        return Inputs(self.obs[rows], self.noise[many], weight, self.best_of, z)

    def astype(self, dtype: Any) -> Inputs:
        """Every array in another dtype."""
        cast: Any = (x.astype(dtype) if isinstance(x, np.ndarray) else x for x in self)
        return Inputs(*cast)


def candidates_of(rows: Array, best_of: int) -> Array:
    """Rows of the noise that belong to these observations."""
    return (rows[:, None] * best_of + np.arange(best_of)).ravel()


Predicted = dict[str, Array]
"""Quantity → a, v, a1_hat, g (T, B·n, D), q (T, E, B·n); action (B, D)."""


def free_running(port: Port, inputs: Inputs) -> Predicted:
    """The port's own run from the noise. What is not finite is NaN from there on."""
    if port.chain is not None:
        return _chain_run(port, inputs)
    n = inputs.best_of
    obs = port.scheme.spread(inputs.obs, n)
    rows, T = inputs.noise.shape, port.flow.denoise_steps
    members = 1 if port.members is None else port.members
    quantities = {name: np.full((T, *rows), np.nan) for name in ("a", "v", "a1_hat", "g")}
    quantities["q"] = np.full((T, members, rows[0]), np.nan)

    def record(step: DenoisingStep, guidance: Guidance) -> None:
        _store(quantities, step.index, step, guidance, port, obs)

    try:
        with np.errstate(all="ignore"):
            last = denoise(
                port.flow, obs, inputs.noise, port.estimator, inputs.weight, record, port.scheme
            )
            quantities["action"] = conclude(port.flow, obs, last, n, port.climb, port.played)
    except NonFiniteError:
        quantities["action"] = np.full((len(inputs.obs), rows[1]), np.nan)
    return quantities


def teacher_forced(
    port: Port,
    inputs: Inputs,
    states: Array,
    given: Mapping[str, Array] | None = None,
    upto: str = "action",
    only: int | None = None,
) -> Predicted:
    """Every step recomputed from `states` (T, B·n, D), *their* a_t, so that no error accumulates.

    a[k] is what the update makes of their a[k−1]; action what follows their last state.
    given   their v and a1_hat, which then replace the port's own as inputs of what comes after
    upto    the last quantity wanted: "v" leaves the critic alone
    only    the one step wanted, if not all; what comes of the others is NaN
    """
    if port.chain is not None:
        return _chain_forced(port, inputs, states, given or {}, upto)
    n, given = inputs.best_of, given or {}
    obs = port.scheme.spread(inputs.obs, n)
    T, flow = len(states), port.flow
    members = 1 if port.members is None else port.members
    quantities = {name: np.full(states.shape, np.nan) for name in ("a", "v", "a1_hat", "g")}
    quantities["q"] = np.full((T, members, states.shape[1]), np.nan)
    quantities["a"][0] = port.scheme.start(inputs.noise)
    last = states[-1]
    with np.errstate(all="ignore"):
        for k, state in enumerate(states):
            if only not in (None, k):
                continue
            step = denoising_step(flow, obs, state, k, inputs.weight)
            quantities["v"][k] = step.velocity
            if upto == "v":
                continue
            if "v" in given:
                step = replace(step, velocity=given["v"][k].astype(state.dtype))
            seen = flow
            if "a1_hat" in given:
                seen = replace(flow, critic=Asked(flow.critic, given["a1_hat"][k]))
            guidance = port.estimator(seen, step)
            _store(quantities, k, step, guidance, port, obs, own_velocity=False)
            if "g" in given:
                guidance = replace(guidance, gradient=given["g"][k].astype(state.dtype))
            following = _euler(port, step, guidance)
            if k + 1 < T:
                quantities["a"][k + 1] = following
            else:
                last = following
        if upto == "v":
            return {"v": quantities["v"], "a": quantities["a"]}
        try:
            quantities["action"] = conclude(flow, obs, last, n, port.climb, port.played)
        except NonFiniteError:
            quantities["action"] = np.full((len(inputs.obs), states.shape[2]), np.nan)
    return quantities


def _chain_run(port: Port, inputs: Inputs) -> Predicted:
    """`free_running` of a chain: a, v and a1_hat (T, B, D), and the action."""
    assert port.chain is not None
    T, last = port.flow.denoise_steps, port.scheme.start(inputs.noise)
    quantities = {n: np.full((port.steps, *last.shape), np.nan) for n in ("a", "v", "a1_hat")}
    with np.errstate(all="ignore"):
        steps = chain_steps(port.chain, port.flow.field, inputs.obs, last, inputs.z, T)
        for n, step in enumerate(steps):
            quantities["a"][n], quantities["v"][n], quantities["a1_hat"][n], last = step
        quantities["action"] = port.scheme.deliver(port.scheme.finish(port.flow, last))
    return quantities


def _chain_forced(
    port: Port, inputs: Inputs, states: Array, given: Mapping[str, Array], upto: str
) -> Predicted:
    """`teacher_forced` of a chain."""
    assert port.chain is not None
    chain, net, T = port.chain, port.flow.field, port.flow.denoise_steps
    quantities = {name: np.full(states.shape, np.nan) for name in ("a", "v", "a1_hat")}
    following = quantities["a"][0] = port.scheme.start(inputs.noise)
    with np.errstate(all="ignore"):
        for n, state in enumerate(states[: chain.steps(T)]):
            if n:
                quantities["a"][n] = following
            output = quantities["v"][n] = chain.output(net, inputs.obs, state, n, T)
            if "v" in given:
                output = given["v"][n].astype(state.dtype)
            estimate = quantities["a1_hat"][n] = chain.estimate(net, output, state, n, T)
            if "a1_hat" in given:
                estimate = given["a1_hat"][n].astype(state.dtype)
            following = chain.moved(net, output, estimate, state, inputs.z, n, T)
        if upto == "v":
            return {"v": quantities["v"], "a": quantities["a"]}
        quantities["action"] = port.scheme.deliver(port.scheme.finish(port.flow, following))
    return quantities


class Asked:
    """A critic that is asked at x, whatever point it is first asked at."""

    def __init__(self, critic: Any, x: Array) -> None:
        self.critic, self.x, self.first = critic, x, True
        self.aggregation: str = critic.aggregation

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q at x the first time, then wherever it is asked."""
        at = self.x.astype(action.dtype) if self.first else action
        self.first = False
        return self.critic.forward(obs, at)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """The critic's."""
        return self.critic.jvp(action_dot, cache)

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """The critic's."""
        return self.critic.vjp(q_bar, cache)

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """The critic's."""
        return self.critic.hvp(action_dot, q_bar, cache)


def _euler(port: Port, step: DenoisingStep, guidance: Guidance) -> Array:
    flow = port.flow

    def drift(k: int, time: float, action: Array) -> Array:
        return drift_of(flow, step, guidance, port.scheme)

    steps = integrate(drift, step.action, flow.times, start=step.index, kernels=flow.kernels)
    return next(steps)


def _store(
    quantities: Predicted,
    k: int,
    step: DenoisingStep,
    guidance: Guidance,
    port: Port,
    obs: Array,
    own_velocity: bool = True,
) -> None:
    if own_velocity:
        quantities["a"][k], quantities["v"][k] = step.action, step.velocity
    query, q = guidance.query, guidance.q
    if query is None:
        query = one_step_estimate(port.flow, step).x
    if q is None:
        q = members_at(port.flow, obs, query)
    quantities["a1_hat"][k], quantities["q"][k], quantities["g"][k] = query, q, guidance.gradient
