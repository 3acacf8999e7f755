"""All mistakes, in the order in which they are made: parameters first, then what runs them."""

from __future__ import annotations

from typing import NamedTuple

from qgf_ref.crosscheck.sampler.mistakes.actors import ACTORS, FLOWS, SHARED
from qgf_ref.crosscheck.sampler.mistakes.base import (
    QUERY_ONLY,
    Mistake,
    offset_variant,
    offsets_of,
)
from qgf_ref.crosscheck.sampler.mistakes.convention import CLAMPS, CONVENTION, OF_FLOWS
from qgf_ref.crosscheck.sampler.mistakes.goals import GOALS, guides_online
from qgf_ref.crosscheck.sampler.mistakes.gradient import AGGREGATION, FACTORS, GRADIENT
from qgf_ref.crosscheck.sampler.mistakes.methods import METHODS
from qgf_ref.crosscheck.sampler.mistakes.network_options import NETWORK_OPTIONS
from qgf_ref.crosscheck.sampler.mistakes.networks import NETWORKS
from qgf_ref.crosscheck.sampler.mistakes.options import OPTIONS
from qgf_ref.crosscheck.sampler.mistakes.parameters import PARAMETERS
from qgf_ref.crosscheck.sampler.mistakes.query import QUERY
from qgf_ref.crosscheck.sampler.mistakes.time import TIME
from qgf_ref.crosscheck.sampler.mistakes.update import SELECTION, UPDATE
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.errors import unknown_name
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.ops.time_embedding import DIM

BANK: tuple[Mistake, ...] = (
    *PARAMETERS,
    *NETWORKS,
    *TIME,
    *QUERY,
    *AGGREGATION,
    *GRADIENT,
    *UPDATE,
    *SELECTION,
)
NO_OFFSET = offset_variant((0,) * (DIM // 2))
INSIDE = ("critic-online", "best-of-online", "gradient-of-observation")
"""Mistakes outside the area "network" that need a look inside the networks, as do those of the time
embedding."""
_OTHERS = (
    *CONVENTION, *CLAMPS, *METHODS, *FACTORS, *FLOWS, *ACTORS, *OPTIONS, *NETWORK_OPTIONS, *GOALS
)  # fmt: skip
_BY_NAME = {m.name: m for m in (*BANK, *_OTHERS)}
_POSITION = {name: i for i, name in enumerate(_BY_NAME)}


class Made(NamedTuple):
    """A mistake as a port makes it: its name, and which variant."""

    name: str
    variant: str

    @property
    def mistake(self) -> Mistake:
        """The entry of the bank."""
        return mistake(self.name)

    @property
    def harmless(self) -> bool:
        """Whether it is another library's rounding rather than a mistake."""
        m = self.mistake
        return m.harmless > 0 and max(map(abs, offsets_of(self.variant)), default=0) <= m.harmless

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name


Mistakes = tuple[Made, ...]
"""What a hypothesis says of a port: nothing, one mistake, or several."""


def mistake(name: str) -> Mistake:
    """The mistake of this name. Raises InputError, listing the names, on another."""
    if name not in _BY_NAME:
        raise unknown_name("mistake", name, mistake_names())
    return _BY_NAME[name]


def mistake_names() -> tuple[str, ...]:
    """The names of the bank, in its order."""
    return tuple(m.name for m in BANK)


def with_mistakes(port: Port, made: Mistakes) -> Port:
    """`port` with these mistakes, made in the order of the bank whatever order they come in."""
    for item in sorted(made, key=lambda item: _POSITION[item.name]):
        port = item.mistake.made_in(item.variant, port)
    return port


def looks_inside(mistake: Mistake) -> bool:
    """Whether it changes what a network computes, which only our own can be made to."""
    return mistake.area == "network" or _of_embedding(mistake) or mistake.name in INSIDE


def _of_embedding(mistake: Mistake) -> bool:
    return mistake.name.startswith("time-") and mistake.name != "time-index"


def candidates(port: Port, best_of: int = 1) -> tuple[Made, ...]:
    """Every mistake that the port's options leave room for, in every variant.

    Of somebody's networks those that do not look inside.
    """
    if port.chain is not None:
        return _of_chain(port)
    known = (*BANK, *METHODS, *CONVENTION, *CLAMPS, *FLOWS, *OPTIONS, *NETWORK_OPTIONS, *GOALS)
    bank = [m for m in known if not (looks_inside(m) if port.opaque else m.name in OF_FLOWS)]
    if guides_online(port):  # its own say so
        bank = [m for m in bank if m.name not in ("critic-online", "best-of-online")]
    if not port.opaque and not port.embeds_time:
        bank = [m for m in bank if not _of_embedding(m)]
    return tuple(
        Made(m.name, variant)
        for m in bank
        if m.applies(port) and (best_of > 1 or not m.selects)
        for variant in (tuple(m.variants) or (NO_OFFSET,))
        if _concerns(m, variant, port.only)
    )


def _of_chain(port: Port) -> tuple[Made, ...]:
    """Those of an agent without a flow, and what it may share with flows, in its actor alone."""
    bank = [m for m in ACTORS if m.applies(port)]
    shared = [_BY_NAME[n] for n, has in SHARED.items() if has(port) and _BY_NAME[n].applies(port)]
    return tuple(
        Made(m.name, variant)
        for m in (*shared, *bank)
        for variant in m.variants
        if variant not in ("in policy and critic", "in the critic only")
    )


_AREAS_OF = {
    "critic": ("network", "aggregation", "gradient", "batch"),
    "policy": ("network", "time"),
}
_OTHER = {"critic": "policy", "policy": "critic"}


def _concerns(mistake: Mistake, variant: str, only: str) -> bool:
    """Whether a check of one network alone ("": of a sampler) can be about it."""
    if not only:
        return True
    other = _OTHER[only]
    elsewhere = variant in ("in policy and critic", f"in the {other} only")
    known = mistake.area in _AREAS_OF[only] or mistake.name in (f"{only}-online", f"{only}-target")
    return known and not elsewhere and not mistake.name.startswith(f"{other}-")


def first_quantity(made: Made) -> int:
    """Position in `CAUSAL` of the first quantity that this variant can change.

    The state `a` counts as after `g`: an update's mistake shows in the state that follows.
    """
    m = made.mistake
    if made.variant == "in the critic only":
        return order("q")
    return order("a1_hat" if made.variant == QUERY_ONLY else m.first)


def order(quantity: str) -> int:
    """Causal position within a step: v, a1_hat, q, g, then the state that follows, the action."""
    return CAUSAL.index(quantity)
