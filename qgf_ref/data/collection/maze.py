"""Episodes of the point mazes: straight towards the next cell on the way to a random goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.collection.recipe import CollectionRecipe

Record = Callable[[Array, Array, bool, dict[str, Any]], None]
Cell = tuple[int, int]


def run_episode(env: Any, recipe: CollectionRecipe, env_seed: int, record: Record) -> None:
    """Run one episode in `env`, with NumPy's global generator as it is; `record` each step."""
    maze = env.unwrapped
    free, goals = free_cells(maze.maze_map), goal_cells(maze.maze_map)
    task = {"init_ij": _draw(free), "goal_ij": _draw(goals)}
    obs, _ = env.reset(seed=env_seed, options={"task_info": task})
    subgoals: dict[tuple[Cell, Cell], Array] = {}
    done = False
    while not done:
        xy, goal = maze.get_xy(), maze.cur_goal_xy
        cells = maze.xy_to_ij(xy), maze.xy_to_ij(goal)
        if cells not in subgoals:
            # it depends on the two cells alone, and is slower than the physics
            subgoals[cells] = maze.get_oracle_subgoal(xy, goal)[0]
        direction = subgoals[cells] - xy
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        noise = np.random.normal(0, recipe.noise, direction.shape)  # noqa: NPY002
        action = np.clip(direction + noise, -1, 1)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        record(obs, action, done, info)
        obs = next_obs
        if info["success"]:
            # set_goal(goal_ij) does the same, and writes NaN into the position of the goal's mark
            maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(_draw(goals))))


def free_cells(walls: Array) -> list[Cell]:
    """The cells (i, j) of the map (1: wall, 0: free) in which an episode may begin."""
    return [(int(i), int(j)) for i, j in np.argwhere(walls == 0)]


def goal_cells(walls: Array) -> list[Cell]:
    """The free cells that may be goals: in OGBench all but the inside of straight corridors.

    Such a cell is open on two opposite sides and closed on the other two.
    """
    padded = np.pad(walls == 0, 1)
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    corridor = (up & down & ~left & ~right) | (left & right & ~up & ~down)
    return [(int(i), int(j)) for i, j in np.argwhere((walls == 0) & ~corridor)]


def _draw(cells: list[Cell]) -> Cell:
    return cells[np.random.randint(len(cells))]  # noqa: NPY002
