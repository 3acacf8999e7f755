"""What a worker process does: simulate episodes and keep them on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qgf_ref.data.collection.episode import collect_episode
from qgf_ref.data.collection.parts import write_part
from qgf_ref.data.collection.recipe import CollectionRecipe


class Job(NamedTuple):
    """An episode that is to be collected."""

    split: str
    number: int

    def __str__(self) -> str:
        return f"{self.split} episode {self.number}"


class Kept(NamedTuple):
    """An episode that is on disk: its steps, attempts, and the seconds it took."""

    steps: int
    attempts: int
    seconds: float


@dataclass(frozen=True)
class Collector:
    """Collects episodes of `recipe` into part files in `directory`."""

    recipe: CollectionRecipe
    seed: int
    directory: Path

    @contextmanager
    def __call__(self) -> Iterator[Callable[[Job], Kept]]:
        """An environment, and the function that collects one episode in it."""
        env = self.recipe.make_env()

        def collect(job: Job) -> Kept:
            start = time.perf_counter()
            episode, attempts = collect_episode(env, self.recipe, self.seed, job.split, job.number)
            write_part(self.directory, job.split, job.number, episode)
            return Kept(len(episode["terminals"]), attempts, time.perf_counter() - start)

        try:
            yield collect
        finally:
            env.close()
