"""Counting what an estimator asks of the networks: the audit of its stated products."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow, Products
from qgf_ref.nets.critic import Critic, NoisyActionCritic
from qgf_ref.nets.velocity import VelocityField


@dataclass
class ProductCounter:
    """Running counts, by the names of `Products`."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Count one."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> Products:
        """The counts so far, and start again from zero."""
        taken, self.counts = Products(**self.counts), {}
        return taken


@dataclass(frozen=True)
class CountedField:
    """A velocity field that counts."""

    inner: VelocityField
    counter: ProductCounter

    @property
    def action_dim(self) -> int:
        """D."""
        return self.inner.action_dim

    @property
    def obs_dim(self) -> int | None:
        """O, or None."""
        return self.inner.obs_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the field underneath."""
        return self.inner.dtype

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """Counted as field_forward."""
        self.counter.add("field_forward")
        return self.inner.forward(obs, action, time)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """Counted as field_jvp."""
        self.counter.add("field_jvp")
        return self.inner.jvp(action_dot, cache)

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """Counted as field_vjp."""
        self.counter.add("field_vjp")
        return self.inner.vjp(velocity_bar, cache)


@dataclass(frozen=True)
class CountedCritic:
    """A critic that counts."""

    inner: Critic
    counter: ProductCounter

    @property
    def aggregation(self) -> str:
        """That of the critic underneath."""
        return self.inner.aggregation

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Counted as critic_forward."""
        self.counter.add("critic_forward")
        return self.inner.forward(obs, action)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """Counted as critic_jvp."""
        self.counter.add("critic_jvp")
        return self.inner.jvp(action_dot, cache)

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """Counted as critic_vjp."""
        self.counter.add("critic_vjp")
        return self.inner.vjp(q_bar, cache)

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """Counted as critic_hvp."""
        self.counter.add("critic_hvp")
        return self.inner.hvp(action_dot, q_bar, cache)


@dataclass(frozen=True)
class CountedRobustCritic:
    """A critic of noisy actions that counts."""

    inner: NoisyActionCritic
    counter: ProductCounter

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """Counted as critic_forward."""
        self.counter.add("critic_forward")
        return self.inner.forward(obs, action, time)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """Counted as critic_jvp."""
        self.counter.add("critic_jvp")
        return self.inner.jvp(action_dot, cache)

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """Counted as critic_vjp."""
        self.counter.add("critic_vjp")
        return self.inner.vjp(q_bar, cache)


def counted(flow: GuidedFlow) -> tuple[GuidedFlow, ProductCounter]:
    """The same flow with its networks wrapped, and the counter that they share.

    Of the auxiliary networks, fields count as the field does and Q_rob as the critic.
    """
    counter = ProductCounter()
    wrapped = replace(
        flow,
        field=CountedField(flow.field, counter),
        critic=CountedCritic(flow.critic, counter),
        auxiliary=flow.auxiliary.map(
            lambda field: CountedField(field, counter),
            lambda critic: CountedRobustCritic(critic, counter),
        ),
    )
    return wrapped, counter
