"""Success rates in the environment, now and then, while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qgf_ref.data.tasks import GoalTask, Task
from qgf_ref.evaluation.goals import Goals
from qgf_ref.evaluation.protocol import success_rate
from qgf_ref.evaluation.rollouts import Simulator
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.state import RunState

ENVIRONMENTS = 8


@contextmanager
def evaluator(
    config: TrainConfig, problem: Task | GoalTask
) -> Iterator[Callable[[RunState], dict[str, float]] | None]:
    """A function from the state to success rates, or None when the configuration asks for none.

    It plays the episodes of seeds 0, 1, …, the same at every call, with behaviour cloning and with
    `qgf` at config.evaluate_weight, if the agent has a flow to guide, and draws nothing from the
    run's own generator.
    """
    if config.evaluate_every == 0:
        yield None
        return
    seeds = range(config.evaluate_episodes)
    methods: list[tuple[str, float | None]] = [("none", None)]
    if config.trained_agent().guided:
        methods.append(("qgf", config.evaluate_weight))
    played = Goals(problem) if isinstance(problem, GoalTask) else problem
    with Simulator(played, min(ENVIRONMENTS, len(seeds))) as simulator:

        def rates(state: RunState) -> dict[str, float]:
            checkpoint = state.checkpoint(config)
            found = {}
            for method, weight in methods:
                cell = success_rate(checkpoint, played, method, weight, seeds, simulator=simulator)
                name = "success_bc" if weight is None else "success_qgf"
                found[name] = float(cell.success.value)
            return found

        yield rates
