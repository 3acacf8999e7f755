"""Success rates in the environment, now and then, while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qgf_ref.data.tasks import Task
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.state import RunState


@contextmanager
def evaluator(
    config: TrainConfig, problem: Task
) -> Iterator[Callable[[RunState], dict[str, float]] | None]:
    """A function from the state to success rates, or None when the configuration asks for none."""
    yield None
