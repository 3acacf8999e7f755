"""Which mistake reproduces a training step that disagrees? Found by simulating every one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.crosscheck.update.mistake import TrainingMistake, combined
from qgf_ref.crosscheck.update.rounding import Truth, exact, size, truth
from qgf_ref.crosscheck.update.runs import TrainingCase
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.progress import watched

LIMIT = 5.0
"""Largest error, in units of the largest of our own runs' errors, that rounding explains.

Measured: 1.4 (the official float32 steps of the golden files, after 1 and 5 updates), 2.3 (the JAX
peer on twenty architectures, losses, gradients and up to 4 updates), 1.0 (independent losses and
gradients in float64). 2.2 times the largest of these.
"""
SEEN = 1.5 * LIMIT
"""A mistake of this size is seen: a port's own rounding, half a limit at most, cannot hide it."""
SCREEN = 100.0
"""A mistake this many limits away from losses or gradients need not have its rounding measured."""
PAIRS = 300
"""At most this many pairs are simulated."""


Candidate = tuple[tuple[TrainingMistake, ...], Recipe]


@dataclass(frozen=True)
class Fit:
    """A mistake, or a pair, and its largest error in units of rounding."""

    mistakes: tuple[TrainingMistake, ...]
    ratio: float

    @property
    def name(self) -> str:
        """The names, joined by " + "."""
        return " + ".join(m.name for m in self.mistakes)


MEANT = {
    "learning-rate-1e-3": "If you train so, say it: hyper=Hyperparameters(learning_rate=1e-3).",
    "discount-without-horizon": "If you train so, say it: hyper=Hyperparameters(horizon=1).",
    "value-other-aggregation": "If the checkpoint was trained so, its option is wrong, not your "
    "step: q_aggregation, as in load(…, q_aggregation='mean').",
}
"""Mistake → what is to be given where it is none."""


@dataclass(frozen=True)
class TrainingDiagnosis:
    """What explains a disagreement.

    fits       every mistake that reproduces all given quantities, best first; pairs if no single
               one does. More than one: ambiguous
    separators quantities that would tell the fits apart, if any do
    nearest    if nothing fits: the mistake that reproduces most quantities, and which, if it
               reproduces more than the official step does
    given      how many quantities were compared
    """

    fits: tuple[Fit, ...]
    separators: tuple[str, ...]
    nearest: tuple[TrainingMistake, tuple[str, ...]] | None
    given: int

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        if not self.fits:
            yield "diagnosis: unknown; no mistake of the bank, and no pair, reproduces this step"
            if self.nearest:
                mistake, reproduced = self.nearest
                yield from wrapped(
                    f"nearest: {mistake.name}, which reproduces {len(reproduced)} of {self.given} "
                    f"quantities ({', '.join(reproduced)}). {mistake.says}"
                )
            yield from wrapped(
                "If the networks themselves have not been compared yet, start there: the sampler's "
                "cross-check names mistakes in them."
            )
            return
        several = len(self.fits) > 1
        name = f"ambiguous, one of {len(self.fits)}" if several else self.fits[0].name
        yield f"diagnosis: {name}"
        for fit in self.fits:
            text = " ".join(m.says for m in fit.mistakes)
            yield from wrapped(f"{fit.name}: {text}" if several else text)
            for line in (MEANT[m.name] for m in fit.mistakes if m.name in MEANT):
                yield from wrapped(line)
        worst = max(fit.ratio for fit in self.fits)
        yield from wrapped(
            f"{'Each' if several else 'It'} reproduces all {self.given} quantities given, within "
            f"{worst:.1f} times rounding."
        )
        if several:
            yield from wrapped(
                f"To tell them apart, return {' or '.join(self.separators)} as well."
                if self.separators
                else "On this batch and with these hyperparameters they compute the same."
            )


def diagnose(
    case: TrainingCase,
    theirs: Mapping[str, Any],
    reference: Truth,
    precision: str,
    embedding: Precision,
    show: bool = False,
) -> TrainingDiagnosis:
    """The mistakes that explain `theirs`, which disagrees with the `reference`. show: progress."""
    every = case.bank.mistakes
    singles = [((m,), m.recipe) for m in every]
    alone = watched(singles, "simulating mistakes", show)
    fits = _fits(alone, case, theirs, reference, precision, embedding)
    nearest = None
    if not fits and all(np.isfinite(size(value)) for value in theirs.values()):
        simulated = {
            m: exact(m.recipe, case, precision, embedding)
            for m in watched(every, "simulating their updates", show)
        }
        pairs = watched(_pairs(theirs, reference, simulated), "simulating pairs", show)
        fits = _fits(pairs, case, theirs, reference, precision, embedding)
        nearest = None if fits else _nearest(theirs, reference, simulated)
    separators = _separators(fits, case, theirs, precision, embedding) if len(fits) > 1 else ()
    return TrainingDiagnosis(fits, separators, nearest, len(theirs))


def unseen(
    case: TrainingCase,
    given: Iterable[str],
    reference: Truth,
    precision: str,
    embedding: Precision,
    show: bool = False,
) -> tuple[str, ...]:
    """The mistakes that the given quantities would not show on this case."""
    names = tuple(given)

    def shown(mistake: TrainingMistake) -> bool:
        simulated = exact(mistake.recipe, case, precision, embedding)
        return any(reference.ratio(name, simulated[name]) > SEEN for name in names)

    every = watched(case.bank.mistakes, "what would not show", show)
    return tuple(mistake.name for mistake in every if not shown(mistake))


def _fits(
    candidates: Iterable[Candidate],
    case: TrainingCase,
    theirs: Mapping[str, Any],
    reference: Truth,
    precision: str,
    embedding: Precision,
) -> tuple[Fit, ...]:
    fits = []
    # losses and gradients, which most mistakes show, need no updates to be simulated
    first = replace(case, updates=0)
    early = [name for name in theirs if not name.startswith("params/")]
    for mistakes, recipe in candidates:
        start = case if recipe.in_turn else first
        simulated = exact(recipe, start, precision, embedding) if early else {}
        near = all(
            _ratio(reference, name, theirs[name], simulated[name]) <= SCREEN * LIMIT
            for name in early
        )
        if not near:
            continue
        at = truth(recipe, case, precision, embedding)
        worst = max(at.ratio(name, value) for name, value in theirs.items())
        if worst <= LIMIT:
            fits.append(Fit(mistakes, worst))
    return tuple(sorted(fits, key=lambda fit: fit.ratio))


def _ratio(reference: Truth, name: str, theirs: Any, simulated: Any) -> float:
    """‖theirs − simulated‖ in units of the reference's rounding, scaled to the larger result."""
    scale, own = (size(value) for value in (simulated, reference.values[name]))
    unit = reference.rounding[name] * max(1.0, scale / own if own else 1.0)
    unit = unit or scale * np.finfo(np.float32).eps
    error = replace(reference, values={name: simulated}).error(name, theirs)
    return error / unit if unit else (0.0 if error == 0 else float("inf"))


def _pairs(
    theirs: Mapping[str, Any],
    reference: Truth,
    simulated: Mapping[TrainingMistake, Mapping[str, Any]],
) -> list[Candidate]:
    """Pairs that may explain all: what only one of the two changes, it must reproduce alone."""
    touched, matched = {}, {}
    for mistake, values in simulated.items():
        touched[mistake] = {n for n in theirs if reference.ratio(n, values[n]) > LIMIT}
        matched[mistake] = {
            n for n in theirs if _ratio(reference, n, theirs[n], values[n]) <= SCREEN * LIMIT
        }
    wrong = {n for n in theirs if reference.ratio(n, theirs[n]) > LIMIT}
    pairs: list[Candidate] = []
    for a, b in combinations(simulated, 2):
        alone = {n: m for m, o in ((a, b), (b, a)) for n in touched[m] - touched[o]}
        possible = wrong <= touched[a] | touched[b] and all(
            n in matched[m] for n, m in alone.items() if not n.startswith("params/")
        )
        recipe = combined((a, b)) if possible and touched[a] and touched[b] else None
        if recipe is not None:
            pairs.append(((a, b), recipe))
    return pairs[:PAIRS]


def _separators(
    fits: tuple[Fit, ...],
    case: TrainingCase,
    theirs: Mapping[str, Any],
    precision: str,
    embedding: Precision,
) -> tuple[str, ...]:
    """What was not given and differs between any two of the fits; after updates if need be."""
    if not case.updates:
        twice = {name: np.repeat(a, 2, axis=0) for name, a in case.drawn.items()}
        case = replace(case, updates=2, drawn=twice)
    at = truth(case.bank.reference, case, precision, embedding)
    recipes = [combined(fit.mistakes) for fit in fits]
    values = [exact(recipe, case, precision, embedding) for recipe in recipes if recipe]
    return tuple(
        name
        for name in at.values
        if name not in theirs
        and any(
            replace(at, values=a).ratio(name, b[name]) > SEEN for a, b in combinations(values, 2)
        )
    )


def _nearest(
    theirs: Mapping[str, Any],
    reference: Truth,
    simulated: Mapping[TrainingMistake, Mapping[str, Any]],
) -> tuple[TrainingMistake, tuple[str, ...]] | None:
    def reproduced(values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(n for n in theirs if _ratio(reference, n, theirs[n], values[n]) <= LIMIT)

    best = max(simulated, key=lambda m: len(reproduced(simulated[m])))
    most = reproduced(simulated[best])
    return (best, most) if len(most) > len(reproduced(reference.values)) else None


def wrapped(text: str) -> list[str]:
    """Lines of at most 98 columns, indented by two."""
    return textwrap.wrap(
        text, 98, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
