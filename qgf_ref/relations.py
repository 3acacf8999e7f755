"""What one quantity is of the reference's: a multiple, an order, a lag, a combination.

Each relation is tried on the same footing: a prediction from the reference's numbers (and from
their earlier ones) that must give theirs to rounding. The first that does is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array

FEW = 10
"""Most numbers that a sentence lists."""
PER_NUMBER = 2
"""A relation with fitted numbers is told by so many of theirs for each."""


@dataclass(frozen=True)
class Difference:
    """theirs and the reference's truth (T', B·n, width) of one quantity, on its decided rows.

    limit    (T',) root mean square that rounding explains; steps  (T',) their k
    times    (T',) t; chunk  (H, A); about  other quantities of the same run and rows, by name, and
             what single members' gradients are, (E, T', B·n, D)
    """

    quantity: str
    theirs: Array
    truth: Array
    limit: Array
    steps: Array
    times: Array
    chunk: tuple[int, int] = (1, 1)
    about: dict[str, Array] = field(default_factory=dict)

    def is_(self, predicted: Array, start: int = 0) -> bool:
        """Whether a prediction gives theirs to rounding, from a step on."""
        error, size = (
            np.sqrt(np.mean(x[start:] ** 2, axis=(1, 2)))
            for x in (self.theirs - predicted, predicted)
        )
        usual = np.sqrt(np.mean(self.truth[start:] ** 2, axis=(1, 2)))
        larger = np.maximum(1, np.divide(size, usual, out=np.ones_like(size), where=usual > 0))
        return bool((error <= self.limit[start:] * larger).all())


class Relation(NamedTuple):
    """A sentence that holds when the prediction gives theirs, from a step on.

    fitted  how many numbers of the prediction were fitted to theirs
    """

    says: str
    predicted: Array
    start: int = 0
    fitted: int = 0


def relation(d: Difference) -> str | None:
    """What theirs is of the reference's, in words; None if it is nothing of what is tried."""
    with np.errstate(all="ignore"):
        for find in (_zeros, _multiples, _orders, _clips, _lags, _updates, _members, _offsets):
            for one in find(d):
                enough = d.theirs[one.start :].size >= PER_NUMBER * one.fitted
                if enough and np.isfinite(one.predicted).all() and d.is_(one.predicted, one.start):
                    return one.says
    return None


def listed(values: Array | list[float]) -> str:
    """Some numbers with three digits."""
    values = np.asarray(values)
    least = 1e-5 * np.abs(values).max(initial=0)
    words = [f"{x:.3g}" if abs(x) > least else "0" for x in values[:FEW]]
    return ", ".join(words) + (" …" if len(values) > FEW else "")


def _ratio(x: Array, y: Array, axes: tuple[int, ...]) -> Array:
    """The factor by which y gives x best, over these axes (kept)."""
    return np.nan_to_num((x * y).sum(axes, keepdims=True) / (y * y).sum(axes, keepdims=True))


def _zeros(d: Difference) -> Iterator[Relation]:
    if d.truth.any():
        yield Relation("theirs is zero throughout", np.zeros_like(d.truth))


def _multiples(d: Difference) -> Iterator[Relation]:
    x, y, t = d.theirs, d.truth, d.times
    c = float(_ratio(x, y, (0, 1, 2)).item())
    sign = ": the other sign" if abs(c + 1) < 1e-4 else ""
    yield Relation(f"theirs is {c:.5g} times the reference's{sign}", c * y, fitted=1)
    by_step = _ratio(x, y, (1, 2))
    if len(x) > 1:
        known = {"1 − t": 1 - t, "t": t, "1/(1 − t)": 1 / (1 - t), "1/t": 1 / t,
                 "(1 − t)²": (1 - t) ** 2, "t²": t**2, "t/(1 − t)": t / (1 - t)}  # fmt: skip
        names = [n for n, f in known.items() if np.allclose(by_step.ravel(), f, atol=1e-4)]
        still = [str(k) for k, c in zip(d.steps, by_step.ravel(), strict=True) if c == 0]
        zero = f" (zero at step {', '.join(still)})" if still else ""
        says = f"theirs is a multiple of its own at every step, {listed(by_step.ravel())}{zero}"
        if names:
            says = f"theirs is a multiple that depends on t, which is {names[0]}"
        yield Relation(says, by_step * y, fitted=len(x))
    by_column = _ratio(x, y, (0, 1))
    yield Relation(
        f"every column is a multiple of its own, {listed(by_column.ravel())}",
        by_column * y,
        fitted=by_column.size,
    )
    by_row = _ratio(x, y, (2,))
    if y.shape[2] > 1:
        low, high = float(by_row.min()), float(by_row.max())
        norms = np.linalg.norm(x, axis=2)
        most = f"; no row of theirs is longer than {norms.max():.4g}"
        yield Relation(
            f"every row is a multiple of the reference's, from {low:.3g} to {high:.3g} times: "
            f"direction right, length not{most}",
            by_row * y,
            fitted=by_row.size,
        )
    yield Relation("theirs has the right size and the wrong sign in some elements",
                   np.copysign(np.abs(y), x))  # fmt: skip


def _orders(d: Difference) -> Iterator[Relation]:
    x, y, (H, A) = d.theirs, d.truth, d.chunk
    width = y.shape[2]
    what = "members" if d.quantity == "q" else "columns"
    if H > 1 and A > 1 and width == H * A:
        for first, second in ((H, A), (A, H)):
            turned = y.reshape(*y.shape[:2], first, second).swapaxes(2, 3).reshape(y.shape)
            yield Relation(
                f"every chunk of theirs is transposed, (H, A) = {H, A} for (A, H)", turned
            )
    for axis, name in ((2, what), (1, "rows")):
        order = _matching(np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0))
        if order is not None:
            yield Relation(
                f"theirs has its {name} in another order: the reference's {listed(order)}",
                np.take(y, order, axis),
            )


def _matching(x: Array, y: Array) -> Array | None:
    """For each of x's first axis the nearest of y's, if that is another order."""
    if not 1 < len(x) <= 512:
        return None
    a, b = x.reshape(len(x), -1), y.reshape(len(y), -1)
    apart = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    order = apart.argmin(axis=1)
    return None if (order == np.arange(len(x))).all() else order


def _clips(d: Difference) -> Iterator[Relation]:
    x, of = d.truth, "the reference's"
    if "last" in d.about:
        x, of = d.about["last"], "the last state"
    if d.quantity == "a1_hat" and d.about:
        x, of = d.about["a"] + (1 - d.times[:, None, None]) * d.about["v"], "a + (1 − t)·v"
    low, high = float(d.theirs.min()), float(d.theirs.max())
    bound = max(-low, high)
    yield Relation(f"theirs is {of} clipped to ±{bound:.4g}", np.clip(x, -bound, bound))
    yield Relation(f"theirs is {of} clipped to {low:.4g} … {high:.4g}", np.clip(x, low, high))
    yield Relation(f"theirs is tanh of {of}", np.tanh(x))
    if d.quantity == "a1_hat" and d.about:
        a, v = d.about["a"], d.about["v"]
        inside = (np.abs(d.theirs) < bound) & (np.abs(d.theirs) < 1)
        factor = _ratio((d.theirs - a) * inside, v * inside, (1, 2))
        yield Relation(
            f"theirs is a + c·v clipped to ±{bound:.4g}, c by step {listed(factor.ravel())}; "
            f"the reference's c is 1 − t: {listed(1 - d.times)}",
            np.clip(a + factor * v, -bound, bound),
            fitted=factor.size,
        )


def _lags(d: Difference) -> Iterator[Relation]:
    x, y = d.theirs, d.truth
    if len(x) < 2 or d.quantity in ("a", "action"):
        return
    first = " (zero at step 0)" if not x[0].any() else ""
    before = np.concatenate([x[:1], y[:-1]])
    yield Relation(f"theirs is the reference's of the step before{first}: a lag of one step",
                   before, 1)  # fmt: skip
    yield Relation("theirs is the reference's of the next step",
                   np.concatenate([y[1:], x[-1:]]))  # fmt: skip
    yield Relation("theirs is the reference's of step 0 at every step",
                   np.broadcast_to(y[:1], y.shape))  # fmt: skip
    yield Relation("theirs has the steps in reverse order", y[::-1])
    for name, earlier in (("theirs", np.concatenate([0 * x[:1], x[:-1]])),
                          ("the reference's", np.concatenate([0 * y[:1], y[:-1]]))):  # fmt: skip
        (now, then), fitted = _fit(x[1:], y[1:], earlier[1:])
        yield Relation(
            f"theirs is {now:.4g} times the reference's plus {then:.4g} times {name} of the step "
            "before",
            np.concatenate([x[:1], fitted]), 1, 2,
        )  # fmt: skip


def _fit(x: Array, *by: Array) -> tuple[list[float], Array]:
    """Least squares of x by these, one number each, and what they give."""
    columns = np.stack([b.ravel() for b in by], axis=1)
    weights = np.linalg.lstsq(columns, x.ravel(), rcond=None)[0]
    return [float(w) for w in weights], (columns @ weights).reshape(x.shape)


def _updates(d: Difference) -> Iterator[Relation]:
    """a[k] from a[k−1], v and g there."""
    if d.quantity != "a" or len(d.theirs) < 2 or "g" not in d.about:
        return
    x = d.theirs
    state, v, g = (d.about[name][:-1] for name in ("a", "v", "g"))
    (_, for_v, for_g), _ = _fit(d.truth[1:], state, v, g)
    should = f"the reference by {for_v:.4g}·v + {for_g:.4g}·g"
    (kept, by_v, by_g), fitted = _fit(x[1:], state, v, g)
    most = f"{by_v:.4g}·v + {by_g:.4g}·g"
    also = "" if abs(kept - 1) < 1e-4 else f" from {kept:.4g}·a"
    yield Relation(f"theirs moves by {most}{also}; {should}", np.concatenate([x[:1], fitted]), 1, 3)
    each = [_fit(x[k + 1], state[k], v[k], g[k]) for k in range(len(v))]
    by_step = np.array([weights for weights, _ in each])
    yield Relation(
        f"theirs moves by a multiple of v, by step {listed(by_step[:, 1])}, and of g, "
        f"{listed(by_step[:, 2])}; {should}",
        np.concatenate([x[:1], np.stack([fitted for _, fitted in each])]), 1, by_step.size,
    )  # fmt: skip
    if len(v) > 1:
        weights, late = _fit(x[2:], state[1:], v[1:], g[1:], v[:-1], g[:-1])
        yield Relation(
            f"theirs moves by {weights[1]:.4g}·v + {weights[2]:.4g}·g, and by {weights[3]:.4g}·v "
            f"+ {weights[4]:.4g}·g of the step before; {should}",
            np.concatenate([x[:2], late]), 2, 5,
        )  # fmt: skip


def _members(d: Difference) -> Iterator[Relation]:
    """g as a combination of the members' gradients, row by row."""
    if "members" not in d.about:
        return
    each = d.about["members"]
    E, width = len(each), d.theirs.shape[2]
    weights, fitted = _fit(d.theirs, *each)
    yield Relation(
        f"theirs is a combination of the members' gradients, {listed(weights)} times", fitted, 0, E
    )
    if width <= E:
        return
    columns = np.moveaxis(each, 0, -1)
    by_row = (np.linalg.pinv(columns) @ d.theirs[..., None])[..., 0]
    sums = by_row.sum(axis=-1)
    says = (
        f"theirs is another combination of the members' gradients in each row, by {_range(by_row)}"
    )
    if np.allclose(sums, 1, atol=1e-2) and "q" in d.about:
        q = d.about["q"]
        clear = (by_row > 1e-2).all(axis=-1)
        levels = (np.log(by_row) - np.log(by_row[..., :1]))[clear][:, 1:]
        gaps = (q - q[..., :1])[clear][:, 1:]
        slope = float(_ratio(levels.ravel(), gaps.ravel(), (0,)).item()) if levels.size else 0.0
        soft = levels.size and np.allclose(levels, slope * gaps, atol=0.05 * np.abs(levels).max())
        kind = "minimum" if slope < 0 else "maximum"
        says += f": softmax({slope:.3g}·q), a soft {kind}" if soft else "; they sum to 1"
    yield Relation(says, (columns @ by_row[..., None])[..., 0], fitted=by_row.size)


def _range(values: Array) -> str:
    return f"{float(values.min()):.3g} … {float(values.max()):.3g}"


def _offsets(d: Difference) -> Iterator[Relation]:
    off = (d.theirs - d.truth).mean(axis=1, keepdims=True)
    if d.theirs.shape[1] > 1:
        if np.allclose(off, off[:1], rtol=1e-3):
            off = off.mean(axis=0, keepdims=True)
            where = f"by {listed(off.ravel())}"
        else:
            where = "by a number for each step and column"
        yield Relation(
            f"theirs is off {where}, the same in every row", d.truth + off, fitted=off.size
        )
