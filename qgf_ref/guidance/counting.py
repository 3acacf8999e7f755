"""Counting what an estimator asks of the networks: the audit of its stated products."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow, Products
from qgf_ref.nets.products import optional
from qgf_ref.nets.velocity import FieldAround


@dataclass
class ProductCounter:
    """Running counts, by the names of `Products`."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Count one."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def ask(self, kind: str, product: str, network: Any, *args: Any) -> Any:
        """The network's answer, counted as "{kind}_{product}"."""
        self.add(f"{kind}_{product}")
        return optional(network, product)(*args)

    def take(self) -> Products:
        """The counts so far, and start again from zero."""
        taken, self.counts = Products(**self.counts), {}
        return taken


@dataclass(frozen=True)
class Counted:
    """A network that counts its forwards and products: a critic, unless `kind` says otherwise."""

    base: Any
    counter: ProductCounter
    kind: ClassVar[str] = "critic"

    def _count(self, product: str, *args: Any) -> Any:
        return self.counter.ask(self.kind, product, self.base, *args)

    def forward(self, *inputs: Array | float) -> tuple[Array, Any]:
        """Counted as field_forward or critic_forward."""
        return cast(tuple[Array, Any], self._count("forward", *inputs))

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """Counted as field_jvp or critic_jvp."""
        return cast(Array, self._count("jvp", action_dot, cache))

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """Counted as field_vjp or critic_vjp."""
        return cast(Array, self._count("vjp", y_bar, cache))


@dataclass(frozen=True)
class CountedField(Counted, FieldAround):
    """A velocity field that counts."""

    kind: ClassVar[str] = "field"


@dataclass(frozen=True)
class CountedCritic(Counted):
    """A critic that counts."""

    @property
    def aggregation(self) -> str:
        """That of the critic underneath."""
        return cast(str, self.base.aggregation)

    @property
    def absent(self) -> bool:
        """Whether there is none underneath."""
        return bool(getattr(self.base, "absent", False))

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """Counted as critic_hvp."""
        return cast(Array, self._count("hvp", action_dot, q_bar, cache))


def counted(
    flow: GuidedFlow, counter: ProductCounter | None = None
) -> tuple[GuidedFlow, ProductCounter]:
    """The same flow with its networks wrapped, and the counter that they share (given, or new).

    Of the auxiliary networks, fields count as the field does and Q_rob as the critic.
    """
    counter = ProductCounter() if counter is None else counter
    wrapped = replace(
        flow,
        field=CountedField(flow.field, counter),
        critic=CountedCritic(flow.critic, counter),
        auxiliary=flow.auxiliary.map(
            lambda field: CountedField(field, counter),
            lambda critic: Counted(critic, counter),
        ),
    )
    return wrapped, counter
