"""Goal-conditioned batches as a NumPy port writes them: whole arrays at once, in the terms of the
official code. `wrong` makes one of the mistakes of ports, at the line where they make it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.goals.sampling import BatchDraws, GoalDraws, GoalLaw, GoalSampling


def port_batch(
    data: dict[str, Array], draws: BatchDraws, sampling: GoalSampling, wrong: str = ""
) -> dict[str, Any]:
    size, h, gamma = len(data["observations"]), sampling.horizon, sampling.discount
    terminals = data["terminals"] > 0
    if wrong != "one-terminal":
        terminals = terminals | np.append(terminals[1:], False)
    locs = np.nonzero(terminals)[0]
    finals = locs[np.searchsorted(locs, np.arange(size))]
    admissible = np.nonzero(np.arange(size) + h <= finals)[0]
    if wrong == "starts-everywhere":
        admissible = np.nonzero(data["terminals"] == 0)[0]
    if wrong == "final-state-last":
        ends = np.nonzero(data["terminals"])[0]
        finals = ends[np.searchsorted(ends, np.arange(size))]
    idxs = admissible[draws.start]
    final = finals[idxs]

    def sample_goals(law: GoalLaw, drawn: GoalDraws) -> Array:
        traj, cur = drawn.u_traj, drawn.u_cur
        assert traj is not None and cur is not None
        if wrong == "draws-exchanged":
            traj, cur = cur, traj
        random = drawn.random if wrong == "random-goals-everywhere" else admissible[drawn.random]
        nearest = idxs if wrong == "trajectory-from-now" else np.minimum(idxs + 1, final)
        if law.geometric:
            offsets = drawn.along - (wrong == "trajectory-from-now")
            later = np.minimum(idxs + offsets, final)
        else:
            d = 1 - drawn.along if wrong == "trajectory-reversed" else drawn.along
            later = nearest * d + final * (1 - d)
            later = np.floor(later) if wrong == "trajectory-floor" else np.round(later)
        divided = 1 if wrong == "trajectory-share-whole" else 1 - law.current
        along = traj < law.trajectory / divided
        if wrong == "trajectory-over-current":
            return np.where(along, later, np.where(cur < law.current, idxs, random)).astype(int)
        goals = np.where(along, later, random)
        return np.where(cur < law.current, idxs, goals).astype(int)

    goal_idxs = sample_goals(sampling.value_goals, draws.value)
    assert sampling.policy_goals is not None and draws.policy is not None
    law, drawn = sampling.policy_goals, draws.policy
    if wrong == "policy-goal-of-value":
        law, drawn = sampling.value_goals, draws.value
    policy_idxs = sample_goals(law, drawn)

    offset = goal_idxs - idxs
    steps = np.minimum(h, final - idxs)
    nearer = offset <= steps if wrong == "goal-at-horizon-reached" else offset < steps
    reached = (offset >= 0) & nearer
    steps = np.where(reached, offset, steps)
    success = reached | (steps < h)
    if wrong == "success-by-equality":
        success = success | (data["goals"][idxs + steps] == data["goals"][goal_idxs]).all(axis=-1)
    power = {"reward-undiscounted": 0 * steps, "reward-discounted-once": 1 + 0 * steps}
    rewards = np.float32(gamma) ** power.get(wrong, steps) * success
    masks = {"mask-inverted": success, "success-bootstraps": success | True}.get(wrong, ~success)
    following = {
        "next-state-at-horizon": np.minimum(idxs + h, final),
        "next-state-one-ahead": idxs + 1,
    }.get(wrong, idxs + steps)
    actions = data["actions"]
    if wrong != "actions-unclipped":
        actions = np.clip(actions, np.float32(-(1 - 1e-5)), np.float32(1 - 1e-5))
    window = np.minimum(idxs[:, None] + np.arange(h), final[:, None])
    return {
        "obs": data["observations"][idxs],
        "action": actions[window],  # (B, h, A)
        "goal": data["goals"][goal_idxs],
        "policy_goal": data["goals"][policy_idxs],
        "next_obs": data["observations"][following],
        "rewards": rewards.astype(np.float32)[:, None],
        "masks": masks.astype(np.float32),
    }
