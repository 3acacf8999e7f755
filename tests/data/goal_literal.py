"""Goal-conditioned batches as the specification words them: one row at a time, in plain Python.

`MISTAKES` are what ports do; the literal version makes one of them when asked to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.goals.sampling import GoalDraws, GoalLaw, GoalSampling

MISTAKES = (
    "one terminal an episode",
    "the final state is s_T",
    "floor for round",
    "d is turned round",
    "p_traj is not divided by 1 - p_cur",
    "random goals from everywhere",
    "reward 1 for gamma^k",
    "a goal at h is success",
    "representations are compared",
    "offsets from 0",
)
Row = dict[str, Any]


class Literal:
    """A data set in OGBench's file format, doubled terminals included."""

    def __init__(self, data: dict[str, Array], mistake: str = "") -> None:
        self.observations = data["observations"].astype(np.float32)
        bound = np.float32(1 - 1e-5)
        self.actions = np.array(
            [[min(max(a, -bound), bound) for a in row] for row in data["actions"]], np.float32
        )
        self.mistake = mistake
        ends = [i for i, t in enumerate(data["terminals"]) if t]
        self.terminals = [0] * len(self.observations)
        for end in ends:
            self.terminals[end] = 1
            if mistake != "one terminal an episode":
                self.terminals[max(end - 1, 0)] = 1
        self.valids = [0 if i in ends else 1 for i in range(len(self.observations))]
        self.goals = self.observations

    def final(self, i: int) -> int:
        """The first terminal from i on."""
        while not self.terminals[i]:
            i += 1
        return i + (self.mistake == "the final state is s_T" and self.valids[i])

    def starts(self, sampling: GoalSampling) -> list[int]:
        """first … e − h for every terminal e."""
        if sampling.starts == "all":
            return [i for i, valid in enumerate(self.valids) if valid]
        found, first = [], 0
        for e, terminal in enumerate(self.terminals):
            if terminal:
                found += [i for i in range(first, e + 1) if i <= e - sampling.horizon]
                first = e + 1
        return found

    def goal(self, i: int, law: GoalLaw, draws: GoalDraws, b: int, starts: list[int]) -> int:
        """The goal's row for state i and the b-th random numbers."""
        f, along = self.final(i), draws.along[b]
        if law.current == 1:
            return i
        assert draws.u_traj is not None and draws.u_cur is not None
        if law.geometric:
            later = min(i + int(along) - (self.mistake == "offsets from 0"), f)
        else:
            d = 1 - along if self.mistake == "d is turned round" else along
            at = min(i + 1, f) * d + f * (1 - d)
            later = int(at) if self.mistake == "floor for round" else round(at)
        share = law.trajectory / (1 - law.current)
        if self.mistake == "p_traj is not divided by 1 - p_cur":
            share = law.trajectory
        everywhere = self.mistake == "random goals from everywhere"
        goal = int(draws.random[b]) if everywhere else starts[int(draws.random[b])]
        if draws.u_traj[b] < share:
            goal = later
        return i if draws.u_cur[b] < law.current else goal

    def row(self, i: int, goal: int, sampling: GoalSampling) -> Row:
        """The batch's row of state i and this goal."""
        h, gamma, f = sampling.horizon, sampling.discount, self.final(i)
        if sampling.relabelling == "one-step":
            k, success = 1, i == goal
            following = min(i + 1, len(self.observations) - 1)
            reward = (0.0 if success else -1.0) if sampling.negative else float(success)
        else:
            k, ahead = min(h, f - i), goal - i
            within = ahead < k or (ahead <= k and self.mistake == "a goal at h is success")
            if ahead >= 0 and within:
                k = ahead
                success = True
            else:
                success = k < h
            if self.mistake == "representations are compared":
                success = success or bool((self.goals[i + k] == self.goals[goal]).all())
            following = i + k
            reward = gamma**k * success
            if self.mistake == "reward 1 for gamma^k":
                reward = float(success)
            if sampling.negative:
                reward = -(1 - gamma**k) / (1 - gamma)
        chunk = [self.actions[min(i + j, f)] for j in range(h)]
        return {
            "obs": self.observations[i],
            "action": np.concatenate(chunk),
            "goal": self.goals[goal],
            "next_obs": self.observations[following],
            "rewards": reward,
            "masks": 1.0 - success,
            "steps": k,
            "valid": [i + j <= f for j in range(h)],
            "row": i,
            "goal_row": goal,
        }


def table(rows: list[Row]) -> dict[str, Array]:
    """A batch of rows, in the dtypes of `GoalBatch`."""
    whole = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    floats = ("rewards", "masks")
    return {n: a.astype(np.float64) if n in floats else a for n, a in whole.items()}
