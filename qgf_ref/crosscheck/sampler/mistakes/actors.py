"""Mistakes in how the agents beside the paper's act, but for DAC's and QSM's diffusion.

Each is the agent's one sampler with an ingredient replaced. Source: baselines.md, sections 5 to 10.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.fql import OneStep
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import Applies, Mistake, one
from qgf_ref.crosscheck.sampler.mistakes.diffusion import DIFFUSION, changing_net, first_row
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.mistakes.update import ranked_by
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.losses.actor import endpoint


class _OfFlow(OneStep):
    """The flow's endpoint in the place of the one-step policy's output."""

    def __init__(self, flow: Any) -> None:
        self.flow = flow

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        """ODE(z)."""
        return endpoint(self.flow, obs, x, T)


class _Residual(OneStep):
    """z + μ(s, z)."""

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        """z + μ(s, z)."""
        return x + super().output(net, obs, x, n, T)


def _one_step(port: Port) -> bool:
    return isinstance(port.chain, OneStep)


def _tanh(flow: GuidedFlow, action: Array) -> Array:
    return np.tanh(action)


ONE_STEP: tuple[Mistake, ...] = (
    Mistake("noise-before-obs", "one-step", "v", "the one-step policy reads [z, s]: it is [s, z]",
            changing_net(lambda net: replace(net, inputs=("noise", "obs"))), _one_step),
    Mistake("acts-by-cloned-flow", "one-step", "v",
            "the flow that clones the behaviour acts: the one-step policy does",
            one(lambda port: replace(port, chain=_OfFlow(port.beside["actor_bc_flow"]))),
            lambda port: _one_step(port) and "actor_bc_flow" in port.beside),
    Mistake("one-step-as-velocity", "one-step", "v",
            "the one-step policy's output is added to the noise: it is the action itself",
            one(lambda port: replace(port, chain=_Residual())), _one_step),
)  # fmt: skip
"""Of FQL."""


def _chained(port: Port) -> bool:
    return port.chain is not None


ENDS: tuple[Mistake, ...] = (
    Mistake("start-same-in-rows", "update", "a", "all rows start at the first one's noise",
            one(lambda port: port.with_scheme(start=first_row)), _chained, coupled=True),
    Mistake("final-tanh", "update", "action",
            "the result is squashed by tanh: it is clipped to ±1",
            one(lambda port: port.with_scheme(finish=_tanh)), _chained),
)  # fmt: skip
SHARED: dict[str, Applies] = {
    "biases-missing": _chained, "kernels-transposed": _chained, "matmul-tf32": _chained,
    "matmul-bf16": _chained, "noise-clipped": _chained, "final-clip-missing": _one_step,
    "chunk-action-major": _chained, "policy-norm-last-hidden": _one_step,
    "policy-activation-last-hidden-missing": _one_step, "gelu-erf": _one_step,
    "gelu-quick": _one_step, "activation-relu": _one_step, "activation-silu": _one_step,
    "activation-gelu": _one_step, "layer-norm-eps-1e-5": _one_step,
    "layer-norm-eps-1e-3": _one_step, "layer-norm-unbiased": _one_step,
    "activation-before-norm": _one_step, "layer-norm-affine-missing": _one_step,
    "layer-norm-offset-missing": _one_step,
}  # fmt: skip
"""Mistakes of the bank of flows that these samplers may have, too, and which of them."""


def _acts_by(name: str, part: str, which: str) -> Mistake:
    def change(port: Port) -> Port:
        return port.with_field(lambda field: port.beside[part])

    return Mistake(
        name, "network", "v", f"{which} acts: see inv_temp, κ = 0 alone lets the slow flow act",
        one(change), lambda port: port.chain is None and part in port.beside,
    )  # fmt: skip


def _reduced(critic: Any, how: str) -> Any:
    return replace(critic, aggregation=how)


def _ranks_online(port: Port) -> bool:
    return port.ranks_online


FLOWS: tuple[Mistake, ...] = (
    _acts_by("acts-by-fast-flow", "actor_fast", "the fast flow"),
    _acts_by("acts-by-slow-flow", "actor_slow", "the slow flow, which clones the behaviour,"),
    _acts_by("acts-by-slow-average", "target_actor_slow", "the slow flow's average"),
    Mistake("best-of-target", "selection", "action",
            "candidates are ranked by the target critic: QAM ranks by the online one's mean",
            one(lambda port: ranked_by(port, _reduced(port.target, "mean"))), _ranks_online,
            selects=True),
    Mistake("best-of-min", "selection", "action",
            "candidates are ranked by the smallest member: QAM ranks by the online one's mean",
            one(lambda port: ranked_by(port, _reduced(port.online, "min"))),
            lambda port: _ranks_online(port) and has_members(port), selects=True),
)  # fmt: skip
"""Of QAM, whose flows are three."""
ACTORS = (*DIFFUSION, *ONE_STEP, *ENDS)
