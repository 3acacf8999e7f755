"""Is a port's batch with goals right? Its arrays against the definition, row by row.

def my_batch(data, draws, sampling):         # yours, with these random numbers
    …
    return {"obs": …, "goal": …, "next_obs": …, "rewards": …, "masks": …}

check_batches(my_batch)                      # raises CrossCheckError, naming the mistake
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, whole_number
from qgf_ref.crosscheck.batches.literal import MISTAKES, Literal
from qgf_ref.crosscheck.errors import CrossCheckError, answer_of
from qgf_ref.data.datasets import require_single_ends
from qgf_ref.data.goals.sampling import (
    BatchDraws,
    GoalLaw,
    GoalSampling,
    draw,
)
from qgf_ref.data.goals.trajectories import Trajectories
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import require_function

QUANTITIES = (
    "row", "obs", "goal_row", "goal", "policy_goal_row", "policy_goal", "action", "steps",
    "next_obs", "rewards", "masks", "valid",
)  # fmt: skip
"""In the order in which a mistake goes through them."""
ROUNDING = 1e-6
"""Relative error of a reward in float32: γᵏ is rounded once or a few times, 6e-8 each."""
EXPOSING_GOALS = GoalSampling(
    5, 0.9, GoalLaw(0.2, 0.5, 0.3), GoalLaw(0.1, 0.6, 0.3, geometric=True)
)
"""Every kind of goal is drawn, uniformly for the critics and geometrically for the policy."""

BatchFunction = Callable[[dict[str, Array], BatchDraws, GoalSampling], Mapping[str, Any]]


@dataclass(frozen=True)
class BatchReport:
    """What `check_batches` saw. `str` of it is the report.

    first   the first array that disagrees, and its first row; "" if all agree
    named   mistakes, or pairs of them, each of which gives exactly what was returned
    unseen  if all agrees: mistakes that these arrays, data and settings could not show
    """

    compared: tuple[str, ...]
    rows: int
    first: str = ""
    where: str = ""
    wrong: int = 0
    named: tuple[tuple[str, ...], ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every array agrees."""
        return not self.first

    def __str__(self) -> str:
        what = ", ".join(self.compared)
        if self.passed:
            lines = [f"batches with goals: {self.rows} rows agree in {what}"]
            if self.unseen:
                lines += _wrapped("this check cannot see: " + ", ".join(self.unseen))
            return "\n".join(lines)
        names = " or ".join("+".join(each) for each in self.named)
        lines = [
            names or f"unknown at {self.first}",
            f"batches with goals: WRONG, first in {self.first}, {self.wrong} of {self.rows} rows",
            *_wrapped(self.where),
            *_wrapped(f"compared: {what}"),
            "",
        ]
        for each in self.named:
            for name in each:
                lines += _wrapped(f"{name}: {MISTAKES[name]}")
        if not self.named:
            lines += _wrapped(
                "None of the mistakes that have names, alone or in pairs, gives what was returned."
            )
        return "\n".join(lines)


@one_blas_thread()
def check_batches(
    fn: BatchFunction,
    data: Mapping[str, Array] | None = None,
    sampling: GoalSampling = EXPOSING_GOALS,
    *,
    rows: int = 128,
    seed: int = 0,
) -> BatchReport:
    """Compare a port's batches with goals, exactly; rewards to float32 rounding.

    fn        fn(data, draws, sampling) → any of `QUANTITIES` by name, (B,) or (B, width) each;
              called twice. `draws` (`qgf_ref.data.goals.sampling.BatchDraws`) has the random
              numbers in the official order; numpy.random.seed(seed) gives a port that draws for
              itself the same
    data      observations (N, O), actions (N, A), terminals (N,), 1 on the last state of each
              episode as in OGBench's files, and goals (N, G), what each state is as a goal.
              Default: walks that show every mistake
    sampling  horizon, discount, laws of goals
    The definition is `qgf_ref.crosscheck.batches.literal`, in plain Python; source:
    goal_conditioned.md, section 1. Raises CrossCheckError, naming the mistakes that give what was
    returned, or where `fn` raises; InputError when it returns something else, or not the same
    twice.
    """
    require_function(fn, "fn", "(data, draws, sampling) → arrays by name")
    rows, seed = whole_number(rows, "rows", 1), whole_number(seed, "seed", 0, 2**32 - 1)
    if not isinstance(sampling, GoalSampling):
        raise InputError(
            "sampling must be a GoalSampling (qgf_ref.data.goals.sampling), got "
            f"{type(sampling).__name__}"
        )
    if data is not None and not isinstance(data, Mapping):
        raise InputError(
            f"data must map observations, actions, terminals to arrays, got {type(data).__name__}"
        )
    given = exposing_data() if data is None else {n: _array(n, a) for n, a in data.items()}
    draws = draw(np.random.RandomState(seed), _trajectories(given), rows, sampling)
    theirs = _returned(fn, given, draws, sampling)
    literal = Literal(given).batch(draws, sampling)
    compared = tuple(n for n in QUANTITIES if n in theirs)
    _require_shapes(theirs, literal, compared)
    wrong = {n: differs for n in compared if (differs := _differing(theirs[n], literal[n])).any()}
    if not wrong:
        unseen = tuple(n for n in MISTAKES if _same(_made((n,), given, draws, sampling), literal,
                                                    compared))  # fmt: skip
        return BatchReport(compared, rows, unseen=unseen)
    first = next(iter(wrong))
    b = int(np.flatnonzero(wrong[first])[0])
    where = (
        f"row {b} of the batch, state {literal['row'][b]}, goal {literal['goal_row'][b]}: theirs "
        f"{_short(theirs[first][b])}, right {_short(literal[first][b])}"
    )
    named: list[tuple[str, ...]] = []
    for size in (1, 2):
        named = [
            names
            for names in combinations(MISTAKES, size)
            if _same(_made(names, given, draws, sampling), theirs, compared)
        ]
        if named:
            break
    raise CrossCheckError(
        BatchReport(compared, rows, first, where, int(wrong[first].sum()), tuple(named))
    )


def exposing_data(seed: int = 0) -> dict[str, Array]:
    """Walks of 4 to 14 states in OGBench's format; goals that repeat; actions at ±1."""
    rng = np.random.default_rng(seed)
    lengths = (12, 4, 14, 9, 7, 13, 8, 11)
    count = sum(lengths)
    terminals = np.zeros(count, np.float32)
    terminals[np.cumsum(lengths) - 1] = 1
    actions = np.clip(rng.uniform(-1.5, 1.5, (count, 2)), -1, 1)
    return {
        "observations": rng.standard_normal((count, 3)).astype(np.float32),
        "actions": actions.astype(np.float32),
        "terminals": terminals,
        "goals": rng.integers(0, 2, (count, 2)).astype(np.float32),
    }


def _trajectories(data: Mapping[str, Array]) -> Trajectories:
    """The data as ours, for the number of starts. Raises InputError on what is missing."""
    lacking = [n for n in ("observations", "actions", "terminals") if n not in data]
    if lacking:
        raise InputError(f"the data lack {', '.join(lacking)}: give arrays as in OGBench's files")
    odd = [n for n, a in data.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if odd:
        raise InputError(f"{', '.join(odd)} of the data must be finite: nothing equals nan")
    lengths = {name: len(array) for name, array in data.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"arrays of the data must be of one length, got {lengths}")
    ends = np.flatnonzero(data["terminals"])
    if not len(ends) or ends[-1] != lengths["terminals"] - 1:
        raise InputError("the last row must be terminal: 1 on the last state of each episode")
    require_single_ends(ends, "the data")
    observations = np.asarray(data["observations"], np.float32)
    return Trajectories(
        observations=observations,
        actions=np.asarray(data["actions"], np.float32),
        ends=ends,
        goal_source=np.asarray(data.get("goals", observations), np.float32),
    )


def _returned(
    fn: BatchFunction, data: Mapping[str, Array], draws: BatchDraws, sampling: GoalSampling
) -> dict[str, Array]:
    """What `fn` returns, as arrays. Raises InputError."""
    both = []
    for _ in range(2):
        own = {n: np.array(a) for n, a in data.items()}, deepcopy(draws), sampling
        answer = answer_of(partial(fn, *own), "your function", f"on {len(draws.start)} rows")
        if not isinstance(answer, Mapping):
            raise InputError(
                f"expected a mapping of arrays by name, got {type(answer).__name__}: return any of "
                f"{', '.join(QUANTITIES)}"
            )
        for name in answer:
            if name not in QUANTITIES:
                raise unknown_name("array of a batch", str(name), QUANTITIES)
        both.append({name: _array(name, answer[name]) for name in answer})
    if not both[0]:
        raise InputError(f"nothing was returned: give any of {', '.join(QUANTITIES)}")
    for name, array in both[0].items():
        if not np.array_equal(array, both[1][name], equal_nan=array.dtype.kind == "f"):
            raise InputError(
                f"{name} differs between two calls with the same draws: use these random numbers, "
                "or seed your own at the beginning"
            )
    return both[0]


def _array(name: str, value: Any) -> Array:
    try:
        array = np.array(value)
    except ValueError as error:
        raise InputError(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold real numbers, got {array.dtype}")
    return array


def _require_shapes(
    theirs: dict[str, Array], right: Mapping[str, Array], compared: tuple[str, ...]
) -> None:
    for name in compared:
        if name not in right:
            raise InputError(f"{name} was returned, and in this sampling the policy has no goals")
        shape = right[name].shape
        if theirs[name].size == right[name].size and len(theirs[name]) == len(right[name]):
            theirs[name] = theirs[name].reshape(shape)  # (B, 1), or chunks (B, h, A)
        if theirs[name].shape != shape:
            raise InputError(f"{name} must be of shape {shape}, got {theirs[name].shape}")


def _made(
    names: tuple[str, ...], data: Mapping[str, Array], draws: BatchDraws, sampling: GoalSampling
) -> dict[str, Array] | None:
    """The batch with mistakes in it; None where it cannot be made so."""
    try:
        return Literal(data, names).batch(draws, sampling)
    except IndexError:
        return None


def _same(
    made: Mapping[str, Array] | None, theirs: Mapping[str, Array], compared: tuple[str, ...]
) -> bool:
    return made is not None and not any(_differing(theirs[n], made[n]).any() for n in compared)


def _differing(theirs: Array, right: Array) -> Array:
    """Rows (B,) that differ: floats of another precision by more than its rounding."""
    a = np.asarray(theirs, np.float64).reshape(len(right), -1)
    b = np.asarray(right, np.float64).reshape(len(right), -1)
    far: Array = (np.abs(a - b) > ROUNDING * np.abs(b)) | ~np.isfinite(a)
    return np.asarray(far.any(axis=1))


def _short(values: Array) -> str:
    shown = np.array2string(np.asarray(values), precision=7, threshold=8, edgeitems=3)
    return " ".join(shown.split())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  ")
