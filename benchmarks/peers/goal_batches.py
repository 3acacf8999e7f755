"""Goal-conditioned batches as the official NumPy code makes them, from the specification.

A peer of DQC's `CGCDataset` over OGBench's compact data set: every array of the data set is indexed
by the batch's rows, starts are a list of rows, chunks are gathered one action at a time, and random
numbers come from NumPy's global generator, in the official order.
Source: goal_conditioned.md, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.arrays import Array

LOSS_KEYS = (
    "observations",
    "high_value_goals",
    "high_value_action_chunks",
    "high_value_next_observations",
    "high_value_rewards",
    "high_value_masks",
    "high_value_backup_horizon",
    "valids",
)
"""What DQC's losses read of a batch."""


@dataclass
class OfficialGoals:
    """A compact data set and DQC's settings. All of it, as there: the data set's keys first.

    data     observations, actions, terminals (doubled), valids, oracle_reps
    parts    probabilities of current, trajectory and random goals
    lean     without the arrays that no loss reads
    """

    data: dict[str, Array]
    horizon: int
    discount: float
    parts: tuple[float, float, float]
    lean: bool = False

    def __post_init__(self) -> None:
        (self.terminal_locs,) = np.nonzero(self.data["terminals"] > 0)
        first, lists = 0, []
        for terminal in self.terminal_locs:
            lists.append(np.arange(first, terminal + 1 - self.horizon))
            first = terminal + 1
        self.starts = np.concatenate(lists)

    def random_rows(self, rows: int) -> Array:
        """Uniform on the list of starts."""
        return self.starts[np.random.randint(len(self.starts), size=rows)]  # noqa: NPY002

    def goals(self, index: Array) -> Array:
        """Rows of goals, uniform along the trajectory."""
        rows, (current, trajectory, _) = len(index), self.parts
        random = self.random_rows(rows)
        final = self.terminal_locs[np.searchsorted(self.terminal_locs, index)]
        d = np.random.rand(rows)  # noqa: NPY002
        later = np.round(np.minimum(index + 1, final) * d + final * (1 - d)).astype(int)
        chosen = np.where(
            np.random.rand(rows) < trajectory / (1.0 - current),  # noqa: NPY002
            later,
            random,
        )
        return np.where(np.random.rand(rows) < current, index, chosen)  # noqa: NPY002

    def sample(self, rows: int) -> dict[str, Array]:
        """One batch."""
        data, index, h = self.data, self.random_rows(rows), self.horizon
        keys = ("observations",) if self.lean else tuple(data)
        batch = {key: data[key][index] for key in keys}
        if not self.lean:
            following = np.minimum(index + 1, len(data["observations"]) - 1)
            batch["next_observations"] = data["observations"][following]
            batch["next_actions"] = data["actions"][following]
        final = self.terminal_locs[np.searchsorted(self.terminal_locs, index)]
        goal = self.goals(index)
        steps = np.minimum(np.full(rows, h), final - index)
        ahead = goal - index
        steps = np.where((ahead >= 0) & (ahead < steps), ahead, steps)
        if not self.lean:
            batch["high_value_reps"] = data["oracle_reps"][index]
            batch["high_value_offsets"] = goal - index
        batch["high_value_goals"] = data["oracle_reps"][goal]
        batch["high_value_next_observations"] = data["observations"][index + steps]
        offsets = np.arange(h)
        chunk = np.minimum(index[:, None] + offsets, final[:, None])
        batch["valids"] = (index[:, None] + offsets <= final[:, None]).astype(float)
        batch["high_value_action_chunks"] = data["actions"][chunk].reshape(rows, -1)
        success = (steps < h).astype(float)
        batch["high_value_backup_horizon"] = steps
        batch["high_value_masks"] = 1.0 - success
        batch["high_value_rewards"] = (self.discount**steps) * success
        if not self.lean:
            same = (index == goal).astype(float)
            batch["masks"], batch["rewards"] = 1.0 - same, same
        return batch
