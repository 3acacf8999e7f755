"""Checks of one function at given states: a velocity field, a critic, its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.premises import Arrays, another, require
from qgf_ref.crosscheck.sampler.calls import array_of
from qgf_ref.crosscheck.sampler.calls_report import SamplerReport, disagreement
from qgf_ref.crosscheck.sampler.case import RecordedCase, Setting
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.probes import hidden
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.load import CheckpointLike, checkpoint_of
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.threads import one_blas_thread


@one_blas_thread()
def check_velocity(
    fn: Callable[[Array, Array, Array], Array],
    checkpoint: CheckpointLike,
    *,
    rows: int = 32,
    seed: int = 0,
) -> SamplerReport:
    """Check a velocity field. fn: (obs (B, O), action (B, D), t (B,)), float32 → v (B, D).

    Called at all T times of the sampler. Returns and raises as `check_sampler`.
    """
    networks = checkpoint_of(checkpoint)
    return _at_times(fn, networks, "none", "v", rows, seed, "velocity field")


@one_blas_thread()
def check_critic(
    fn: Callable[[Array, Array], Array],
    checkpoint: CheckpointLike,
    *,
    rows: int = 32,
    seed: int = 0,
) -> SamplerReport:
    """Check the target critic. fn: (obs (B, O), action (B, D)), float32 → q (E, B).

    Returns and raises as `check_sampler`.
    """
    networks = checkpoint_of(checkpoint)
    shape = networks.target_critic.ensemble or 1, rows
    return _at_states(fn, networks, "q", shape, rows, seed, "critic")


@one_blas_thread()
def check_gradient(
    fn: Callable[..., Array],
    checkpoint: CheckpointLike,
    estimator: EstimatorLike | None = None,
    *,
    rows: int = 32,
    seed: int = 0,
    weight: float = 0.3,
) -> SamplerReport:
    """Check ∇Q of the aggregated target critic, or the G of an estimator, that other code computes.

    fn         (obs (B, O), action (B, D)), float32 → ∇Q (B, D); with an estimator: (obs, a_t, t
               (B,)) → G (B, D), called at all T times. A function that must have a fourth argument
               gets the weight
    estimator  which G it should be, e.g. "qgf_jacobian"; None: ∇Q alone
    weight     for estimators that depend on it

    Each row's gradient is its own (that of the sum over the batch). A difference is diagnosed with
    the bank's mistakes of query and gradient. Returns and raises as `check_sampler`.
    """
    networks = checkpoint_of(checkpoint)
    if estimator is None:
        shape = rows, networks.flat_action_dim
        return _at_states(fn, networks, "g", shape, rows, seed, "critic gradient")
    guide = estimator_by_name(estimator)
    if _takes(fn, 4) and not _takes(fn, 3):
        fn = partial(_weighted, fn, weight)
    return _at_times(fn, networks, guide, "g", rows, seed, f"G of {guide.label}", weight)


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
    networks: Checkpoint,
    estimator: EstimatorLike,
    name: str,
    rows: int,
    seed: int,
    title: str,
    weight: float = 0.0,
) -> SamplerReport:
    """The check of fn(obs, action, t (B,)) → (B, D), the quantity `name`, at all T times."""
    setting = setting_of(networks, estimator, networks.options.denoise_steps)
    obs, actions = _states(networks, rows, seed)
    times = setting.port(dtype="float32").flow.times
    T, inputs = len(times), {"observations": obs, "actions": actions}

    def call(given: Arrays, k: int) -> Arrays:
        at = given.get("time", np.full(rows, times[k], np.float32))
        ask = partial(fn, given["observations"], given["actions"], at)
        return {name: array_of(ask, actions.shape, f"t = {k}/{T}")}

    answers = [call(inputs, k)[name] for k in range(T)]
    others = dict(another(inputs))
    if T > 1 and name == "v":  # a gradient need not depend on the time
        others["time"] = np.full(rows, times[-1], np.float32)
    states = np.broadcast_to(actions, (T, *actions.shape))
    recorded = {"a": states, name: np.stack(answers)}
    case = stepwise_case(obs, actions, recorded, (name,), weight)
    premises = partial(
        require, f"your {title}", partial(call, k=0), inputs, {name: answers[0]}, others
    )
    return agreement(setting, case, title, networks, premises)


def _at_states(
    fn: Callable[[Array, Array], Array],
    networks: Checkpoint,
    name: str,
    shape: tuple[int, int],
    rows: int,
    seed: int,
    title: str,
) -> SamplerReport:
    obs, actions = _states(networks, rows, seed)
    inputs = {"observations": obs, "actions": actions}

    def call(given: Arrays) -> Arrays:
        return {name: array_of(partial(fn, *given.values()), shape, f"{rows} rows")}

    answer = call(inputs)
    case = stepwise_case(obs, actions, {"a": actions[None], name: answer[name][None]}, (name,))
    premises = partial(require, f"your {title}", call, inputs, answer, another(inputs))
    return agreement(setting_of(networks, "ood", 1), case, title, networks, premises)


def setting_of(networks: Checkpoint, estimator: EstimatorLike, T: int) -> Setting:
    """What the port is meant to be."""
    return Setting(networks.astype("float64"), estimator_by_name(estimator), T)


def _states(networks: Checkpoint, rows: int, seed: int) -> tuple[Array, Array]:
    if rows < 1:
        raise InputError(f"rows must be ≥ 1, got {rows}")
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, networks.obs_dim)).astype(np.float32)
    return obs, rng.standard_normal((rows, networks.flat_action_dim)).astype(np.float32)


def stepwise_case(
    obs: Array,
    noise: Array,
    stepwise: dict[str, Array],
    compared: Sequence[str],
    weight: float = 0.0,
) -> RecordedCase:
    """A port's answers at given states, as a recorded run in which only they count."""
    arrays = {"obs": obs, "noise": noise, "action": np.zeros_like(noise), **stepwise}
    return RecordedCase(
        recorded_trace(arrays), weight, f"{len(obs)} rows", compared=tuple(compared)
    )


def agreement(
    setting: Setting,
    case: RecordedCase,
    title: str,
    networks: Checkpoint,
    premises: Callable[[], None] = lambda: None,
) -> SamplerReport:
    """The report of a port that agrees; raises CrossCheckError with it of one that does not."""
    chosen, _, diagnosis = diagnose(setting, [case], premises=premises)
    calls = (f"{len(case.inputs.obs)} rows",)
    if not diagnosis.agrees:
        raise CrossCheckError(
            disagreement(chosen, diagnosis, networks.source, calls, None, [case], title)
        )
    return SamplerReport(diagnosis, networks.source, calls, hidden(chosen, [case]), title=title)
