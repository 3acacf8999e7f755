"""What a worker process does: play groups of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qgf_ref.evaluation.records import Unit
from qgf_ref.evaluation.rollouts import Played, Policy, Simulator, TaskLike
from qgf_ref.interop.checkpoint import Checkpoint
from qgf_ref.processes import Crew

_KEPT = "Finished groups are kept: run again to go on, perhaps with fewer --workers."


@dataclass(frozen=True)
class Stage:
    """What a worker plays with: the checkpoints by number, the task, environments per group."""

    checkpoints: tuple[Checkpoint, ...]
    task: TaskLike
    envs: int

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Unit], Played]]:
        """Environments, and the function that plays one group in them."""
        with Simulator(self.task, self.envs) as simulator:

            def play(unit: Unit) -> Played:
                checkpoint = self.checkpoints[unit.checkpoint]
                policy = Policy.of(checkpoint, unit.method, unit.weight)
                return simulator.play(policy, unit.seeds)

            yield play


def workers(stage: Stage, count: int) -> Crew[Unit, Played]:
    """`count` workers; one is this process itself."""
    return Crew(stage, count, _KEPT)
