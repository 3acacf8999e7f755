"""Checks of one function at given states: a velocity field, a critic, its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.arguments import (
    USUAL_WEIGHT,
    AskedAt,
    asked_at,
    guidance_weight,
    require_core,
)
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.premises import MATTERS, Arrays, another, difference, require
from qgf_ref.crosscheck.sampler.calls import array_of
from qgf_ref.crosscheck.sampler.calls_report import SamplerReport, disagreement
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.probes import actor_of, hidden
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import (
    FLOW_BUDGET,
    Compared,
    FlowNetworks,
    compared_with,
    convention_of,
    row_numbers,
)
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import Convention, ConventionLike
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.load import CheckpointLike
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.progress import wanted
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import require_function


@one_blas_thread()
def check_velocity(
    fn: Callable[[Array, Array, Array], Array],
    checkpoint: CheckpointLike | GuidedFlow,
    *,
    rows: int = 32,
    seed: int = 0,
    observations: Array | None = None,
    convention: ConventionLike | None = None,
    budget: int = FLOW_BUDGET,
    precision: str | None = None,
) -> SamplerReport:
    """Check a velocity field. fn: (obs (B, O), action (B, D), t (B,)), float32 → v (B, D).

    Called at all T times of the sampler. observations, precision, and a flow in the place of the
    checkpoint with its convention (then t is what the port's network is told, and u = ±v returned)
    and budget, as in `check_sampler`, which also says what is returned and raised.
    """
    require_function(fn, "fn", "(obs, action, t) → v")
    networks = _with_flow(checkpoint, observations, budget)
    told = _told(checkpoint, convention)
    asked = asked_at(networks, rows, seed, observations, precision)
    return _at_times(fn, networks, "none", "v", asked, "velocity field", told=told)


@one_blas_thread()
def check_critic(
    fn: Callable[[Array, Array], Array],
    checkpoint: CheckpointLike | GuidedFlow,
    *,
    rows: int = 32,
    seed: int = 0,
    observations: Array | None = None,
    budget: int = FLOW_BUDGET,
    precision: str | None = None,
) -> SamplerReport:
    """Check the target critic. fn: (obs (B, O), action (B, D)), float32 → q (E, B).

    observations, precision, and a flow in the place of the checkpoint with its budget, as in
    `check_sampler`, which also says what is returned and raised.
    """
    require_function(fn, "fn", "(obs, action) → q")
    networks = _with_flow(checkpoint, observations, budget)
    asked = asked_at(networks, rows, seed, observations, precision)
    return _at_states(fn, networks, "q", asked, "critic")


@one_blas_thread()
def check_gradient(
    fn: Callable[..., Array],
    checkpoint: CheckpointLike | GuidedFlow,
    estimator: EstimatorLike | None = None,
    *,
    rows: int = 32,
    seed: int = 0,
    weight: float = 0.3,
    observations: Array | None = None,
    convention: ConventionLike | None = None,
    budget: int = FLOW_BUDGET,
    precision: str | None = None,
) -> SamplerReport:
    """Check ∇Q of the aggregated target critic, or the G of an estimator, that other code computes.

    fn         (obs (B, O), action (B, D)), float32 → ∇Q (B, D); with an estimator: (obs, a_t, t
               (B,)) → G (B, D), called at all T times. A function that must have a fourth argument
               gets the weight
    estimator  which G it should be, e.g. "qgf_jacobian"; None: ∇Q alone
    weight     for estimators that depend on it; ∇Q alone does not

    Each row's gradient is its own (that of the sum over the batch). A difference is diagnosed with
    the bank's mistakes of query and gradient. observations, precision, and a flow in the place of
    the checkpoint with its convention (then t is what the port's network is told) and budget, as in
    `check_sampler`, which also says what is returned and raised.
    """
    require_function(fn, "fn", "(obs, action) → ∇Q, or (obs, a_t, t) → G")
    weight, networks = guidance_weight(weight), _with_flow(checkpoint, observations, budget)
    asked = asked_at(networks, rows, seed, observations, precision)
    if estimator is None:
        if weight != USUAL_WEIGHT or convention is not None:
            raise InputError(
                "∇Q depends on no weight and no convention of the time: leave them out, or name "
                "the estimator whose G it should be"
            )
        return _at_states(fn, networks, "g", asked, "critic gradient")
    guide = estimator_by_name(estimator)
    if _takes(fn, 4) and not _takes(fn, 3):
        fn = partial(_weighted, fn, weight)
    told = _told(checkpoint, convention)
    return _at_times(fn, networks, guide, "g", asked, f"G of {guide.label}", weight, told)


def _with_flow(
    checkpoint: CheckpointLike | GuidedFlow, observations: Array | None, budget: int
) -> Compared:
    """`compared_with`. Raises InputError on an agent without a flow."""
    networks = compared_with(checkpoint, observations, budget)
    if (actor := actor_of(networks)) is not None:
        raise InputError(
            f"{networks.source}: the agent {actor.name} acts without a flow ({actor.acts}): give "
            "check_sampler your sampler, which may return what its network says as v"
        )
    return networks


def _told(
    checkpoint: CheckpointLike | GuidedFlow, convention: ConventionLike | None
) -> Convention | None:
    if isinstance(checkpoint, GuidedFlow):
        return convention_of(checkpoint, convention)
    require_core(
        convention,
        "a checkpoint's policy is asked at t = k/T and answers dx/dt: take t and the sign as "
        "yours are inside of fn, or give the flow of an adapter (qgf_ref.adapters)",
    )
    return None


def _weighted(fn: Callable[..., Array], weight: float, *inputs: Array) -> Array:
    return fn(*inputs, weight)


def _takes(fn: Callable[..., Array], count: int) -> bool:
    """Whether fn can be called with so many arguments."""
    try:
        inspect.signature(fn).bind(*range(count))
    except (TypeError, ValueError):  # or it has no signature
        return False
    return True


def _at_times(
    fn: Callable[..., Array],
    networks: Compared,
    estimator: EstimatorLike,
    name: str,
    asked: AskedAt,
    title: str,
    weight: float = 0.0,
    told: Convention | None = None,
) -> SamplerReport:
    """The check of fn(obs, action, t (B,)) → (B, D), the quantity `name`, at all T times.

    told: the convention of fn's time and of its velocity's sign, if not the core's
    """
    setting = setting_of(networks, estimator, networks.options.denoise_steps)
    setting = replace(setting, only="policy" if name == "v" else "")
    obs, actions = asked.obs, asked.actions
    times = np.array(setting.port(dtype="float32").flow.times, np.float32)
    if told is not None:
        times = np.asarray(told.asked(np.array(told.times(len(times)))), np.float32)
    T, inputs = len(times), {"observations": obs, "actions": actions}
    sign = told.sign if told is not None and name == "v" else 1

    def call(given: Arrays, k: int) -> Arrays:
        at = given.get("time", np.full(len(obs), times[k]))
        ask = partial(fn, given["observations"].copy(), given["actions"].copy(), at.copy())
        return {name: sign * array_of(ask, actions.shape, f"step {k} of {T}", networks)}

    answers = [call(inputs, k)[name] for k in range(T)]
    others = dict(another(inputs, row_numbers(networks)))
    if T > 1 and name == "v":  # a gradient need not depend on the time
        others["time"] = np.full(len(obs), times[-1])
    states = np.broadcast_to(actions, (T, *actions.shape))
    recorded = {"a": states, name: np.stack(answers)}
    case = stepwise_case(obs, actions, recorded, (name,), weight, asked.precision)
    premises = partial(
        require, f"your {title}", partial(call, k=0), inputs, {name: answers[0]}, others,
        _depends(setting, inputs, others, name),
    )  # fmt: skip
    return agreement(setting, case, title, networks, premises)


def _at_states(
    fn: Callable[[Array, Array], Array],
    networks: Compared,
    name: str,
    asked: AskedAt,
    title: str,
) -> SamplerReport:
    obs, actions = asked.obs, asked.actions
    inputs = {"observations": obs, "actions": actions}
    shape = actions.shape
    if name == "q":
        shape = networks.target_critic.ensemble or 1, len(obs)

    def call(given: Arrays) -> Arrays:
        ask = partial(fn, *(x.copy() for x in given.values()))
        return {name: array_of(ask, shape, f"{len(obs)} rows", networks, name)}

    answer = call(inputs)
    recorded = {"a": actions[None], name: answer[name][None]}
    case = stepwise_case(obs, actions, recorded, (name,), precision=asked.precision)
    setting = replace(setting_of(networks, "ood", 1), only="critic")
    others = another(inputs, row_numbers(networks))
    depends = _depends(setting, inputs, others, name)
    premises = partial(require, f"your {title}", call, inputs, answer, others, depends)
    return agreement(setting, case, title, networks, premises)


def _depends(setting: Setting, inputs: Arrays, others: Arrays, name: str) -> Callable[[str], bool]:
    """Whether the reference's answer moves with another value of an input."""

    def reference(given: Arrays) -> Array:
        obs, actions = given["observations"], given["actions"]
        case = stepwise_case(obs, actions, {"a": actions[None]}, ())
        return case.simulate(setting.port())[name][0]

    def depends(changed: str) -> bool:
        if changed == "time":
            return True
        moved = reference({**inputs, changed: others[changed]})
        return difference(moved, reference(inputs)) > MATTERS

    return depends


def setting_of(networks: Compared, estimator: EstimatorLike, T: int) -> Setting:
    """What the port is meant to be. T: of a flow its own, on which its times are rounded."""
    if isinstance(networks, FlowNetworks):
        T = networks.options.denoise_steps
    return Setting(networks.astype("float64"), estimator_by_name(estimator), T)


def stepwise_case(
    obs: Array,
    noise: Array,
    stepwise: dict[str, Array],
    compared: Sequence[str],
    weight: float = 0.0,
    precision: str | None = None,
) -> RecordedCase:
    """A port's answers at given states, as a recorded run in which only they count."""
    arrays = {"obs": obs, "noise": noise, "action": np.zeros_like(noise), **stepwise}
    trace = recorded_trace(arrays, {} if precision is None else {"precision": precision})
    return RecordedCase(trace, weight, f"{len(obs)} rows", compared=tuple(compared))


def agreement(
    setting: Setting,
    case: RecordedCase,
    title: str,
    networks: Compared,
    premises: Callable[[], None] = lambda: None,
) -> SamplerReport:
    """The report of a port that agrees; raises CrossCheckError with it of one that does not."""
    chosen, _, diagnosis = diagnose(setting, [case], wanted(None), premises)
    calls = (f"{len(case.inputs.obs)} rows",)
    if not diagnosis.agrees:
        raise CrossCheckError(
            disagreement(chosen, diagnosis, networks.source, calls, None, [case], title)
        )
    unseen = () if chosen.opaque else hidden(chosen, [case])
    return SamplerReport(diagnosis, networks.source, calls, unseen, title=title)
