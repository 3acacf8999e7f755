"""Mistakes in the order of options: all commute but a norm with those that shorten G.

`qgf+prefix=2/5+norm=1` is the prefix's norm, `qgf+norm=1+prefix=2/5` the prefix of what is clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qgf_ref.crosscheck.sampler.mistakes.base import Applies, Change, Mistake, one
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.options.base import Wrapped
from qgf_ref.guidance.options.interval import Interval
from qgf_ref.guidance.options.norm import NormClipped


def _options(estimator: Any) -> tuple[list[Any], Any]:
    """The options round an estimator, the innermost first, and what is within."""
    options: list[Any] = []
    while isinstance(estimator, Wrapped):
        options.insert(0, estimator)
        estimator = estimator.base
    return options, estimator


def _norm_at(end: int) -> Mapping[str, Change]:
    """The norm in another place among the options: 0 the innermost, -1 the outermost."""

    def change(port: Port) -> Port:
        options, estimator = _options(port.estimator)
        norms = [option for option in options if isinstance(option, NormClipped)]
        others = [option for option in options if not isinstance(option, NormClipped)]
        for option in (*norms, *others) if end == 0 else (*others, *norms):
            estimator = replace(option, base=estimator)
        return replace(port, estimator=estimator)

    return one(change)


def _has_others(inside: bool) -> Applies:
    """Whether options that shorten G are written before the norm (inside of it), or after it."""

    def applies(port: Port) -> bool:
        kinds = [type(o) for o in _options(port.estimator)[0] if not isinstance(o, Interval)]
        if NormClipped not in kinds:
            return False
        return kinds[0 if inside else -1] is not NormClipped

    return applies


FIRST = "the option that is written first comes first, prefix=n/H+norm=c is the norm of the prefix"
ORDER: tuple[Mistake, ...] = (
    Mistake("norm-before-options", "options", "g",
            f"G is clipped before the other options: {FIRST}", _norm_at(0), _has_others(True)),
    Mistake("norm-after-options", "options", "g",
            f"what the other options leave of G is clipped: {FIRST}", _norm_at(-1),
            _has_others(False)),
)  # fmt: skip
