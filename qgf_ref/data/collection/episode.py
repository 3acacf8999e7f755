"""One episode, a function of (recipe, seed, split, index) alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.collection import manipulation, maze
from qgf_ref.data.collection.recipe import CollectionRecipe
from qgf_ref.errors import QGFError

SPLITS = ("train", "val")
MOST_ATTEMPTS = 100
Episode = dict[str, Array]


@dataclass
class Recorder:
    """What is kept of each transition: the state before it, and the action."""

    rows: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, obs: Array, action: Array, done: bool, info: dict[str, Any]) -> None:
        """Add one transition; `info` is that of the step, which tells the state before it."""
        row = {
            "observations": obs,
            "actions": action,
            "terminals": done,
            "qpos": info["prev_qpos"],
            "qvel": info["prev_qvel"],
        }
        if "prev_button_states" in info:
            row["button_states"] = info["prev_button_states"]
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)

    def arrays(self) -> Episode:
        """observations (n, O), actions (n, A), qpos and qvel in float32, terminals (n,) in bool,
        button_states (n, buttons) in int64 where there are buttons: OGBench's keys and dtypes.
        """
        dtypes = {"terminals": np.bool_, "button_states": np.int64}
        return {
            name: np.array(rows, dtype=dtypes.get(name, np.float32))
            for name, rows in self.rows.items()
        }


def collect_episode(
    env: Any, recipe: CollectionRecipe, seed: int, split: str, index: int
) -> tuple[Episode, int]:
    """Episode number `index` of `split` (train or val), and the number of attempts it took.

    `env` is `recipe.make_env()`, fresh or used. It, its action space and NumPy's global generator
    are seeded from (seed, split, index, attempt), so that neither the order of the episodes nor
    the process matters. A scene episode that loses its cube is discarded, as in OGBench, and
    repeated with the next attempt's seed. Raises QGFError after 100 of those.
    """
    run = maze.run_episode if recipe.kind == "navigate" else manipulation.run_episode
    for attempt in range(MOST_ATTEMPTS):
        entropy = np.random.SeedSequence((seed, SPLITS.index(split), index, attempt))
        *words, space_seed, env_seed = (int(word) for word in entropy.generate_state(6))
        np.random.seed(words)  # noqa: NPY002  (it is this generator that OGBench draws from)
        env.unwrapped.action_space.seed(space_seed)
        recorder = Recorder()
        run(env, recipe, env_seed, recorder.add)
        episode = recorder.arrays()
        if manipulation.is_healthy(env, recipe, episode["qpos"]):
            return episode, attempt + 1
    raise QGFError(f"{split} episode {index}: the cube was lost in {MOST_ATTEMPTS} attempts")
