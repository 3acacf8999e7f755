"""Stages on threads: the largest first, and idle threads help; bits do not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from qgf_ref.agents.stage import Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.errors import NonFiniteError
from qgf_ref.nets.networks import Networks
from qgf_ref.sharing import Helpers
from qgf_ref.threads import Once, in_parallel

R = TypeVar("R")

ROWS_TOGETHER = 8
"""What threads share is a multiple of this many rows: those of a tile."""


class Schedule(NamedTuple):
    """Who does what: stages by thread, and how many rows of `fixed` of the stage `helped` the
    thread `helper` computes before its own.
    """

    groups: list[list[str]]
    helper: int = 0
    helped: str = ""
    helped_rows: int = 0


def schedule(
    stages: Sequence[Stage], nets: Networks, rows: int, threads: int, steps: int = 1
) -> Schedule:
    """The stage of most work first, each to the thread that has least to do.

    steps  denoising steps, for stages that evaluate parts at each of them
    Then two threads share what divides without changing a bit: rows of what a loss holds fixed.
    """
    sizes = {name: net.params.count for name, net in vars(nets).items()}
    # matrix products in units of a forward: one forward, two for the backward
    reading = {
        s.name: sum(sizes[part] * steps * s.each_step.get(part, 1 / steps) for part in s.reads)
        for s in stages
    }
    work = {s.name: 3 * sum(sizes[part] for part in s.trains) + reading[s.name] for s in stages}
    groups: list[list[str]] = [[] for _ in range(min(threads, len(work)))]
    loads = [0] * len(groups)
    for name in sorted(work, key=lambda n: -work[n]):
        least = loads.index(min(loads))
        groups[least].append(name)
        loads[least] += work[name]
    divisible = [s.name for s in stages if s.fixed is not None]
    if not divisible:
        return Schedule(groups)
    helper, helped = loads.index(min(loads)), divisible[0]
    lead = next(load for load, group in zip(loads, groups, strict=True) if helped in group)
    share = min(1.0, (lead - loads[helper]) / 2 / reading[helped])
    return Schedule(groups, helper, helped, round(share * rows / ROWS_TOGETHER) * ROWS_TOGETHER)


def run_stages(
    stages: Sequence[Stage],
    inputs: StageInputs,
    work: Callable[[Stage, StageInputs], R],
    threads: int = 1,
) -> dict[str, R]:
    """`work` of each stage, by name, on up to `threads` threads.

    Raises NonFiniteError of the first stage that did, whichever thread came first.
    """
    rows = len(inputs.batch.obs)
    groups, helper, helped, most = schedule(
        stages, inputs.nets, rows, threads, inputs.hyper.denoise_steps
    )
    by_name = {stage.name: stage for stage in stages}
    head = slice(min(most, rows))
    help_first = Once(lambda: by_name[helped].fixed_rows(inputs, head))
    results: dict[str, R] = {}
    errors: dict[str, NonFiniteError] = {}
    handling = np.geterr()  # a thread has its own

    def fixed(stage: Stage) -> Array | None:
        if stage.fixed is None:
            return None
        if stage.name != helped or not head.stop:
            return stage.fixed(inputs)
        tail = slice(head.stop, None)
        parts = [stage.fixed_rows(inputs, tail)] if head.stop < rows else []
        # last, so that the helper has had time
        parts.insert(0, help_first())
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def run(thread: int) -> None:
        with np.errstate(**handling), helpers.at_work():
            if head.stop and thread == helper:
                help_first()
            for name in groups[thread]:
                stage = by_name[name]
                try:
                    results[name] = work(stage, replace(inputs, fixed=fixed(stage)))
                except NonFiniteError as error:
                    errors[name] = error

    helpers = Helpers(len(groups))
    in_parallel([partial(run, thread) for thread in range(len(groups))], helpers.stop)
    for stage in stages:
        if stage.name in errors:
            raise errors[stage.name]
    return results
