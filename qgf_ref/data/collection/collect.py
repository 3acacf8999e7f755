"""A whole data set: workers, progress, resumption, merging."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ref.data.collection.episode import SPLITS
from qgf_ref.data.collection.parts import (
    alone,
    array_names,
    kept_episodes,
    merge,
    part_path,
    take_over,
)
from qgf_ref.data.collection.recipe import CollectionRecipe, recipe
from qgf_ref.data.collection.workers import Collector, Job
from qgf_ref.data.tasks import dataset_of
from qgf_ref.errors import InputError
from qgf_ref.files import require_writable, user_path, write_json
from qgf_ref.processes import Crew
from qgf_ref.progress import progress
from qgf_ref.provenance import provenance

DEFAULT_OUT = Path("~/.ogbench/data")
_KEPT = "The finished episodes are kept: the same command goes on."
"""Where OGBench looks for data sets."""


@dataclass(frozen=True)
class CollectionPlan:
    """What to collect and where it goes. `make_plan` checks the numbers.

    recipe    how an episode is made
    seed      of all episodes
    episodes  number of training and validation episodes
    out       directory, absolute
    slices    0: one file for each split; n: a directory of n pairs of files
    """

    recipe: CollectionRecipe
    seed: int
    episodes: dict[str, int]
    out: Path
    slices: int = 0

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.recipe.dataset

    @property
    def parts(self) -> Path:
        """Where finished episodes wait for the merge."""
        return self.out / f".{self.name}.parts"

    @property
    def report(self) -> Path:
        """Configuration, provenance and speed."""
        return self.out / f"{self.name}.json"

    def configuration(self) -> dict[str, Any]:
        """All that an episode depends on besides its split and index."""
        return {"seed": self.seed, **self.recipe.configuration()}

    def jobs(self) -> list[Job]:
        """Every episode."""
        return [Job(split, n) for split in SPLITS for n in range(self.episodes[split])]

    def files(self) -> dict[Path, list[Job]]:
        """The files of the finished data set and the episodes in each, in order."""
        result: dict[Path, list[Job]] = {}
        pieces = max(self.slices, 1)
        for split in SPLITS:
            count, suffix = self.episodes[split], "" if split == "train" else f"-{split}"
            for piece in range(pieces):
                first, last = count * piece // pieces, count * (piece + 1) // pieces
                stem = f"{self.name}/{self.name}-{piece:03d}" if self.slices else self.name
                result[self.out / f"{stem}{suffix}.npz"] = [
                    Job(split, n) for n in range(first, last)
                ]
        return result


@dataclass(frozen=True)
class Collected:
    """A finished data set: its files, transitions by split, and this run's speed.

    episodes, seconds and steps_per_second are of what this run simulated itself, over all workers;
    resumed episodes are not in them.
    """

    files: tuple[Path, ...]
    report: Path
    transitions: dict[str, int]
    episodes: int
    seconds: float
    steps_per_second: float


def make_plan(
    dataset: str,
    *,
    episodes: int = 1000,
    val_episodes: int | None = None,
    seed: int = 0,
    out: Path = DEFAULT_OUT,
    episode_steps: int | None = None,
    slices: int = 0,
) -> CollectionPlan:
    """What `collect` shall do; `val_episodes` None: a tenth of `episodes`, at least 1 (and one for
    each slice). A goal-conditioned name stands for its data set: the same files serve both.

    Raises InputError for a data set that cannot be collected and for numbers out of range.
    """
    chosen = recipe(dataset_of(dataset), episode_steps)
    if val_episodes is None:
        val_episodes = max(episodes // 10, 1, slices)
    for what, count in (("training", episodes), ("validation", val_episodes)):
        if count < max(1, slices):
            need = f"one for each of the {slices} slices" if slices > 1 else "at least 1"
            raise InputError(f"need {need}, got {count} {what} episodes")
    if slices < 0 or seed < 0:
        raise InputError(f"slices and seed must be ≥ 0, got {slices} and {seed}")
    counts = {"train": episodes, "val": val_episodes}
    return CollectionPlan(chosen, seed, counts, user_path(out).absolute(), slices)


def collect(plan: CollectionPlan, workers: int = 1, overwrite: bool = False) -> Collected:
    """Collect the data set of `plan` in `workers` processes.

    The files' bytes depend on the plan alone, not on the number of workers or interruptions.
    Interrupted at any point, the finished episodes stay in `plan.parts`, and the same call goes on
    with them. Raises InputError when the data set exists already or the episodes kept are of other
    settings, unless `overwrite`; WorkerError when a worker dies.
    """
    if workers < 1:
        raise InputError(f"need at least 1 worker, got {workers}")
    _require_new(plan, overwrite)
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {plan.out}: {error.strerror or error}") from error
    for path in (plan.report, *([] if plan.slices else plan.files())):
        require_writable(path)
    with alone(plan.parts):
        damaged = take_over(plan.parts, plan.configuration(), overwrite)
        if damaged:
            print(f"{damaged} unreadable episodes in {plan.parts} removed", file=sys.stderr)
        simulated = _simulate(plan, workers)
        transitions = _merge(plan)
        write_json(plan.report, _report(plan, simulated, transitions))
        # an interrupted, larger collection may have left more than this one has used
        for job in plan.jobs():
            part_path(plan.parts, *job).unlink()
    if not kept_episodes(plan.parts):
        shutil.rmtree(plan.parts)
    return Collected(
        files=tuple(plan.files()),
        report=plan.report,
        transitions=transitions,
        episodes=simulated["episodes"],
        seconds=simulated["seconds"],
        steps_per_second=simulated["steps_per_second"],
    )


def _simulate(plan: CollectionPlan, workers: int) -> dict[str, Any]:
    kept = kept_episodes(plan.parts)
    everything = plan.jobs()
    jobs = [job for job in everything if job not in kept]
    start, steps, attempts, busy = time.perf_counter(), 0, 0, 0.0
    collector = Collector(plan.recipe, plan.seed, plan.parts)
    done = len(everything) - len(jobs)
    with (
        progress(len(everything), "episode", title=plan.name, first=done) as job,
        Crew(collector, max(1, min(workers, len(jobs))), _KEPT) as crew,
    ):
        for _, kept_now in crew.run(jobs):
            steps += kept_now.steps
            attempts += kept_now.attempts
            busy += kept_now.seconds
            job.say(f"{steps / (time.perf_counter() - start):.0f} steps/s")
            job.advance()
    seconds = time.perf_counter() - start
    return {
        "workers": workers,
        "episodes": len(jobs),
        "resumed_episodes": done,
        "discarded_attempts": attempts - len(jobs),
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "steps_per_second_per_worker": steps / busy if busy else 0.0,
    }


def _merge(plan: CollectionPlan) -> dict[str, int]:
    """Write the data set's files; none is in place before all are complete."""
    transitions = dict.fromkeys(SPLITS, 0)
    arrays = len(array_names(part_path(plan.parts, *plan.jobs()[0])))
    with ExitStack() as stack:
        # on the file system of the target, so that a rename suffices
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=plan.parts)))
        total = arrays * len(plan.jobs())
        merging = stack.enter_context(progress(total, "array", title="merging"))
        ready = {}
        for target, jobs in plan.files().items():
            ready[target] = place / target.name
            parts = [part_path(plan.parts, *job) for job in jobs]
            transitions[jobs[0][0]] += merge(parts, ready[target], merging.advance)
        for target, complete in ready.items():
            target.parent.mkdir(exist_ok=True)
            complete.replace(target)
    for stale in set(_existing(plan)) - set(plan.files()):
        stale.unlink()
    return transitions


def _require_new(plan: CollectionPlan, overwrite: bool) -> None:
    found = _existing(plan)
    if found and not overwrite:
        kept = len(kept_episodes(plan.parts))
        note = f" (it uses the {kept} episodes kept in {plan.parts} if they fit)" if kept else ""
        raise InputError(
            f"{found[0]} exists already; give --overwrite to replace it{note}, or another --out"
        )


def _existing(plan: CollectionPlan) -> list[Path]:
    """Files of the data set, from an earlier run, perhaps in other slices."""
    if not plan.slices:
        return [path for path in plan.files() if path.exists()]
    pattern = re.compile(rf"{re.escape(plan.name)}-[0-9]{{3}}(-val)?\.npz")
    directory = plan.out / plan.name
    return sorted(path for path in directory.glob("*") if pattern.fullmatch(path.name))


def _report(
    plan: CollectionPlan, simulated: dict[str, Any], transitions: dict[str, int]
) -> dict[str, Any]:
    return {
        "configuration": plan.configuration(),
        "episodes": plan.episodes,
        "transitions": transitions,
        "files": [str(path.relative_to(plan.out)) for path in plan.files()],
        "this_run": simulated,
        "provenance": provenance(),
    }
