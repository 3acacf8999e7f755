"""`check_estimator`: a user's own gradient estimator, or a port of one, against its contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array, whole_number
from qgf_ref.audit.contract import ROW_TOLERANCE, Trial, estimator_clauses
from qgf_ref.audit.definitions import has_definition
from qgf_ref.contracts import (
    NO_FAILURES,
    Clause,
    ContractReport,
    KnownFailures,
    fulfil,
    nothing_to_check,
    parametrized,
)
from qgf_ref.crosscheck.arguments import guidance_weight
from qgf_ref.crosscheck.sampler.calls import array_of
from qgf_ref.crosscheck.sampler.pointwise import agreement, setting_of, stepwise_case
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike, FunctionEstimator
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.load import EMBEDDED, CheckpointLike, checkpoint_of
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import import_named

ForeignFunction = Callable[[Array, Array, Array, float], Array]
"""(obs (B, O), a_t (B, D), t (B,), weight) → G (B, D), in float32: a port with networks of its own,
those of the checkpoint."""
PORT_HAS_NONE = {
    "row_weights": "a port takes one weight",
    "dtype": "a port answers in its own dtype, which is cast",
}
FLOAT32_TOLERANCE = 1e-4
"""Of a foreign function, between a row alone and in its batch. A float32 network's gradient keeps
about five digits where LayerNorm divides by small deviations."""


@one_blas_thread()
def check_estimator(
    estimator: EstimatorLike | ForeignFunction,
    checkpoint: CheckpointLike | GuidedFlow | None = None,
    *,
    like: EstimatorLike | None = None,
    known_failures: KnownFailures = NO_FAILURES,
    rows: int = 5,
    weight: float = 0.3,
    seed: int = 0,
    tolerance: float | None = None,
) -> ContractReport:
    """Check everything that an estimator must satisfy, and what it states about itself.

    estimator   a name, an `Estimator`, a plain function (flow, step) → G, "package.module:function"
                of either; or with `like`, a port (obs, a_t, t, weight) → G with networks of its own
    checkpoint  networks, or the path of their file (default: the checkpoint inside the package);
                or a flow, such as one in closed form
    like        the estimator that it should equal, at all T times, to what float32 rounding
                explains; a difference is diagnosed with the bank of mistakes
    known_failures  clause → reason: it must fail
    tolerance   relative, between answers that only rounding may tell apart (default: 1e-12; of a
                port, 1e-4)

    Returns the report: what was checked, and what could not be, with the reason. Raises
    ContractError naming the first clause that is broken, InputError on malformed arguments.
    """
    how = _Settings(checkpoint, like, rows, weight, seed, tolerance)
    return fulfil(_clauses(estimator, how), known_failures)


def estimator_checks(
    estimator: EstimatorLike | ForeignFunction,
    checkpoint: CheckpointLike | GuidedFlow | None = None,
    *,
    like: EstimatorLike | None = None,
    rows: int = 5,
    weight: float = 0.3,
    seed: int = 0,
    tolerance: float | None = None,
) -> list[tuple[str, Clause]]:
    """The checks of `check_estimator` by name, each a function without arguments.

    One that has nothing to check raises unittest.SkipTest with the reason.
    """
    how = _Settings(checkpoint, like, rows, weight, seed, tolerance)
    return [(clause.name, clause) for clause in _clauses(estimator, how)]


def parametrize_with_checks(
    estimators: Iterable[EstimatorLike],
    checkpoint: CheckpointLike | GuidedFlow | None = None,
    *,
    known_failures: KnownFailures = NO_FAILURES,
    rows: int = 5,
    weight: float = 0.3,
    seed: int = 0,
) -> Callable[[Any], Any]:
    """A pytest decorator: one case "estimator-clause" for each check, as the argument `check`.

    known_failures  "clause", or "estimator-clause", → reason: strict xfails
    """
    how = _Settings(checkpoint, None, rows, weight, seed, None)
    return parametrized([c for e in estimators for c in _clauses(e, how)], known_failures)


class _Settings(NamedTuple):
    """What the checks are run with: the arguments of `check_estimator`."""

    checkpoint: CheckpointLike | GuidedFlow | None
    like: EstimatorLike | None
    rows: int
    weight: float
    seed: int
    tolerance: float | None


def _clauses(subject: EstimatorLike | ForeignFunction, how: _Settings) -> list[Clause]:
    whole_number(how.rows, "rows", 2)  # so that there is a batch
    whole_number(how.seed, "seed")
    how = how._replace(weight=guidance_weight(how.weight))
    if how.tolerance is not None and not (
        isinstance(how.tolerance, int | float | np.number) and how.tolerance >= 0
    ):
        raise InputError(f"tolerance must be a number ≥ 0, got {how.tolerance!r}")
    foreign = _foreign(subject, how.like)
    if foreign is None:
        estimator, usual = estimator_by_name(cast(EstimatorLike, subject)), ROW_TOLERANCE
    else:
        estimator, usual = _adapted(foreign), FLOAT32_TOLERANCE
    tolerance = usual if how.tolerance is None else how.tolerance
    networks, single = None, None
    if isinstance(how.checkpoint, GuidedFlow):
        flow = how.checkpoint
    else:
        networks = checkpoint_of(EMBEDDED if how.checkpoint is None else how.checkpoint)
        flow = networks.astype("float64").flow
        single = None if foreign is not None else networks.astype("float32").flow
    obs, action = _states(flow, how.rows, how.seed)
    trial = Trial(
        estimator, estimator.on(flow), obs, action, how.weight,
        None if single is None else estimator.on(single),
        tolerance, {} if foreign is None else PORT_HAS_NONE,
    )  # fmt: skip
    return [*estimator_clauses(trial), *_likeness(trial, networks, how)]


def _foreign(subject: Any, like: EstimatorLike | None) -> ForeignFunction | None:
    """The port, if the subject is one: a function of four arguments."""
    if isinstance(subject, str) and ":" in subject:
        subject = import_named(subject, "estimator")
    if isinstance(subject, Estimator | str | type) or not callable(subject):
        return None
    try:
        inspect.signature(subject).bind(*range(4))
    except (TypeError, ValueError):
        return None
    if like is None:
        raise InputError(
            "a function (obs, a_t, t, weight) → G is a port: give like=…, the estimator that it "
            "should equal, e.g. like='qgf_jacobian'"
        )
    return subject


def _adapted(port: ForeignFunction) -> Estimator:
    """The port as an estimator: called in float32, with its own networks in place of the flow's."""

    def guide(flow: GuidedFlow, step: DenoisingStep) -> Array:
        obs, action = step.obs.astype(np.float32), step.action.astype(np.float32)
        t = np.full(len(obs), step.time, np.float32)
        return np.asarray(port(obs, action, t, float(step.weight)))

    return FunctionEstimator(guide, getattr(port, "__name__", "port"))


def _states(flow: GuidedFlow, rows: int, seed: int) -> tuple[Array, Array]:
    # float32 values, so that a port sees the same numbers
    rng = np.random.default_rng(seed)
    sizes = (rows, flow.field.obs_dim or 0), (rows, flow.field.action_dim)
    obs, action = (rng.standard_normal(size).astype(np.float32) for size in sizes)
    return obs.astype(flow.field.dtype), action.astype(flow.field.dtype)


def _likeness(trial: Trial, networks: Checkpoint | None, how: _Settings) -> list[Clause]:
    """The clause "like NAME"; without a name only where nothing else ties G to a formula."""
    subject, estimator = trial.estimator.label, trial.estimator
    if how.like is None:
        if has_definition(estimator) or type(estimator).potential is not Estimator.potential:
            return []
        reason = "give like=…, the estimator that it should equal, or derive it from Estimator"
        return [nothing_to_check(subject, "like", reason)]
    reference = estimator_by_name(how.like)
    name = f"like {reference.label}"
    if networks is None:
        return [nothing_to_check(subject, name, "a flow, not a checkpoint")]
    check = partial(_require_like, estimator, networks, reference, how)
    return [Clause(subject, name, check)]


def _require_like(
    estimator: Estimator, networks: Checkpoint, reference: Estimator, how: _Settings
) -> None:
    """G at all T times, against the reference and its mistakes: raises CrossCheckError."""
    single = networks.astype("float32").guided_flow(embedding="float32")
    flow = estimator.on(single)
    obs, action = (x.astype(np.float32) for x in _states(flow, 32, how.seed))
    g = []
    for k in range(flow.denoise_steps):
        velocity, cache = flow.field.forward(obs, action, flow.times[k])
        step = DenoisingStep(obs, action, k, flow.times[k], velocity, cache, how.weight)
        answer = partial(lambda step: estimator(flow, step).gradient, step)
        g.append(array_of(answer, action.shape, f"t = {k}/{flow.denoise_steps}", networks))
    states = np.broadcast_to(action, (flow.denoise_steps, *action.shape))
    case = stepwise_case(obs, action, {"a": states, "g": np.stack(g)}, ("g",), how.weight)
    setting = setting_of(networks, reference, flow.denoise_steps)
    agreement(setting, case, f"estimator {estimator.label}", networks)
