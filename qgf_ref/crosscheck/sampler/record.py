"""How a run was written down, where its final actions are explained and its record is not.

Where the final actions agree, the sampler computed what it should; a recorded quantity that does
not is then something else under that name: the state after the step, −v, the gradient with its
weight, another layout of the same numbers. Every way of writing (a base, a sign, a factor, an order
of steps, a layout) is applied to the reference's own run, and one that gives what was recorded, to
rounding, is named. The same of a sampler whose final actions one mistake explains, beside its run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.crosscheck.sampler.rounding import Scatter, measured
from qgf_ref.crosscheck.sampler.runs import Predicted
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.flow.diffusion import DDPM
from qgf_ref.interop.trace_file import STEPWISE

MOST = 1_000_000
"""Numbers of a stepwise array up to which a record is looked into."""
GUIDING = ("a1_hat", "q", "g")
"""What a weight of 0 leaves unused, so that right actions say nothing of it."""

Change = Callable[[Array], Array]
Way = tuple[str, Change]
"""What is done to an array, as words with {} for what it is done to."""


class Run(NamedTuple):
    """A run with what is written down of it by mistake: quantities, and states (T + 1, B, D)."""

    quantities: Predicted
    weight: float | Array
    times: Array
    chunk: tuple[int, int]
    port: Port

    @property
    def states(self) -> Array:
        """a_0 … a_1, the last before its clip."""
        q = self.quantities
        if self.port.chain is not None:
            return np.concatenate([q["a"], np.full_like(q["a"][:1], np.nan)])
        last = q["a"][-1] + (q["v"][-1] + self.weight * q["g"][-1]) / len(q["a"])
        return np.concatenate([q["a"], last[None]])


Reading = Callable[[Run], Array]


def _everywhere(x: Array, like: Array) -> Array:
    return np.broadcast_to(x, like.shape)


def _one_step(run: Run, guided: bool = False) -> Array:
    q = run.quantities
    velocity = q["v"] + run.weight * q["g"] if guided else q["v"]
    return q["a"] + (1 - run.times[:, None, None]) * velocity


BASES: dict[str, dict[str, Reading]] = {
    "a": {
        "a": lambda run: run.quantities["a"],
        "a after the step, not before it": lambda run: run.states[1:],
        "a after the step, the final action last": lambda run: np.concatenate(
            [run.states[1:-1], np.clip(run.states[-1:], -1, 1)]
        ),
        "the clipped a after the step": lambda run: np.clip(run.states[1:], -1, 1),
        "the clipped a": lambda run: np.clip(run.quantities["a"], -1, 1),
        "the last state at every step (one array, changed in place)": lambda run: _everywhere(
            run.states[-1], run.quantities["a"]
        ),
        "the final action at every step": lambda run: _everywhere(
            np.clip(run.states[-1], -1, 1), run.quantities["a"]
        ),
        "a_0 at every step": lambda run: _everywhere(run.states[0], run.quantities["a"]),
    },
    "v": {
        "v": lambda run: run.quantities["v"],
        "v + w·g (with the guidance)": lambda run: (
            run.quantities["v"] + run.weight * run.quantities["g"]
        ),
        "w·g": lambda run: run.weight * run.quantities["g"],
        "g": lambda run: run.quantities["g"],
        "a": lambda run: run.quantities["a"],
    },
    "a1_hat": {
        "a1_hat": lambda run: run.quantities["a1_hat"],
        "the query point before its clip (a + (1 − t)·v)": _one_step,
        "the guided one-step estimate before its clip": lambda run: _one_step(run, True),
        "the guided one-step estimate": lambda run: np.clip(_one_step(run, True), -1, 1),
        "a": lambda run: run.quantities["a"],
        "the clipped a": lambda run: np.clip(run.quantities["a"], -1, 1),
        "a after the step": lambda run: run.states[1:],
        "the clipped a after the step": lambda run: np.clip(run.states[1:], -1, 1),
    },
    "q": {
        "q": lambda run: run.quantities["q"],
        "the minimum over members, for every member": lambda run: _everywhere(
            run.quantities["q"].min(axis=1, keepdims=True), run.quantities["q"]
        ),
        "the mean over members, for every member": lambda run: _everywhere(
            run.quantities["q"].mean(axis=1, keepdims=True), run.quantities["q"]
        ),
        "q with its members in reverse order": lambda run: run.quantities["q"][:, ::-1],
    },
    "g": {
        "g": lambda run: run.quantities["g"],
        "w·g (with its weight)": lambda run: run.weight * run.quantities["g"],
        "v + w·g": lambda run: run.quantities["v"] + run.weight * run.quantities["g"],
        "v": lambda run: run.quantities["v"],
    },
}
"""Quantity → what may be written under its name, itself first."""


def _ways(run: Run, axes: str) -> Iterator[tuple[Way, ...]]:
    """Combinations of at most one sign, one factor, one order of steps, and one layout."""
    T, (H, A) = len(run.times), run.chunk
    same: Way = ("{}", lambda x: x)
    signs = [same, ("−({})", np.negative)]
    factors = [same, ("({})/T", lambda x: x / T), ("T·({})", lambda x: x * T)]
    orders = [same]
    if T > 1:
        orders += [
            ("{}, its steps in reverse order", lambda x: x[::-1]),
            ("{} of the next step", lambda x: np.concatenate([x[1:], np.full_like(x[:1], np.nan)])),
            ("{} of the step before",
             lambda x: np.concatenate([np.full_like(x[:1], np.nan), x[:-1]])),
            ("{} of step 0 at every step", lambda x: _everywhere(x[0], x)),
            ("{} of the last step at every step", lambda x: _everywhere(x[-1], x)),
        ]  # fmt: skip
    layouts = [same, *(_permuted(order, axes) for order in permutations(range(3)) if any(
        order[i] > order[i + 1] for i in range(2)))]  # fmt: skip
    if H > 1 and A > 1:
        layouts += [
            (f"{{}} with every chunk transposed, {how}", _rechunked(*shape))
            for how, shape in (("(A, H) for (H, A)", (H, A)), ("(H, A) for (A, H)", (A, H)))
        ]
    yield from product(signs, factors, orders, layouts)


def _permuted(order: tuple[int, ...], axes: str) -> Way:
    shape = ", ".join(axes[i] for i in order)
    how = "batch-major" if axes[order[0]] == "B" else "transposed"
    return (
        f"{{}} laid out {how}, as ({shape})",
        lambda x: np.ascontiguousarray(x.transpose(order)).reshape(x.shape),
    )


def _rechunked(first: int, second: int) -> Change:
    def change(x: Array) -> Array:
        if x.shape[-1] != first * second:
            return np.full_like(x, np.nan)
        return x.reshape(*x.shape[:-1], first, second).swapaxes(-1, -2).reshape(x.shape)

    return change


class Recorded:
    """One case beside the reference's run of it, from the noise alone, with these mistakes."""

    def __init__(self, setting: Setting, case: RecordedCase, made: Mistakes = ()) -> None:
        self.case = case
        self.scatter, ours = case.free_runs(setting, made)
        options = setting.checkpoint
        times = np.array(setting.port().flow.times)
        weight = case.weight

        def run(quantities: Predicted) -> Run:
            chunk = options.horizon, options.action_dim
            return Run(quantities, weight, times, chunk, setting.port(made))

        self.truth, self.ours = run(self.scatter.truth), [run(one) for one in ours]

    def agrees(self, name: str, scatter: Scatter | None = None) -> bool:
        """Whether rounding explains what was recorded under this name."""
        return self.case.judge(name, scatter or self.scatter).agrees

    def agrees_as(self, name: str, read: Reading) -> bool:
        """Whether what was recorded is this of the run. What a way leaves open (NaN) is theirs."""
        theirs = self.case.theirs[name]

        def written(run: Run) -> Predicted:
            value = read(run)
            return {name: np.where(np.isnan(value), theirs, value)}

        if np.isnan(read(self.truth)).all():
            return False
        exact = written(self.truth)
        if exact[name].shape != theirs.shape or not exact[name].any():
            return False
        off = np.abs(exact[name] - theirs).max()
        if off > 1e-2 * np.abs(theirs).max():
            return False
        ours = [written(run) for run in self.ours]
        return self.agrees(name, measured(exact, ours, self.scatter))


def misrecorded(
    setting: Setting, cases: list[RecordedCase], made: Mistakes = ()
) -> tuple[str, ...]:
    """What was written under which name, if the sampler is right and only its record is not; made:
    if it has these mistakes and no other.

    () unless the final actions of all cases agree, and every recorded quantity that does not is
    something else of the same run.
    """
    if not any(case.observed != ("action",) for case in cases):
        return ()
    if any(x.size > MOST for case in cases for x in case.theirs.values()):
        return ()
    recorded = []
    for case in cases:
        recorded.append(Recorded(setting, case, made))
        if "action" not in case.theirs or not recorded[-1].agrees("action"):
            return ()
    says = []
    for name in STEPWISE:
        having = [one for one in recorded if name in one.case.theirs]
        if all(one.agrees(name) for one in having):
            continue
        if name in GUIDING and setting.actor is None:
            having = [one for one in having if np.any(one.case.weight)]
        with np.errstate(all="ignore"):
            written = _reading(name, having) if having else None
        if written is None:
            return ()
        says.append(f"what was recorded as {name} is {written}")
    return tuple(says)


def _reading(name: str, recorded: list[Recorded]) -> str | None:
    """The simplest way of writing that gives every record of this quantity, in words."""
    ways = list(_ways(recorded[0].truth, "TEB" if name == "q" else "TBD"))
    bases = BASES[name] if recorded[0].truth.port.chain is None else _of_chain(name)
    itself, *others = bases
    # the fewer things are done the better, and another array before one that is rearranged
    tried = [(base, way) for base in (itself, *others) for way in ways]
    tried.sort(key=lambda one: (_done(one[1]) + (one[0] != itself), _done(one[1])))
    for base, way in tried[1:]:

        def written(run: Run, base: str = base, way: tuple[Way, ...] = way) -> Array:
            value = bases[base](run)
            for _, change in way:
                value = change(value)
            return value

        if all(one.agrees_as(name, written) for one in recorded):
            words = base
            for pattern, _ in way:
                words = pattern.format(words)
            return words.replace(f"({name})", name)
    return None


def _of_chain(name: str) -> dict[str, Reading]:
    """`BASES` of a quantity of an agent without a flow."""

    def read(other: str) -> Reading:
        return lambda run: run.quantities[other]

    bases = {name: read(name), **{n: read(n) for n in ("a", "v", "a1_hat") if n != name}}
    if name == "a":
        bases["a after the step, not before it"] = lambda run: run.states[1:]
    if name == "a1_hat":
        bases["the clean estimate before its clip"] = _unclipped
    return bases


def _unclipped(run: Run) -> Array:
    port, q = run.port, run.quantities
    if isinstance(port.chain, DDPM):
        port = port.with_chain(clip_clean=False)
    assert port.chain is not None
    net, T = port.flow.field, port.flow.denoise_steps
    pairs = enumerate(zip(q["v"], q["a"], strict=True))
    return np.stack([port.chain.estimate(net, v, a, n, T) for n, (v, a) in pairs])


def _done(way: tuple[Way, ...]) -> int:
    return sum(words != "{}" for words, _ in way)
