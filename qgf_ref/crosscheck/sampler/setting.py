"""What a port is meant to be, and the ports of it: right, with mistakes, in another order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.memory import Memory
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes, with_mistakes
from qgf_ref.crosscheck.sampler.outcome import PLACES
from qgf_ref.crosscheck.sampler.port import (
    Port,
    divided_times,
    ranked_as_usual,
    reference_port,
    retimed,
)
from qgf_ref.crosscheck.sampler.rounding import UNIT, reordered
from qgf_ref.crosscheck.sampler.subject import Compared, FlowNetworks
from qgf_ref.denoising import GradientSteps
from qgf_ref.guidance.base import Estimator
from qgf_ref.ops.time_embedding import Precision


@dataclass(frozen=True)
class Setting:
    """What a port is meant to be: checkpoint, estimator, T, and how the times are rounded.

    time_precision  of times and embedding: "float32" as the official code, or "exact"
    divided         fl(k)/fl(T) rather than XLA's fl(k)·fl(1/T): see `divided_times`
    climb           GradStep after the flow
    only            "policy" or "critic", where one network alone is checked
    open_ended      a diffusion's result is not clipped, as the official code leaves it
    wide_times      a float32 port whose times are embedded in float64: "exact", and not rounded
    memory          what its networks have computed, shared with the settings made from this one
    """

    checkpoint: Compared
    estimator: Estimator
    denoise_steps: int
    time_precision: Precision = "float32"
    divided: bool = False
    climb: GradientSteps | None = None
    only: str = ""
    open_ended: bool = False
    wide_times: bool = False
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    @property
    def method(self) -> str:
        """The estimator's name, and the gradient steps."""
        if self.climb is None:
            return self.estimator.label
        sign = " by the sign" if self.climb.sign else ""
        steps = f"{self.climb.steps} gradient steps of {self.climb.size:g}{sign}"
        return f"{self.estimator.label}, then {steps}"

    def how(self, weight: Any) -> str:
        """How actions are sampled, in words."""
        actor = self.actor
        return f"estimator {self.method}, weight {weight:g}" if actor is None else actor.acts

    @property
    def actor(self) -> ActorAgent | None:
        """The agent, if it acts by a chain of its own."""
        networks = self.checkpoint
        agent = None if isinstance(networks, FlowNetworks) else networks.agent
        return agent if isinstance(agent, ActorAgent) else None

    @property
    def places(self) -> Mapping[str, str]:
        """What the quantities are, in words; those of a chain alone."""
        return PLACES if self.actor is None else self.actor.chain.words

    @property
    def opaque(self) -> bool:
        """Whether the networks are somebody's, not a checkpoint's."""
        return isinstance(self.checkpoint, FlowNetworks)

    @cached_property
    def _references(self) -> dict[str, Port]:
        """The ports without a mistake, by dtype: every simulation begins with one."""
        return {}

    def port(self, made: Mistakes = (), dtype: str = "float64", seed: int | None = None) -> Port:
        """The port with these mistakes, in this precision, summing in the order of this seed."""
        if dtype not in self._references:
            self._references[dtype] = _reference(self, dtype)
        port = with_mistakes(self._references[dtype], made)
        if seed is None:
            return port
        rounded = self.time_precision == "exact" and not self.wide_times
        if not port.opaque and rounded and dtype == "float32":
            # a float64 port's times are rounded, too, and its angles reach 10⁴ rad
            rng = np.random.default_rng(seed)
            off = 1 + UNIT[np.dtype("float32")] * rng.choice((-1, 1), len(port.flow.times))
            grid = tuple(float(t) for t in np.array(port.flow.times) * off)
            port = replace(port, flow=retimed(port.flow, grid))
        return reordered(port, seed, self.memory)


def _reference(setting: Setting, dtype: str) -> Port:
    T = setting.denoise_steps
    checkpoint, memory = setting.checkpoint, setting.memory
    if isinstance(checkpoint, Checkpoint):
        checkpoint = memory.cast(checkpoint, dtype)
    port = reference_port(checkpoint, setting.estimator, setting.time_precision, T)
    port = replace(port, climb=setting.climb, only=setting.only)
    if setting.climb is None and port.stated == "none":
        port = ranked_as_usual(port, checkpoint)
    if setting.open_ended:
        port = port.with_scheme(finish=lambda flow, action: action)
    if setting.divided:
        port = replace(port, flow=retimed(port.flow, divided_times(T)))
    return port if port.opaque else _remembering(port, memory)


def _remembering(port: Port, memory: Memory) -> Port:
    def change(net: Any) -> Any:
        return replace(net, kernels=memory)

    return port.with_policy(change).with_critics(change)
