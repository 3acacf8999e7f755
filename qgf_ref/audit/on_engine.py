"""What an audit asks of estimators at many states: on which engine, in how many calls and threads.

Nothing that is verified runs here: only what repeats a reference that has been.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.memory import Memory
from qgf_ref.arrays import Array
from qgf_ref.audit.rules import flow_of
from qgf_ref.backends.engine import Engine, with_networks
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped
from qgf_ref.guidance.registry import FunctionEstimator
from qgf_ref.nets.joint import JointMLP
from qgf_ref.threads import results_of, thread_count

REFERENCE = Engine.of("numpy")
R = TypeVar("R")
WORTH_THREADS = 500_000
"""Parameters of a network from which the reference's arrays are so large that two threads do not
wait for Python's lock most of the time."""


def reference_threads(checkpoint: Checkpoint) -> int:
    """How many pieces of an audit may run on the reference at once: 1 of small networks, and of
    networks that are not this package's.
    """
    networks = [checkpoint.network(name) for name in checkpoint.params]
    flow = flow_of(checkpoint)
    networks += [] if flow is None else [flow.field, flow.critic]
    known = all(map(_our_network, networks))
    large = max((n.params.count for n in networks if known), default=0) >= WORTH_THREADS
    return thread_count() if large else 1


REMEMBERED = 2**29
"""Bytes of what forwards saved: of 4×1024 networks those of a Jacobian's columns at 16 rows."""


def remembering(flow: GuidedFlow) -> GuidedFlow:
    """The flow whose networks, if they are this package's, are the reference's and remember: what
    several estimators ask of them at the same inputs is computed once. For estimators of ours:
    what its caches hold is not what the networks' own do.
    """
    memory = Memory(REMEMBERED)

    def kept(network: Any) -> Any:
        return replace(network, kernels=memory) if _our_network(network) else network

    return with_networks(flow, kept)


def for_each(
    estimators: Sequence[Estimator], task: Callable[[Estimator], R], threads: int = 1
) -> dict[str, R]:
    """What the task returns, by label. Of this package's estimators several at once; then of the
    others, which may not like company, one after another.
    """
    known = [e for e in estimators if ours(e)]
    found = results_of([partial(task, e) for e in known], threads)
    done = dict(zip([e.label for e in known], found, strict=True))
    return {e.label: done[e.label] if e.label in done else task(e) for e in estimators}


def ours(estimator: Estimator) -> bool:
    """Whether all of the estimator is this package's, so that it keeps a contract that is tested: a
    row does not depend on its batch, and calls may come from several threads.
    """
    while isinstance(estimator, Wrapped) and _here(estimator):
        estimator = estimator.base
    return _here(estimator) and not isinstance(estimator, FunctionEstimator)


def _our_network(network: object) -> bool:
    return isinstance(network, JointMLP) and _here(network)


def _here(thing: object) -> bool:
    return type(thing).__module__.startswith("qgf_ref.")


def own(estimator: Estimator, engine: Engine) -> Engine:
    """The engine that the audit runs this estimator on: of a user's own class, the reference.

    Whether that may be recorded is its own claim, which `qgf_ref.testing.check_estimator` checks.
    """
    return engine if _here(estimator) else REFERENCE


def one_batch(estimator: Estimator, engine: Engine) -> bool:
    """Whether rows of several measurements share one call, which compiled code does faster."""
    return own(estimator, engine).backend is not REFERENCE.backend and ours(estimator)


LEAST_ROWS = 32
"""That are worth a thread."""


def in_parts(f: Callable[..., Array], estimator: Estimator, engine: Engine, *arrays: Any) -> Array:
    """f(*arrays) by parts of the rows, a thread each, where f is no compiled program, which has
    threads of its own. What is a number among the arrays is for all rows.
    """
    apart = one_batch(estimator, engine) and not estimator.recordable
    rows = len(arrays[0])
    count = max(1, min(engine.concurrency, rows // LEAST_ROWS)) if apart else 1
    if count == 1:
        return f(*arrays)
    bounds = [rows * n // count for n in range(count + 1)]

    def part(first: int, last: int) -> Array:
        return f(*(a if np.ndim(a) == 0 else a[first:last] for a in arrays))

    parts = [partial(part, *ends) for ends in pairwise(bounds)]
    return np.concatenate(results_of(parts, count))


def gradient_at(
    estimator: Estimator,
    flow: GuidedFlow,
    index: int,
    obs: Array,
    action: Array,
    weight: float | Array,
    engine: Engine,
) -> Array:
    """G (B, D) at a_t = action (B, D) of step `index`, run on `own(estimator, engine)`."""
    runner = own(estimator, engine)

    def run(obs: Array, action: Array, weight: float | Array) -> Array:
        return _answers((estimator,), flow, index, obs, action, weight, runner)[0]

    return in_parts(run, estimator, runner, obs, action, weight)


def _answers(
    estimators: tuple[Estimator, ...],
    flow: GuidedFlow,
    index: int,
    obs: Array,
    action: Array,
    weight: float | Array,
    engine: Engine,
) -> tuple[Array, ...]:
    """G (B, D) of each of some estimators that are sampled on one flow."""

    def chain(flow: GuidedFlow, obs: Array, action: Array, weight: float | Array) -> Any:
        step = denoising_step(flow, obs, action, index, weight)
        return tuple(e(flow, step).gradient for e in estimators)

    key, first = ("gradient", estimators, index), estimators[0]
    return engine.run(first.on(flow), chain, key, first, obs, action, weight)


def gradients_at(
    estimator: Estimator,
    flow: GuidedFlow,
    step: DenoisingStep,
    actions: Sequence[Array],
    engine: Engine,
) -> Array:
    """`gradient_at` for each of N actions (B, D) of one step, in one call: (N, B, D)."""
    g = gradient_at(estimator, flow, step.index, *_batch(step, actions), engine)
    return g.reshape(len(actions), *step.action.shape)


def program_of(
    estimators: Sequence[Estimator], flow: GuidedFlow, engine: Engine
) -> list[Estimator]:
    """Those whose gradients one compiled program can give: what several ask for is run once."""
    return [e for e in estimators if one_batch(e, engine) and e.recordable and e.on(flow) is flow]


def gradients_of(
    estimators: Sequence[Estimator],
    flow: GuidedFlow,
    step: DenoisingStep,
    actions: Sequence[Array],
    engine: Engine,
) -> list[Array]:
    """`gradients_at` of each of `program_of`."""
    found = _answers(tuple(estimators), flow, step.index, *_batch(step, actions), engine)
    return [g.reshape(len(actions), *step.action.shape) for g in found]


def _batch(step: DenoisingStep, actions: Sequence[Array]) -> tuple[Array, Array, float | Array]:
    """Observations, actions and weights of all the rows."""
    many, weight = len(actions), step.weight
    weights = weight if np.ndim(weight) == 0 else np.tile(weight, (many, 1))
    return np.tile(step.obs, (many, 1)), np.concatenate(actions), weights
