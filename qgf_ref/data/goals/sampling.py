"""Where goals come from: probabilities, random numbers, and the rows that these choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.goals.trajectories import Starts, Trajectories
from qgf_ref.errors import InputError

Relabelling = Literal["h-step", "one-step"]
RELABELLINGS: tuple[Relabelling, ...] = ("h-step", "one-step")
StartRule = Literal["admissible", "all"]
START_RULES: tuple[StartRule, ...] = ("admissible", "all")
RandomSource = np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class GoalLaw:
    """The distribution of goals: probabilities of three kinds, which sum to 1.

    current     the state itself
    trajectory  a later state of the same episode, no later than s_{T−1}
    random      a state of any episode, uniformly from the list of starts
    geometric   of a later state: min(i + offset, f), offset geometric(1 − γ); else uniform
    Raises InputError on probabilities outside [0, 1] or that do not sum to 1.
    """

    current: float
    trajectory: float
    random: float
    geometric: bool = False

    def __post_init__(self) -> None:
        parts = (self.current, self.trajectory, self.random)
        if not all(0 <= p <= 1 for p in parts) or not math.isclose(sum(parts), 1, abs_tol=1e-8):
            raise InputError(
                "the probabilities of current, trajectory and random goals must lie in [0, 1] and "
                f"sum to 1; got {parts[0]:g}, {parts[1]:g}, {parts[2]:g}, sum {sum(parts):g}"
            )


VALUE_GOALS = GoalLaw(0.2, 0.5, 0.3)
"""Of critics and values: DQC's and horizon-reduction's default."""
POLICY_GOALS = GoalLaw(0.0, 1.0, 0.0, geometric=True)
"""Of a flow policy: horizon-reduction's default for behaviour cloning."""


@dataclass(frozen=True)
class GoalSampling:
    """What a batch is: windows, goals, labels. Defaults are DQC's, and its horizon is 25.

    horizon       h, actions in a window and steps of the backup, ≥ 1
    discount      γ of rewards and of geometric goals, in [0, 1)
    value_goals   of critic and value
    policy_goals  of the policy, drawn after those of the value; None: a policy without goals
    relabelling   h-step (DQC), or one-step (GCIQL and the like)
    negative      rewards of −1 for each step not at the goal, instead of 1 at the goal
    starts        admissible (DQC): windows within the episode; all (horizon-reduction): every state
                  that has an action, where a window that the end cuts counts as success (T4)
    """

    horizon: int = 25
    discount: float = 0.999
    value_goals: GoalLaw = VALUE_GOALS
    policy_goals: GoalLaw | None = POLICY_GOALS
    relabelling: Relabelling = "h-step"
    negative: bool = False
    starts: StartRule = "admissible"

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise InputError(f"horizon must be at least 1, got {self.horizon}")
        if not 0 <= self.discount < 1:
            raise InputError(f"discount must lie in [0, 1), got {self.discount}")
        for what, choice, valid in (
            ("relabelling", self.relabelling, RELABELLINGS),
            ("starts", self.starts, START_RULES),
        ):
            if choice not in valid:
                raise InputError(f"{what} must be one of {', '.join(valid)}; got {choice!r}")

    def starts_of(self, data: Trajectories) -> Starts:
        """The list from which starts and random goals are drawn. Raises InputError when empty."""
        return data.starts(self.horizon if self.starts == "admissible" else 0)


@dataclass(frozen=True)
class GoalDraws:
    """The random numbers of one goal for each row, (B,) each, in the order of drawing.

    random  positions in the list of starts
    along   where on the trajectory: d in [0, 1), 0 its end; or the geometric offset, ≥ 1
    u_traj, u_cur  in [0, 1): trajectory or random; then, current or not. None: p_current is 1
    """

    random: Array
    along: Array
    u_traj: Array | None = None
    u_cur: Array | None = None


@dataclass(frozen=True)
class BatchDraws:
    """The random numbers of one batch: start positions (B,), goals of the value, of the policy."""

    start: Array
    value: GoalDraws
    policy: GoalDraws | None = None

    def arrays(self) -> dict[str, Array]:
        """Flat, for a file: start, value/random, value/along, …, policy/u_cur."""
        flat = {"start": self.start}
        for name, draws in (("value", self.value), ("policy", self.policy)):
            if draws is not None:
                kept = {k: array for k, array in vars(draws).items() if array is not None}
                flat |= {f"{name}/{k}": array for k, array in kept.items()}
        return flat

    @classmethod
    def of_arrays(cls, flat: Mapping[str, Array]) -> BatchDraws:
        """What `arrays` wrote, to replay it. Raises InputError when a name is missing."""
        parts: dict[str, GoalDraws] = {}
        try:
            for name in ("value", "policy"):
                own = {k.removeprefix(f"{name}/"): a for k, a in flat.items() if k.startswith(name)}
                if own or name == "value":
                    parts[name] = GoalDraws(
                        own["random"], own["along"], own.get("u_traj"), own.get("u_cur")
                    )
            return cls(flat["start"], parts["value"], parts.get("policy"))
        except KeyError as error:
            raise InputError(
                f"recorded draws lack {error}; expected start, value/random, value/along and, "
                "unless every goal is the current state, value/u_traj, value/u_cur"
            ) from None


def draw(rng: RandomSource, data: Trajectories, rows: int, sampling: GoalSampling) -> BatchDraws:
    """The random numbers of a batch of `rows`.

    Order: starts; of the value's goals random positions, `along`, u_traj, u_cur (the last two only
    if p_current < 1); the same of the policy's, if it has goals. numpy.random.RandomState(seed)
    gives what the official code draws after numpy.random.seed(seed). There, the environments share
    that generator (T18); give a Generator of the data's own to train.
    """
    count = len(sampling.starts_of(data))
    start = _positions(rng, count, rows)
    value = _goal_draws(rng, sampling.value_goals, count, rows, sampling.discount)
    policy = sampling.policy_goals
    return BatchDraws(
        start,
        value,
        None if policy is None else _goal_draws(rng, policy, count, rows, sampling.discount),
    )


def goal_rows(law: GoalLaw, draws: GoalDraws, rows: Array, finals: Array, starts: Starts) -> Array:
    """The rows (B,) of the goals that `draws` choose for the states in `rows` (B,).

    finals (B,): their final rows f. Uniform: round(min(i + 1, f)·d + f·(1 − d)), halves to even: of
    the states from i + 1 to f, the two ends get half the share of the others. Trajectory goals
    where u_traj < p_trajectory/(1 − p_current), else random ones; then i itself where
    u_cur < p_current.
    """
    if law.current == 1:
        return rows
    if draws.u_traj is None or draws.u_cur is None:
        raise InputError("these goals are not all the current state: u_traj and u_cur are missing")
    if law.geometric:
        later = np.minimum(rows + draws.along, finals)
    else:
        nearest = np.minimum(rows + 1, finals)
        later = np.round(nearest * draws.along + finals * (1 - draws.along)).astype(np.int64)
    along = draws.u_traj < law.trajectory / (1 - law.current)
    current = draws.u_cur < law.current
    goals = np.where(current, rows, later)
    random = np.flatnonzero(~along & ~current)
    goals[random] = starts.at(draws.random[random])[0]
    return goals


def _goal_draws(
    rng: RandomSource, law: GoalLaw, count: int, rows: int, discount: float
) -> GoalDraws:
    random = _positions(rng, count, rows)
    along = rng.geometric(1 - discount, size=rows) if law.geometric else rng.random(rows)
    if law.current == 1:
        return GoalDraws(random, along)
    return GoalDraws(random, along, rng.random(rows), rng.random(rows))


def _positions(rng: RandomSource, count: int, rows: int) -> Array:
    if isinstance(rng, np.random.RandomState):
        return rng.randint(count, size=rows)
    return rng.integers(count, size=rows)
