"""Compact trajectories: every state kept, and which of them windows and goals may begin at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.datasets import checked_ends, read_dataset, told_of_cache
from qgf_ref.data.goals.representation import Representation, goal_representation
from qgf_ref.data.tasks import GoalTask, make_env
from qgf_ref.data.windows import ACTION_CLIP_EPS
from qgf_ref.errors import InputError

ShortEpisodes = Literal["refuse", "skip"]
SHORT_EPISODES: tuple[ShortEpisodes, ...] = ("refuse", "skip")


@dataclass(frozen=True)
class Starts:
    """The rows at which windows begin: a list of which only the episodes' parts are kept.

    until  (K,) how many starts there are up to the end of each contributing episode
    shift  (K,) an episode's first row minus the number of starts before it
    final  (K,) row of s_{T−1}, the last state that is a goal or is bootstrapped from
    each   starts of every episode where all have as many, else 0: then it is a search
    """

    until: Array
    shift: Array
    final: Array
    each: int

    def __len__(self) -> int:
        return int(self.until[-1])

    def at(self, positions: Array) -> tuple[Array, Array]:
        """Rows and final rows (B,) of positions (B,), 0 … len − 1, in the list."""
        if self.each:
            episode = positions // self.each
        else:
            episode = self.until.searchsorted(positions, side="right")
        return positions + self.shift[episode], self.final[episode]


@dataclass(frozen=True)
class Trajectories:
    """Episodes of T ≥ 1 transitions, one after the other, with all T + 1 states s_0 … s_T of each.

    observations    (N, O) float32
    actions         (N, A) float32, C-contiguous; that of s_T is never used
    ends            (K,) int64, the row of each episode's s_T
    goal_source     (N, ·) what goals are made of: columns of the file, or the observations
    representation  how; None: goals are whole observations
    Nothing of a goal is computed before a batch asks for it.
    """

    observations: Array
    actions: Array
    ends: Array
    goal_source: Array
    representation: Representation | None = None

    def __len__(self) -> int:
        """Transitions."""
        return len(self.observations) - len(self.ends)

    @property
    def goal_dim(self) -> int:
        """G."""
        return int(self.goal_source.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        arrays = {id(a): a for a in vars(self).values() if isinstance(a, np.ndarray)}
        return sum(array.nbytes for array in arrays.values())

    @property
    def episode_transitions(self) -> Array:
        """T of each episode (K,)."""
        return np.diff(self.ends, prepend=-1) - 1

    def goals(self, rows: Array) -> Array:
        """The goals (B, G), float32, that the states in `rows` (B,) are."""
        source = self.goal_source.take(rows, axis=0)
        return source if self.representation is None else self.representation.of(source)

    def finals(self, rows: Array) -> Array:
        """The final row of each of `rows` (B,): s_{T−1} of its episode, or s_T for s_T itself.

        OGBench's compact form doubles the terminal: it is 1 on s_{T−1} and on s_T, and the first
        one from a row on is its final row.
        """
        end = self.ends[self.ends.searchsorted(rows)]
        return end - (rows < end)

    def starts(self, horizon: int) -> Starts:
        """The rows i with i + horizon ≤ T − 1 in their episode: T − horizon of each.

        `horizon` 0: every row that has an action. An episode with T ≤ horizon has none. Raises
        InputError when no episode has one.
        """
        counts = self.episode_transitions - horizon
        some = counts > 0
        if not some.any():
            longest = int(self.episode_transitions.max(initial=0))
            raise InputError(
                f"no episode is longer than the horizon of {horizon}: the longest of "
                f"{len(self.ends)} has {longest} transitions. Choose a horizon below that"
            )
        first = np.concatenate([[0], self.ends[:-1] + 1])[some]
        kept = counts[some]
        until, each = np.cumsum(kept), int(kept[0]) if (kept == kept[0]).all() else 0
        return Starts(until, first - (until - kept), self.ends[some] - 1, each)

    def too_short(self, horizon: int) -> int:
        """The number of episodes with T ≤ horizon, which contribute neither window nor goal."""
        return int((self.episode_transitions <= horizon).sum())


def load_trajectories(
    path: Path,
    task: GoalTask,
    *,
    horizon: int = 1,
    short: ShortEpisodes = "refuse",
    action_clip_eps: float = ACTION_CLIP_EPS,
) -> Trajectories:
    """One OGBench file as compact trajectories with the goals of `task`.

    horizon  of the windows to come: episodes of T ≤ horizon transitions would contribute nothing,
             silently in the official code; short "refuse": InputError says how many there are,
             "skip": they stay, and contribute nothing
    Actions are clipped to ±(1 − action_clip_eps) in every file, also in those after the first
    (the official code forgets to: T6 in the specification's list).

    Raises InputError on a file that is truncated or lacks an array, whose arrays contradict each
    other or the task, or whose actions leave [−1, 1].
    """
    representation = goal_representation(task)
    needs = () if representation is None else representation.needs
    data = read_dataset(path, ("observations", "actions", "terminals"), needs)
    with told_of_cache(path):
        loaded = compact(data, representation, path, action_clip_eps)
    width = _observation_width(task.env_id)
    if loaded.observations.shape[1] != width:
        raise InputError(
            f"{task.env_id} has observations of width {width}, {path} has "
            f"{loaded.observations.shape[1]}: is it the data set {task.dataset}?"
        )
    require_long_episodes(loaded, horizon, short, path)
    return loaded


def compact(
    data: dict[str, Array],
    representation: Representation | None,
    path: Path,
    action_clip_eps: float = ACTION_CLIP_EPS,
) -> Trajectories:
    """The arrays of an OGBench file (terminals 1 on s_T) as trajectories, which take them over.

    Raises InputError, naming `path`, as `load_trajectories` on the file itself.
    """
    ends = checked_ends(path, data, 1)
    observations = data["observations"].astype(np.float32, order="C", copy=False)
    actions = data["actions"].astype(np.float32, order="C", copy=False)
    bound = 1 - action_clip_eps
    return Trajectories(
        observations=observations,
        actions=np.clip(actions, -bound, bound, out=actions),
        ends=ends,
        goal_source=observations if representation is None else representation.source(data, path),
        representation=representation,
    )


def require_long_episodes(
    data: Trajectories, horizon: int, short: ShortEpisodes, path: object
) -> None:
    """Raise InputError, saying how many, where episodes of T ≤ horizon shall not be skipped."""
    if short not in SHORT_EPISODES:
        raise InputError(f"short must be one of {', '.join(SHORT_EPISODES)}; got {short!r}")
    few = data.too_short(horizon)
    smaller = "choose a smaller horizon (qgf-ref train --backup-horizon, qgf-ref goals --horizon)"
    if few == len(data.ends):
        raise InputError(
            f"{path}: no episode has more than {horizon} transitions, so there is no window of "
            f"{horizon} (the longest has {data.episode_transitions.max()}): {smaller}"
        )
    if few and short == "refuse":
        shortest = int(data.episode_transitions.argmin())
        raise InputError(
            f"{path}: {few} of {len(data.ends)} episodes have no more than {horizon} transitions "
            f"and would contribute no window of {horizon} (episode {shortest} has "
            f"{data.episode_transitions[shortest]}): {smaller}, or leave them out knowingly (in "
            "Python short='skip'; --short-episodes skip)"
        )


@lru_cache(maxsize=4)
def _observation_width(env_id: str) -> int:
    env = make_env(env_id)
    width = int(env.observation_space.shape[0])
    env.close()
    return width
