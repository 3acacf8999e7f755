"""What an audit could check of each estimator; of one without a formula, what it resembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.definitions import has_definition
from qgf_ref.audit.on_engine import REFERENCE, gradient_at
from qgf_ref.backends.engine import Engine
from qgf_ref.checks import Check
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.relations import Difference, relation

SAME = 1e-4
"""Relative; a user's function may compute in float32, where the time embedding alone costs 1e-4."""
MOST = 0.5
"""Share of the states from which "on n of N" says something."""
KINDS = ("definition", "potential")


@dataclass(frozen=True)
class Coverage:
    """What was checked of one estimator's G: "definition", "potential"; none: nothing was.

    unchecked  what was not, and why
    resembles  of an estimator of which nothing was checked: a sentence on the registered ones
    """

    checked: tuple[str, ...]
    unchecked: dict[str, str]
    resembles: str = ""


def coverage(
    flow: GuidedFlow,
    chain: ChainGradients,
    estimators: list[Estimator],
    checks: list[Check],
    engine: Engine = REFERENCE,
    chunk: tuple[int, int] = (1, 1),
) -> dict[str, Coverage]:
    """Label → what was checked; estimators without a formula are compared at all of the states.

    chunk  (H, A)
    """
    names, result = {check.name for check in checks}, {}
    for e in estimators:
        checked = tuple(kind for kind in KINDS if f"estimator {e.label} ({kind})" in names)
        reasons = {
            "definition": "registers none" if not has_definition(e) else "",
            "potential": "declares none",
        }
        unchecked = {kind: reasons[kind] for kind in KINDS if kind not in checked}
        sentence = "" if checked else resemblance(e, flow, chain, engine, chunk)
        result[e.label] = Coverage(checked, unchecked, sentence)
    return result


def resemblance(
    estimator: Estimator,
    flow: GuidedFlow,
    chain: ChainGradients,
    engine: Engine = REFERENCE,
    chunk: tuple[int, int] = (1, 1),
) -> str:
    """Whether G is a registered estimator's, its multiple, that at most of the states, or another
    relation of it (`qgf_ref.relations`).
    """
    own, others = chain.gradients[estimator.label], dict[str, Array]()
    for name in learned_estimator_names():
        if name != "none":
            try:
                others[name] = _registered(name, flow, chain, engine)
            except InputError:  # its network is not here
                continue
    if not own.any():
        return "is zero"
    likes = {name: compared(own, other, name) for name, other in others.items()}
    best = max(like.share for like in likes.values())
    if best:
        first, *also = [n for n, like in likes.items() if like.share == best]
        return likes[first].text + (f" (the same here: {', '.join(also)})" if also else "")
    cosines = {name: _cosine(own, other) for name, other in others.items()}
    by_cosine = sorted(cosines, key=lambda name: -abs(cosines[name]))
    for name in by_cosine:
        if says := related(own, others[name], name, flow.times, chunk):
            return f"equals no registered estimator; beside {name}, {says}"
    nearest = by_cosine[0]
    return f"equals no registered estimator; nearest: {nearest}, cosine {cosines[nearest]:.3f}"


def related(
    own: Array, other: Array, name: str, times: Sequence[float], chunk: tuple[int, int] = (1, 1)
) -> str:
    """A sentence on G (T, B, D) of `own` beside that of `other`, called `name`; "" if none fits."""
    size = np.maximum(*(np.sqrt(np.mean(x * x, axis=(1, 2))) for x in (own, other)))
    steps, of_steps = np.arange(len(own)), np.array(times[: len(own)])
    says = relation(Difference("g", own, other, SAME * size, steps, of_steps, chunk)) or ""
    return says.replace("theirs", "it").replace("the reference's", f"{name}'s")


class Likeness(NamedTuple):
    """A sentence, and the share of the states of which it is true; less where it says less."""

    share: float
    text: str = ""


def compared(own: Array, other: Array, name: str) -> Likeness:
    """ "is qgf", "is minus qgf", "is qgf times 0.5 on 60 of 64 rows", … of G (T, B, D).

    With one factor for all states, else one for each step, else one for each state; a share of 0
    when none holds of at least MOST of the states.
    """
    squared = (other * other).sum(axis=-1)
    factor = np.divide(
        (own * other).sum(axis=-1), squared, out=np.full(squared.shape, np.nan), where=squared > 0
    )
    if not np.isfinite(factor).any() or not np.nan_to_num(factor).any():
        return Likeness(0)
    one = float(np.nanmedian(factor))
    same = _same(own, one * other)
    if same.mean() >= MOST:
        return Likeness(same.mean(), f"is {_times(one, name)}{_where(same)}")
    each = np.array([np.median(f[np.isfinite(f)]) if np.isfinite(f).any() else 0 for f in factor])
    same = _same(own, each[:, None, None] * other)
    if same.mean() >= MOST:
        text = f"is {name} times {each[0]:.3g} at the first step to {each[-1]:.3g} at the last"
        return Likeness(0.99 * same.mean(), text + _where(same))
    state = np.nan_to_num(factor)
    same = _same(own, state[..., None] * other)
    if same.mean() >= MOST:
        least, most = state[same].min(), state[same].max()
        text = f"has the direction of {name}, its length times {least:.3g} to {most:.3g}"
        return Likeness(0.98 * same.mean(), text + _where(same))
    return Likeness(0)


def _same(x: Array, y: Array) -> Array:
    """Which states (T, B) agree."""
    size = np.maximum(np.linalg.norm(x, axis=-1), np.linalg.norm(y, axis=-1))
    return np.asarray(np.linalg.norm(x - y, axis=-1) <= SAME * size)


def _times(factor: float, name: str) -> str:
    if abs(abs(factor) - 1) <= SAME:
        return f"minus {name}" if factor < 0 else name
    return f"{name} times {factor:.4g}"


def _where(same: Array) -> str:
    """ " on 60 of 64 rows" of those that are the same at all steps, or the like; "" if all are."""
    rows, steps = np.asarray(same.all(axis=0)), np.asarray(same.all(axis=1))
    if same.all():
        return ""
    if (same == rows).all():
        return f" on {rows.sum()} of {rows.size} rows"
    if (same == steps[:, None]).all():
        return f" at {steps.sum()} of {steps.size} steps"
    return f" at {same.sum()} of {same.size} states (steps × rows)"


def _cosine(x: Array, y: Array) -> float:
    return float(np.vdot(x, y) / ((np.linalg.norm(x) * np.linalg.norm(y)) or 1.0))


def _registered(name: str, flow: GuidedFlow, chain: ChainGradients, engine: Engine) -> Array:
    """G (T, B, D) of a registered estimator; raises InputError where its network is missing."""
    if name in chain.gradients:
        return chain.gradients[name]
    e = estimator_by_name(name)
    return np.stack(
        [gradient_at(e, flow, s.index, s.obs, s.action, s.weight, engine) for s in chain.states]
    )
