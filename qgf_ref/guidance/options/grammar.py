"""Options as they are written behind an estimator's name: "qgf+interval=0.2,0.8+norm=1"."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.options.base import Wrapped
from qgf_ref.guidance.options.gate import Gated
from qgf_ref.guidance.options.interval import Interval
from qgf_ref.guidance.options.norm import NormClipped
from qgf_ref.guidance.options.part import Prefix, RealDimensions
from qgf_ref.guidance.options.schedule import SHAPES, Scheduled


class Option(NamedTuple):
    """How an option is written (the word, what follows =), what it does, and what makes it.

    make  estimator, text after = → the wrapped estimator; ValueError on a text of another form
    """

    word: str
    value: str
    summary: str
    make: Callable[[Estimator, str], Wrapped]


def _interval(base: Estimator, text: str) -> Wrapped:
    low, high = text.split(",")
    return Interval(base, float(low), float(high))


def _schedule(base: Estimator, text: str) -> Wrapped:
    shape, comma, number = text.partition(",")
    return Scheduled(base, shape, float(number) if comma else None)


def _gate(base: Estimator, text: str) -> Wrapped:
    threshold, comma, soft = text.partition(",")
    if comma and soft != "soft":
        raise ValueError
    return Gated(base, float(threshold), bool(comma))


def _part(kind: type[Prefix] | type[RealDimensions]) -> Callable[[Estimator, str], Wrapped]:
    def make(base: Estimator, text: str) -> Wrapped:
        first, among = text.split("/")
        return kind(base, int(first), int(among))

    return make


OPTIONS = {
    option.word: option
    for option in (
        Option("norm", "c", "G·min(1, c/(‖G‖ + 1e-6)), each row by its own norm",
               lambda base, text: NormClipped(base, float(text))),
        Option("interval", "low,high", "G where low ≤ t ≤ high, else 0; t = 0 is noise", _interval),
        Option("schedule", "shape[,number]", f"w·s(t) in place of w; s: {', '.join(SHAPES)}",
               _schedule),
        Option("gate", "c[,soft]", "G where the members' std σ < c, else 0; soft: c/(c + σ)·G",
               _gate),
        Option("prefix", "n/H", "G of the first n of a chunk's H actions, else 0", _part(Prefix)),
        Option("real", "k/A", "G of the first k of each action's A dimensions, else 0",
               _part(RealDimensions)),
    )
}  # fmt: skip
"""The options by the word that they begin with."""


def with_options(base: Estimator, texts: list[str]) -> Estimator:
    """The estimator with each "word=value" round it, the first innermost.

    Raises InputError on an unknown word (listing those there are), or a value of another form.
    """
    for text in texts:
        word, equals, value = text.partition("=")
        if word not in OPTIONS:
            raise unknown_name("option of an estimator", word, OPTIONS)
        option = OPTIONS[word]
        try:
            base = option.make(base, value)
        except InputError:
            raise
        except ValueError:
            got = f"{word}={value}" if equals else word
            raise InputError(f"expected {word}={option.value}, got {got!r}") from None
    return base
