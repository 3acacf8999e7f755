"""What a worker process does: play groups of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.backends.engine import Engine
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.records import Unit
from qgf_ref.evaluation.rollouts import Played, Policy, Simulator, TaskLike
from qgf_ref.processes import Crew

_KEPT = "Finished groups are kept: run again to go on, perhaps with fewer --workers."


@dataclass(frozen=True)
class RolloutSetup:
    """What a worker plays with: the checkpoints by number, the task, environments per group, and
    what its sampler runs on.
    """

    checkpoints: tuple[Checkpoint, ...]
    task: TaskLike
    envs: int
    engine: Engine = field(default_factory=Engine.of)

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Unit], Played]]:
        """Environments, and the function that plays one group in them."""
        with Simulator(self.task, self.envs) as simulator:

            def play(unit: Unit) -> Played:
                checkpoint = self.checkpoints[unit.checkpoint]
                policy = Policy.of(checkpoint, unit.method, unit.weight, self.engine)
                return simulator.play(policy, unit.seeds)

            yield play


def workers(stage: RolloutSetup, count: int) -> Crew[Unit, Played]:
    """`count` workers; one is this process itself."""
    if stage.engine.backend.executor is not None and count > 1:
        # once, here: else every worker would compile the same on the first use of all
        first = stage.checkpoints[0]
        obs, noise = np.zeros((1, first.obs_dim)), np.zeros((1, first.flat_action_dim))
        Policy.of(first, Method(), None, stage.engine.single).act(obs, noise)
    return Crew(stage, count, _KEPT)
