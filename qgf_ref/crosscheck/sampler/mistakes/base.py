"""What a mistake is, and the helpers with which one is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.port import Port, Rule, Substituted
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow

Change = Callable[[Port], Port]
Applies = Callable[[Port], bool]

AREAS = ("network", "time", "query", "gradient", "aggregation", "batch", "update", "selection")


OFFSETS = "frequencies off by"
AT = "at "
NETWORK_ONLY, QUERY_ONLY = "in the network only", "in 1 − t only"
"""Of a time that only one of its two uses has wrong."""


def value_variant(value: float) -> str:
    """The variant of a mistake that is made with this value."""
    return f"{AT}{value:.9g}"


def offset_variant(offsets: tuple[int, ...]) -> str:
    """The variant of a family with these offsets."""
    return " ".join([OFFSETS, *(f"{n:+d}" if n else "0" for n in offsets), "units"])


def offsets_of(variant: str) -> tuple[int, ...]:
    """The offsets that `offset_variant` wrote."""
    return tuple(int(n) for n in variant.removeprefix(OFFSETS).removesuffix("units").split())


def always(port: Port) -> bool:
    """True."""
    return True


@dataclass(frozen=True)
class Mistake:
    """One way to get the sampler wrong.

    name     kebab-case
    area     of `AREAS`
    first    the first traced quantity that it changes
    says     what a porter needs to know: what is wrong, and what is right
    variants label → change of a port; several where a port can make the mistake in several places,
             or round it in several ways; the first is the usual one
    applies  whether the port's options leave room for it
    coupled  rows of a batch affect each other, so that no subset of rows can be simulated alone
    selects  only best-of-N shows it
    family   variants beyond the listed ones: (offsets) → change, where offsets are whole units in
             the last place of the embedding's frequencies, which a diagnosis fits
    at       variants beyond the listed ones: a value > 0 → change, which a diagnosis fits
    harmless offsets up to this size are another library's rounding, not a mistake
    unless   a mistake before it that, where it fits, is enough
    coarse   it rounds: where float32 rounding tips a value over the edge between two coarse
             numbers, two runs of the same mistake differ by a share of its own effect
    """

    name: str
    area: str
    first: str
    says: str
    variants: Mapping[str, Change]
    applies: Applies = always
    coupled: bool = False
    selects: bool = False
    coarse: bool = False
    family: Callable[[tuple[int, ...]], Change] | None = None
    harmless: int = 0
    at: Callable[[float], Change] | None = None
    unless: str = ""

    def made_in(self, variant: str, port: Port) -> Port:
        """`port` with this mistake, in a listed variant, one of the family, or at a value."""
        if self.at is not None and variant.startswith(AT):
            return self.at(float(variant.removeprefix(AT)))(port)
        if self.family is not None and variant.startswith(OFFSETS):
            return self.family(offsets_of(variant))(port)
        return self.variants[variant](port)


def is_guided(port: Port) -> bool:
    """Whether the port means to be guided at all."""
    return port.stated != "none"


def ruled(rule: Rule) -> Mapping[str, Change]:
    """The one variant that does something to the estimator: rule(base, flow, step)."""
    return one(lambda port: port.with_rule(rule))


def one(change: Change) -> Mapping[str, Change]:
    """The variants of a mistake that can be made in one way only."""
    return {"": change}


def in_networks(
    policy: Change, critics: Change, both: str = "in policy and critic"
) -> Mapping[str, Change]:
    """The variants of a mistake that can be made in either network."""
    return {
        both: lambda port: critics(policy(port)),
        "in the policy only": policy,
        "in the critic only": critics,
    }


def substituting_everywhere(by: Mapping[Any, Any]) -> Mapping[str, Change]:
    """Variants that substitute kernels in the networks."""

    def change(net: Any) -> Any:
        return replace(net, kernels=Substituted(net.kernels, by))

    return in_networks(lambda p: p.with_policy(change), lambda p: p.with_critics(change))


def changing_parameters(change: Callable[[Any], Any]) -> Mapping[str, Change]:
    """Variants that change the parameters of the networks."""

    def apply(net: Any) -> Any:
        return replace(net, params=change(net.params))

    return in_networks(lambda p: p.with_policy(apply), lambda p: p.with_critics(apply))


def changing_options(**options: Any) -> Mapping[str, Change]:
    """Variants that change the networks' options."""

    def apply(net: Any) -> Any:
        return replace(net, options=replace(net.options, **options))

    return in_networks(lambda p: p.with_policy(apply), lambda p: p.with_critics(apply))


def at_values(at: Callable[[float], Change], *values: float) -> Mapping[str, Change]:
    """The variants at these values, the first the usual one."""
    return {value_variant(value): at(value) for value in values}


def gradient_rule(
    rule: Callable[[Array, DenoisingStep, GuidedFlow], Array],
) -> Mapping[str, Change]:
    """The one variant that does something to the gradient: rule(G, step, flow)."""

    def altered(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance = base(flow, step)
        return replace(guidance, gradient=rule(guidance.gradient, step, flow))

    return ruled(altered)


def estimator_kernels(
    by: Callable[[GuidedFlow, DenoisingStep], Mapping[Any, Any]],
) -> Mapping[str, Change]:
    """The one variant that substitutes kernels inside the estimator."""

    def altered(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        kernels = Substituted(flow.kernels, by(flow, step))
        return base(replace(flow, kernels=kernels), step)

    return ruled(altered)


def drift_rule(
    rule: Callable[[Array, Array, Any, DenoisingStep, GuidedFlow], Array],
) -> Mapping[str, Change]:
    """The one variant that makes the drift otherwise: rule(v, G, w, step, flow) → (B, D)."""

    def drift(flow: GuidedFlow, step: DenoisingStep, gradient: Array) -> Array:
        return rule(step.velocity, gradient, step.weight, step, flow)

    return one(lambda port: port.with_scheme(drift=drift))
