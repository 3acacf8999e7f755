"""Mistakes of guidance as it is deployed: the options that stand behind an estimator's name.

They apply to ports that mean to have the option, `qgf+norm=1`, and change it alone, wherever it
stands among others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import Change, Mistake, one
from qgf_ref.crosscheck.sampler.mistakes.option_order import ORDER
from qgf_ref.crosscheck.sampler.port import Altered, Port
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped, with_gradient
from qgf_ref.guidance.options.gate import Gated
from qgf_ref.guidance.options.interval import SLACK, Interval
from qgf_ref.guidance.options.norm import EPSILON, NormClipped
from qgf_ref.guidance.options.part import Prefix, RealDimensions
from qgf_ref.guidance.options.schedule import Scheduled

Kind = type[Wrapped]
OptionRule = Callable[[Any, GuidedFlow, DenoisingStep, Guidance], Array]
"""(the option, flow, step, its base's answer) → G."""


def option_of(estimator: Any, kind: Kind) -> Any:
    """The outermost option of this kind in an estimator, or None."""
    while estimator is not None and not isinstance(estimator, kind):
        estimator = getattr(estimator, "base", None)
    return estimator


def _has(kind: Kind) -> Callable[[Port], bool]:
    return lambda port: option_of(port.estimator, kind) is not None


def _within(estimator: Estimator, kind: Kind, change: Callable[[Any], Estimator]) -> Estimator:
    if isinstance(estimator, kind):
        return change(estimator)
    inside = _within(estimator.base, kind, change)  # type: ignore[attr-defined]
    return replace(estimator, base=inside)  # type: ignore[type-var]


def _in_place(
    kind: Kind, rule: Callable[[Any, GuidedFlow, DenoisingStep], Guidance]
) -> Mapping[str, Change]:
    """The one variant in which the option of this kind answers otherwise."""

    def change(port: Port) -> Port:
        if option_of(port.estimator, kind) is None:
            return port  # another mistake has taken its place

        def altered(option: Any) -> Estimator:
            # the option itself, also where another mistake of it has been made inside
            return Altered(option, lambda base, flow, step: rule(option, flow, step))

        return replace(port, estimator=_within(port.estimator, kind, altered))

    return one(change)


def _gradient(kind: Kind, rule: OptionRule) -> Mapping[str, Change]:
    """The option asks its base as ever and makes something else of the G."""

    def answer(option: Any, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance = option.base(flow, step)
        return with_gradient(guidance, rule(option, flow, step, guidance))

    return _in_place(kind, answer)


def _ignored(kind: Kind) -> Mapping[str, Change]:
    return _in_place(kind, lambda option, flow, step: option.base(flow, step))


def _length(x: Array) -> Array:
    return np.sqrt((x * x).sum(axis=-1, keepdims=True))


def _shrunk(option: NormClipped, g: Array, length: Array) -> Array:
    return g * np.minimum(1, option.max_norm / (length + EPSILON)).astype(g.dtype)


def _by_action(port: Port) -> Port:
    H, A = port.horizon, port.action_dim

    def rule(option: Any, flow: GuidedFlow, step: DenoisingStep, guidance: Guidance) -> Array:
        parts = guidance.gradient.reshape(-1, H, A)
        return _shrunk(option, parts, _length(parts)).reshape(len(parts), -1)

    return _gradient(NormClipped, rule)[""](port)


C = "norm=c is G·min(1, c/‖G‖), each row by its own norm over the flat chunk"
NORM: tuple[Mistake, ...] = (
    Mistake("norm-ignored", "options", "g", f"nothing is clipped: {C}", _ignored(NormClipped),
            _has(NormClipped)),
    Mistake("norm-of-weighted", "options", "g",
            f"w·G is clipped to c, and not G, which w multiplies after it: {C}",
            _gradient(NormClipped, lambda o, flow, s, a: _shrunk(
                o, a.gradient, _length(s.weight * a.gradient))), _has(NormClipped)),
    Mistake("norm-of-batch", "options", "g",
            f"one norm of the whole batch clips all its rows (torch.nn.utils.clip_grad_norm_): {C}",
            _gradient(NormClipped, lambda o, flow, s, a: _shrunk(
                o, a.gradient, np.sqrt((a.gradient**2).sum()))), _has(NormClipped), coupled=True),
    Mistake("norm-by-action", "options", "g",
            f"every action of a chunk is clipped by itself: {C}", one(_by_action),
            lambda port: _has(NormClipped)(port) and port.horizon > 1),
    Mistake("norm-by-element", "options", "g", f"every element is clipped to ±c: {C}",
            _gradient(NormClipped, lambda o, flow, s, a: np.clip(
                a.gradient, -o.max_norm, o.max_norm)), _has(NormClipped)),
    Mistake("norm-always", "options", "g", f"G is made c long also where it is shorter: {C}",
            _gradient(NormClipped, lambda o, flow, s, a: a.gradient * (
                o.max_norm / (_length(a.gradient) + EPSILON)).astype(a.gradient.dtype)),
            _has(NormClipped)),
    *ORDER,
)  # fmt: skip


def _guided_where(where: Callable[[Any, float, float], bool]) -> Mapping[str, Change]:
    """Guidance where where(option, t, 1/T)."""

    def answer(option: Any, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        if where(option, step.time, 1 / flow.denoise_steps):
            guidance: Guidance = option.base(flow, step)
            return guidance
        return Guidance(np.zeros_like(step.action))

    return _in_place(Interval, answer)


def _closed(o: Any, t: float) -> bool:
    return bool(o.low - SLACK <= t <= o.high + SLACK)


LOW_HIGH = "interval=low,high guides where low ≤ t ≤ high, and t = 0 is noise"
INTERVAL: tuple[Mistake, ...] = (
    Mistake("interval-ignored", "options", "g", f"every step is guided: {LOW_HIGH}",
            _ignored(Interval), _has(Interval)),
    Mistake("interval-reversed", "options", "g",
            f"the interval is of 1 − t, a time that counts from the action: {LOW_HIGH}",
            _guided_where(lambda o, t, dt: _closed(o, 1 - t)), _has(Interval)),
    Mistake("interval-outside", "options", "g", f"guided where it should not be: {LOW_HIGH}",
            _guided_where(lambda o, t, dt: not _closed(o, t)), _has(Interval)),
    Mistake("interval-of-next-step", "options", "g",
            f"the time after the step is looked up, t + 1/T: {LOW_HIGH}",
            _guided_where(lambda o, t, dt: _closed(o, t + dt)), _has(Interval)),
    Mistake("interval-open", "options", "g", f"an end does not belong to it: {LOW_HIGH}",
            {
                "the upper one": _guided_where(
                    lambda o, t, dt: _closed(o, t) and t < o.high - SLACK)[""],
                "the lower one": _guided_where(
                    lambda o, t, dt: _closed(o, t) and t > o.low + SLACK)[""],
                "both": _guided_where(lambda o, t, dt: o.low + SLACK < t < o.high - SLACK)[""],
            }, _has(Interval)),
)  # fmt: skip


def _by_factor(factor: Callable[[Any, float, float], float]) -> Mapping[str, Change]:
    """w·s in place of w with s = factor(option, t, 1/T)."""

    def answer(option: Any, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        s = factor(option, step.time, 1 / flow.denoise_steps)
        guidance = option.base(flow, replace(step, weight=s * step.weight))
        return with_gradient(guidance, (s * guidance.gradient).astype(step.action.dtype))

    return _in_place(Scheduled, answer)


def _is_rtc(port: Port) -> bool:
    option = option_of(port.estimator, Scheduled)
    return option is not None and option.shape == "rtc"


S = "schedule=s is w·s(t) in place of w, at the t of the step, t = 0 being noise"
SCHEDULE: tuple[Mistake, ...] = (
    Mistake("schedule-ignored", "options", "g", f"w is the same at every step: {S}",
            _ignored(Scheduled), _has(Scheduled)),
    Mistake("schedule-reversed", "options", "g",
            f"s(1 − t), of a time that counts from the action: {S}",
            _by_factor(lambda o, t, dt: o.factor(1 - t)), _has(Scheduled)),
    Mistake("schedule-of-next-step", "options", "g", f"s(t + 1/T): {S}",
            _by_factor(lambda o, t, dt: o.factor(t + dt)), _has(Scheduled)),
    Mistake("schedule-twice", "options", "g",
            f"s(t)², once in the weight and once more in the gradient: {S}",
            _by_factor(lambda o, t, dt: o.factor(t) ** 2), _has(Scheduled)),
    Mistake("schedule-rtc-without-variance", "options", "g",
            "min(β, (1 − t)/t): the prefix weight of real-time chunking divides by r² = "
            "(1 − t)²/(t² + (1 − t)²) as well",
            _by_factor(lambda o, t, dt: min(o.number, (1 - t) / t) if t > 0 else o.number),
            _is_rtc),
)  # fmt: skip


def _gated(gate: Callable[[Any, Array], Array]) -> OptionRule:
    """γ·G with γ (B,) = gate(option, q)."""

    def rule(option: Any, flow: GuidedFlow, step: DenoisingStep, guidance: Guidance) -> Array:
        if guidance.q is None:  # not asked at this time
            return guidance.gradient
        factor = gate(option, guidance.q)[:, None]
        gated: Array = guidance.gradient * factor.astype(guidance.gradient.dtype)
        return gated

    return rule


def _gate(option: Any, sigma: Array) -> Array:
    soft: Array = option.threshold / (option.threshold + sigma)
    return soft if option.soft else (sigma < option.threshold).astype(float)


def _other_kind(option: Any, q: Array) -> Array:
    return _gate(replace(option, soft=not option.soft), q.std(axis=0))


def _of_batch(option: Any, q: Array) -> Array:
    return _gate(option, np.full(q.shape[1], q.std(axis=0).mean()))


SIGMA = "gate=c guides where σ < c, the members' standard deviation over E at the query point"
GATE: tuple[Mistake, ...] = (
    Mistake("gate-ignored", "options", "g", f"every row is guided: {SIGMA}", _ignored(Gated),
            _has(Gated)),
    Mistake("gate-reversed", "options", "g", f"guided where the members disagree: {SIGMA}",
            _gradient(Gated, _gated(lambda o, q: 1 - _gate(o, q.std(axis=0)))), _has(Gated)),
    Mistake("gate-unbiased", "options", "g",
            f"σ divides by E − 1 (torch.std's default): {SIGMA}",
            _gradient(Gated, _gated(lambda o, q: _gate(o, q.std(axis=0, ddof=1)))), _has(Gated)),
    Mistake("gate-of-variance", "options", "g", f"σ² is compared with c: {SIGMA}",
            _gradient(Gated, _gated(lambda o, q: _gate(o, q.var(axis=0)))), _has(Gated)),
    Mistake("gate-of-batch", "options", "g",
            f"the batch's mean σ decides for all its rows: {SIGMA}",
            _gradient(Gated, _gated(_of_batch)), _has(Gated), coupled=True),
    Mistake("gate-hard-or-soft", "options", "g",
            f"c/(c + σ) where all or nothing is meant, or the other way round: {SIGMA}",
            _gradient(Gated, _gated(_other_kind)), _has(Gated)),
)  # fmt: skip


def _on_columns(
    kind: Kind, columns: Callable[[Any, int], tuple[int, ...] | list[int]]
) -> Mapping[str, Change]:
    def rule(option: Any, flow: GuidedFlow, step: DenoisingStep, guidance: Guidance) -> Array:
        kept = np.zeros_like(guidance.gradient)
        here = list(columns(option, kept.shape[1]))
        kept[:, here] = guidance.gradient[:, here]
        return kept

    return _gradient(kind, rule)


def _mirrored(option: Any, width: int) -> list[int]:
    """The last ones in place of the first: of a chunk, or of each action."""
    actions = option.among if isinstance(option, Prefix) else width // option.among
    grid = np.arange(width).reshape(actions, -1)
    last = grid[-option.first :] if isinstance(option, Prefix) else grid[:, -option.first :]
    return [int(i) for i in last.ravel()]


def _more(by: int, option: Any, width: int) -> tuple[int, ...]:
    columns: tuple[int, ...] = replace(option, first=option.first + by).columns(width)
    return columns


def _part_mistakes(kind: Kind, word: str, says: str) -> tuple[Mistake, ...]:
    def others(by: int) -> Callable[[Port], bool]:
        def applies(port: Port) -> bool:
            option = option_of(port.estimator, kind)
            # one more of all but one is all
            return option is not None and 1 <= option.first + by < option.among

        return applies

    return (
        Mistake(f"{word}-ignored", "options", "g", f"all is guided: {says}", _ignored(kind),
                _has(kind)),
        Mistake(f"{word}-last", "options", "g", f"the last ones are guided: {says}",
                _on_columns(kind, _mirrored), _has(kind)),
        Mistake(f"{word}-one-more", "options", "g", f"n + 1 are guided: {says}",
                _on_columns(kind, partial(_more, 1)), others(1)),
        Mistake(f"{word}-one-less", "options", "g", f"n − 1 are guided: {says}",
                _on_columns(kind, partial(_more, -1)), others(-1)),
    )  # fmt: skip


OPTIONS: tuple[Mistake, ...] = (
    *NORM, *INTERVAL, *SCHEDULE, *GATE,
    *_part_mistakes(Prefix, "prefix", "prefix=n/H guides the first n actions of a chunk"),
    *_part_mistakes(RealDimensions, "real", "real=n/A is the first n dimensions of each action"),
)  # fmt: skip
"""Beside the bank, which is of estimators as the paper has them."""
