"""Networks on which every mistake shows, and float32 ports made of our own simulations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes
from qgf_ref.crosscheck.sampler.runs import Inputs, Predicted, free_running
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.guidance.registry import estimator
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import small_checkpoint

OTHER_ORDER = 77
"""A summation order that no comparison uses."""


def lively(seed: int = 0, **options: Any) -> Checkpoint:
    """Small float32 networks with O ≥ D, H = 2, A = 2, square kernels, and members in rivalry."""
    defaults = {"obs_dim": 6, "action_dim": 4, "hidden": (10, 10, 10), "steps": 5}
    made = small_checkpoint(seed, **{**defaults, **options})
    made = replace(made, options=replace(made.options, horizon_length=2))
    levelled = made.with_params(
        critic=_level(made.critic), target_critic=_level(made.target_critic)
    )
    return levelled.astype("float32").astype("float64")


def _level(params: MLPParams) -> MLPParams:
    *rest, last = params.layers
    return MLPParams((*rest, replace(last, bias=last.bias - last.bias)))


def setting(checkpoint: Checkpoint, name: str = "qgf") -> Setting:
    return Setting(checkpoint, estimator(name), checkpoint.options.denoise_steps)


def inputs(
    checkpoint: Checkpoint, rows: int = 12, weight: float = 0.3, best_of: int = 1, seed: int = 0
) -> Inputs:
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, checkpoint.obs_dim)).astype(np.float32)
    noise = 1.3 * rng.standard_normal((rows * best_of, checkpoint.flat_action_dim))
    return Inputs(obs, noise.astype(np.float32), float(np.float32(weight)), best_of)


def port_run(chosen: Setting, made: Mistakes, given: Inputs, dtype: str = "float32") -> Predicted:
    """What a port with these mistakes returns, its sums in an order of its own."""
    port = chosen.port(made, dtype, seed=OTHER_ORDER)
    kind = np.dtype(dtype)
    cast = Inputs(given.obs.astype(kind), given.noise.astype(kind), given.weight, given.best_of)
    return {name: x.astype(kind) for name, x in free_running(port, cast).items()}


def case(given: Inputs, found: dict[str, Array], weight: float | None = None) -> RecordedCase:
    """The run as a recorded one."""
    arrays = {**found, "obs": given.obs, "noise": given.noise}
    used = float(given.weight) if weight is None else weight
    return RecordedCase(recorded_trace(arrays), used, "test")


Function = Callable[..., Array]


def functions_of(flow: GuidedFlow) -> tuple[Function, Function, Function]:
    """velocity(obs, action, t), critic(obs, action) and gradient(obs, action) of a flow."""

    def velocity(obs: Array, action: Array, t: Array) -> Array:
        return flow.field.forward(obs, action, t)[0]

    def critic(obs: Array, action: Array) -> Array:
        return flow.critic.forward(obs, action)[0]

    def gradient(obs: Array, action: Array) -> Array:
        return critic_gradient(flow, obs, action).gradient

    return velocity, critic, gradient
