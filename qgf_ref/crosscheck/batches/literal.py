"""Goal-conditioned batches as the specification words them: one row at a time, in plain Python.

Its mistakes are what ports do; the literal version makes those that it is asked for. Source:
goal_conditioned.md, sections 1 and 9.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.goals.sampling import BatchDraws, GoalDraws, GoalLaw, GoalSampling

MISTAKES = {
    "one-terminal": "An episode has one terminal, on its last state; official: the state before it "
    "is one, too, and is the final one of goals, starts and windows (T2).",
    "final-state-last": "Goals and windows reach to the episode's last state s_T, which has no "
    "action; official: to s_T−1 (T2).",
    "starts-everywhere": "Starts and random goals come from every state that has an action; "
    "official: from those with i + h ≤ T − 1 in their episode (T4).",
    "random-goals-everywhere": "Random goals come from every row; official: from the list of "
    "starts, too.",
    "trajectory-floor": "A later goal's row is rounded down; official: to the nearest, halves to "
    "even.",
    "trajectory-reversed": "The fraction d of a later goal is 1 − d; official: d = 0 is the end.",
    "trajectory-from-now": "A later goal may be the state itself; official: it is i + 1 or later.",
    "trajectory-share-whole": "A later goal is chosen with p_traj; official: with p_traj / "
    "(1 − p_cur), as a current one is chosen afterwards.",
    "trajectory-over-current": "The later goal is put in after the current one; official: the "
    "current one last.",
    "draws-exchanged": "The two uniform numbers are exchanged; official: trajectory or random "
    "first, then current or not.",
    "policy-goal-of-value": "The policy is given the critics' goals; official: goals of its own, "
    "by another law.",
    "goal-at-horizon-reached": "A goal exactly h ahead counts as reached; official: it is "
    "bootstrapped.",
    "success-by-equality": "A state that equals the goal counts as success; official: the same row "
    "does. Representations repeat: a puzzle's buttons stay as they are (T3).",
    "reward-undiscounted": "The reward of a success is 1; official: γᵏ.",
    "reward-discounted-once": "The reward of a success is γ; official: γᵏ.",
    "mask-inverted": "masks are done flags; official: 0 where the goal was reached.",
    "success-bootstraps": "masks are 1 everywhere; official: 0 where the goal was reached.",
    "next-state-at-horizon": "The next state is h ahead, also where the goal is nearer; official: "
    "k ahead.",
    "next-state-one-ahead": "The next state is i + 1; official: i + k.",
    "actions-unclipped": "Actions are as in the file; official: clipped to ±(1 − 1e-5), though its "
    "code forgets that from the second file on (T6).",
}
"""What is wrong and what the official code does, by name."""


class Literal:
    """A data set in OGBench's file format: terminals are 1 on an episode's last state.

    goals  (N, G) what each state is as a goal; without: the observations
    """

    def __init__(self, data: Mapping[str, Array], mistakes: Collection[str] = ()) -> None:
        self.mistakes = frozenset(mistakes)
        self.observations = data["observations"].astype(np.float32)
        bound = np.float32(np.inf if "actions-unclipped" in mistakes else 1 - 1e-5)
        self.actions = np.array(
            [[min(max(a, -bound), bound) for a in row] for row in data["actions"]], np.float32
        )
        ends = [i for i, t in enumerate(data["terminals"]) if t]
        self.terminals = [0] * len(self.observations)
        for end in ends:
            self.terminals[end] = 1
            if "one-terminal" not in mistakes:
                self.terminals[max(end - 1, 0)] = 1
        self.valids = [0 if i in ends else 1 for i in range(len(self.observations))]
        self.goals = np.asarray(data.get("goals", self.observations), np.float32)

    def final(self, i: int) -> int:
        """The first terminal from i on."""
        while not self.terminals[i]:
            i += 1
        return i + ("final-state-last" in self.mistakes and self.valids[i])

    def starts(self, sampling: GoalSampling) -> list[int]:
        """first … e − h for every terminal e."""
        if sampling.starts == "all" or "starts-everywhere" in self.mistakes:
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
        u_traj, u_cur = draws.u_traj[b], draws.u_cur[b]
        if "draws-exchanged" in self.mistakes:
            u_traj, u_cur = u_cur, u_traj
        from_now = "trajectory-from-now" in self.mistakes
        if law.geometric:
            later = min(i + int(along) - from_now, f)
        else:
            d = 1 - along if "trajectory-reversed" in self.mistakes else along
            at = min(i + (not from_now), f) * d + f * (1 - d)
            later = int(at) if "trajectory-floor" in self.mistakes else round(at)
        share = law.trajectory / (1 - law.current)
        if "trajectory-share-whole" in self.mistakes:
            share = law.trajectory
        everywhere = "random-goals-everywhere" in self.mistakes
        goal = int(draws.random[b]) if everywhere else starts[int(draws.random[b])]
        current = bool(u_cur < law.current)
        if "trajectory-over-current" in self.mistakes:
            return later if u_traj < share else i if current else goal
        if u_traj < share:
            goal = later
        return i if current else goal

    def row(self, i: int, goal: int, sampling: GoalSampling) -> dict[str, Any]:
        """The batch's row of state i and this goal."""
        h, gamma, f = sampling.horizon, sampling.discount, self.final(i)
        if sampling.relabelling == "one-step":
            k, success = 1, i == goal
            if "success-by-equality" in self.mistakes:
                success = bool((self.goals[i] == self.goals[goal]).all())
            ahead = h if "next-state-at-horizon" in self.mistakes else 1
            following = min(i + ahead, len(self.observations) - 1)
            reward = (0.0 if success else -1.0) if sampling.negative else float(success)
        else:
            k, ahead = min(h, f - i), goal - i
            reached = ahead < k or (ahead <= k and "goal-at-horizon-reached" in self.mistakes)
            if ahead >= 0 and reached:
                k, success = ahead, True
            else:
                success = k < h
            if "success-by-equality" in self.mistakes:
                success = success or bool((self.goals[i + k] == self.goals[goal]).all())
            following = i + k
            reward = gamma**k * success
            if "reward-undiscounted" in self.mistakes:
                reward = float(success)
            if "reward-discounted-once" in self.mistakes:
                reward = gamma * success
            if sampling.negative:
                reward = -(1 - gamma**k) / (1 - gamma)
            if "next-state-at-horizon" in self.mistakes:
                following = min(i + h, f)
            if "next-state-one-ahead" in self.mistakes:
                following = i + 1
        mask = 1.0 - success
        if "mask-inverted" in self.mistakes:
            mask = float(success)
        if "success-bootstraps" in self.mistakes:
            mask = 1.0
        return {
            "obs": self.observations[i],
            "action": np.concatenate([self.actions[min(i + j, f)] for j in range(h)]),
            "goal": self.goals[goal],
            "next_obs": self.observations[following],
            "rewards": reward,
            "masks": mask,
            "steps": k,
            "valid": [i + j <= f for j in range(h)],
            "row": i,
            "goal_row": goal,
        }

    def batch(self, draws: BatchDraws, sampling: GoalSampling) -> dict[str, Array]:
        """Everything of a `GoalBatch`, in its dtypes, by name."""
        listed = self.starts(sampling)
        rows = [listed[position] for position in draws.start]
        laws = [(sampling.value_goals, draws.value)]
        if sampling.policy_goals is not None and draws.policy is not None:
            laws.append((sampling.policy_goals, draws.policy))
        if "policy-goal-of-value" in self.mistakes:
            laws = [laws[0] for _ in laws]
        goals = [
            [self.goal(i, law, drawn, b, listed) for b, i in enumerate(rows)] for law, drawn in laws
        ]
        whole = table([self.row(i, g, sampling) for i, g in zip(rows, goals[0], strict=True)])
        if len(goals) > 1:
            whole["policy_goal_row"] = np.array(goals[1])
            whole["policy_goal"] = self.goals[goals[1]]
        return whole


def table(rows: list[dict[str, Any]]) -> dict[str, Array]:
    """A batch of rows, in the dtypes of `GoalBatch`."""
    whole = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    floats = ("rewards", "masks")
    return {n: a.astype(np.float64) if n in floats else a for n, a in whole.items()}
