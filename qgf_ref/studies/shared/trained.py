"""What the studies of trained checkpoints share: observations, estimators, BC chains, intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, matrix
from qgf_ref.audit.chain import STATE_WEIGHT
from qgf_ref.data.datasets import DatasetFiles, find_dataset, read_dataset
from qgf_ref.data.tasks import task as ogbench_task
from qgf_ref.denoising import denoising_step
from qgf_ref.errors import InputError
from qgf_ref.evaluation.records import digest
from qgf_ref.evaluation.statistics import Estimate, bootstrap_mean, student_mean
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.interop.load import embedded_observations, is_embedded
from qgf_ref.sampling import trace
from qgf_ref.studies.base import StudySettings, fill
from qgf_ref.training.record import RECORD, Record


def dataset_files(settings: StudySettings, checkpoint_index: int) -> DatasetFiles:
    """The data set of settings.task: at settings.data, else where the run of the checkpoint had it
    (its train.json), else in OGBench's cache.

    Raises InputError as `find_dataset`, and when the task is not known.
    """
    if settings.task is None:
        raise InputError("the study needs the task, whose data set it compares with: give --task")
    path = settings.data
    directory = Path(settings.checkpoints[checkpoint_index].source).parent
    if path is None and (directory / RECORD).exists():
        path = Record.read(directory).config.data
    return find_dataset(ogbench_task(settings.task).dataset, path)


def common_times(settings: StudySettings) -> tuple[float, ...]:
    """The times t_k of every checkpoint's sampler, by which numbers are compared.

    Raises InputError without checkpoints, when they differ in T, and when one is given twice: its
    numbers would count as those of another training seed.
    """
    if not settings.checkpoints:
        raise InputError("the study needs a trained checkpoint: give --checkpoint")
    if len({digest(c) for c in settings.checkpoints}) < len(settings.checkpoints):
        raise InputError("the same checkpoint is given twice; several are meant to be seeds")
    times = {c.flow.times for c in settings.checkpoints}
    if len(times) > 1:
        steps = ", ".join(str(len(c.flow.times)) for c in settings.checkpoints)
        raise InputError(f"the checkpoints differ in their denoising steps: T = {steps}")
    return times.pop()


def observations(settings: StudySettings, checkpoint_index: int, rows: int) -> Array:
    """Observations (rows, O), float32, on which checkpoint number `checkpoint_index` is studied.

    Of the checkpoint inside the package, its own (at most 256), unless settings.data is given; of
    any other, states of the data set's validation episodes (of its training episodes where it has
    none), drawn without replacement, the same for every checkpoint.
    Raises InputError as `dataset_files`, and on a data set of another width.
    """
    checkpoint = settings.checkpoints[checkpoint_index]
    if is_embedded(checkpoint) and settings.data is None:
        every = embedded_observations()
        return every[: min(rows, len(every))]
    files = dataset_files(settings, checkpoint_index)
    path = files.validation or files.train[0]
    name = "observations"
    states = matrix(
        read_dataset(path, (name,))[name],
        f"{path}: {name}",
        columns=checkpoint.obs_dim,
        dtype=np.float32,
    )
    chosen = np.random.default_rng((settings.seed, 11)).permutation(len(states))[:rows]
    return states[np.sort(chosen)]


def chain(flow: GuidedFlow, obs: Array, seed: int) -> list[DenoisingStep]:
    """The T states of the denoising chain without guidance (BC) from obs (B, O).

    Their weight is that at which estimators are asked whose G depends on it.
    """
    rng = np.random.default_rng((seed, 12))
    noise = rng.standard_normal((len(obs), flow.field.action_dim))
    run = trace(flow, obs, estimator="none", noise=noise)
    return [denoising_step(flow, run.obs, a, k, STATE_WEIGHT) for k, a in enumerate(run.a)]


def chains(settings: StudySettings, rows: int) -> Iterator[tuple[GuidedFlow, list[DenoisingStep]]]:
    """Each checkpoint's flow, and the `chain` of its `observations`. Raises InputError as these."""
    for index, checkpoint in enumerate(settings.checkpoints):
        yield (
            checkpoint.flow,
            chain(checkpoint.flow, observations(settings, index, rows), settings.seed),
        )


def normal_offsets(states: Sequence[DenoisingStep], seed: tuple[int, ...], *draws: int) -> Array:
    """Standard normal ξ (*draws, T, B, D) for the actions of T states, in their dtype."""
    action = states[0].action
    xi = np.random.default_rng(seed).standard_normal((*draws, len(states), *action.shape))
    return xi.astype(action.dtype)


def usable_estimators(
    settings: StudySettings, names: Sequence[str] | None = None
) -> tuple[list[Estimator], dict[str, str]]:
    """The estimators to study, and for each that the checkpoints cannot run, why.

    settings.estimators, all of which must run; else those of `names` (default: every learned one
    of the registry but "none") that run on every checkpoint: some need a network of their own.
    Raises InputError when one of settings.estimators does not run.
    """
    wanted = settings.estimators or names or learned_estimator_names()
    usable: list[Estimator] = []
    without: dict[str, str] = {}
    for spec in wanted:
        e = estimator(spec)
        if e.name == "none":
            continue
        try:
            for checkpoint in settings.checkpoints:
                flow = checkpoint.flow
                still = np.zeros((1, flow.field.action_dim), checkpoint.dtype)
                obs = np.zeros((1, checkpoint.obs_dim), checkpoint.dtype)
                e(flow, denoising_step(flow, obs, still, 0, 0.1))
        except InputError as error:
            if settings.estimators is not None:
                raise
            without[e.label] = str(error)
        else:
            usable.append(e)
    if not usable:
        raise InputError("no estimator to study: give one that guides, e.g. --estimators qgf")
    return usable, without


def ratio(x: Array, y: Array) -> Array:
    """x/y, NaN where y is not above 0. y broadcasts to x."""
    return np.divide(x, y, out=np.full(x.shape, np.nan), where=np.broadcast_to(y, x.shape) > 0)


def at_step(values_by_checkpoint: Sequence[Array], k: int | None) -> list[Array]:
    """Of values (T, B) those of step k, (B,); with None, each row's mean over its defined ones."""
    if k is not None:
        return [values[k] for values in values_by_checkpoint]
    defined = [~np.isnan(values) for values in values_by_checkpoint]
    pairs = zip(values_by_checkpoint, defined, strict=True)
    return [ratio(np.where(d, x, 0).sum(axis=0), d.sum(axis=0)) for x, d in pairs]


def interval(values_by_checkpoint: Sequence[Array]) -> Estimate:
    """A mean and its 95% interval. One array of values, one for each observation, a checkpoint.

    Several checkpoints: the mean of their means, Student's t over checkpoints, since training
    seeds differ by more than observations do. One: a bootstrap over its observations.
    NaN values (undefined, such as the cosine of a zero gradient) are left out; NaN where none is
    left.
    """
    arrays = [np.asarray(v, dtype=np.float64) for v in values_by_checkpoint]
    kept = [v[~np.isnan(v)] for v in arrays]
    kept = [v for v in kept if len(v)]
    if not kept:
        return Estimate(np.nan, np.nan, np.nan)
    if len(values_by_checkpoint) > 1:
        return student_mean([float(v.mean()) for v in kept])
    return bootstrap_mean(kept[0])


def time_rows(
    head: Mapping[str, Any],
    values_by_checkpoint: Sequence[Array],
    times: Sequence[float],
    steps: Iterable[int | None] = (None,),
) -> list[dict[str, Any]]:
    """Long-form rows of values (T, B): their `interval` at each of `steps`, column "time" its t_k,
    or "all" for None.
    """
    return [
        {**head, "time": "all" if k is None else times[k]}
        | interval(at_step(values_by_checkpoint, k))._asdict()
        for k in steps
    ]


def interval_over(settings: StudySettings) -> str:
    """What the intervals of `interval` are over, for a study's text."""
    count = len(settings.checkpoints)
    if count > 1:
        return f"95% intervals over {count} checkpoints (Student's t)"
    return "95% intervals over observations of one checkpoint (bootstrap), not over training seeds"


def left_out(without: Mapping[str, str]) -> list[str]:
    """A paragraph for each estimator that could not take part."""
    return [fill(f"Without {name}: {why}", "  ") for name, why in without.items()]
