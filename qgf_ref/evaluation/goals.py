"""Episodes that reach goals: all goals of a problem in turn, each observation with its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.data.goals.representation import as_goals
from qgf_ref.data.tasks import GoalTask, Task, goal_task, task
from qgf_ref.evaluation.statistics import Estimate, wilson

WEIGHTS = (0.1, 0.3, 1.0, 3.0)
"""Guidance weights that are tried of a critic of logits or probabilities. Source: measured on
cube-single, goal_conditioned.md, section 6; a critic of returns has others."""


def goal_of(seed: int) -> int:
    """The goal of the episode of a seed: any five seeds in a row play all five."""
    return 1 + seed % GoalTask.GOALS


@dataclass(frozen=True)
class Goals:
    """A goal-conditioned problem as what an evaluation plays: its seeds tell the goals."""

    problem: GoalTask

    @property
    def name(self) -> str:
        """The problem's."""
        return self.problem.name

    @property
    def dataset(self) -> str:
        """The name of its data set."""
        return self.problem.dataset

    def make_env(self, **options: Any) -> WithGoal:
        """The environment, whose observations are [s, g]; `options` go to `gymnasium.make`."""
        return WithGoal(self.problem.make_env(**options), self.problem)


class WithGoal:
    """An environment whose observations are [s, g], g as `reset` gave it: no step repeats it."""

    def __init__(self, env: Any, problem: GoalTask) -> None:
        self._env, self._problem = env, problem
        self._goal = np.zeros(0, np.float32)
        observation, _ = self.reset(seed=0)
        self.observation_space = SimpleNamespace(shape=observation.shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, *, seed: int) -> tuple[Array, dict[str, Any]]:
        """To the goal of the seed, see `goal_of`."""
        options = self._problem.reset_options(goal_of(seed))
        state, info = self._env.reset(seed=seed, options=options)
        self._goal = as_goals(info["goal"], np.size(info["goal"]))[0]
        return self._with_goal(state), info

    def step(self, action: Array) -> tuple[Array, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        state, *rest = self._env.step(action)
        return (self._with_goal(state), *rest)

    def _with_goal(self, state: Any) -> Array:
        return np.concatenate([np.asarray(state), self._goal])


def problem_of(name: str, checkpoint: Checkpoint) -> Task | Goals:
    """What a checkpoint is played in, by name. Raises InputError on a name of the other kind."""
    if checkpoint.agent.of_goals:
        return Goals(goal_task(name))
    return task(name, f"{checkpoint.source}, of the agent {checkpoint.agent.name},")


def by_goal(seeds: Sequence[int], success: Sequence[bool]) -> dict[int, Estimate]:
    """Success rate with Wilson's interval of each goal."""
    goals = [goal_of(seed) for seed in seeds]
    return {
        goal: wilson(sum(s for g, s in zip(goals, success, strict=True) if g == goal),
                     goals.count(goal))
        for goal in sorted(set(goals))
    }  # fmt: skip
