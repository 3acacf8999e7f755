"""Checks of one function at given states: a velocity field, a critic, its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
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
    setting = setting_of(networks, "none", networks.options.denoise_steps)
    obs, actions = _states(networks, rows, seed)
    times = setting.port(dtype="float32").flow.times
    v = []
    for k, t in enumerate(times):
        at = np.full(rows, t, np.float32)
        v.append(
            array_of(
                partial(fn, obs, actions, at),
                (rows, actions.shape[1]),
                f"t = {k}/{len(times)}",
            )
        )
    states = np.broadcast_to(actions, (len(times), *actions.shape))
    case = stepwise_case(obs, actions, {"a": states, "v": np.stack(v)}, ("v",))
    return agreement(setting, case, "velocity field", networks)


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
    obs, actions = _states(networks, rows, seed)
    members = networks.target_critic.ensemble or 1
    q = array_of(lambda: fn(obs, actions), (members, rows), f"{rows} rows")
    case = stepwise_case(obs, actions, {"a": actions[None], "q": q[None]}, ("q",))
    return agreement(setting_of(networks, "ood", 1), case, "critic", networks)


@one_blas_thread()
def check_gradient(
    fn: Callable[[Array, Array], Array],
    checkpoint: CheckpointLike,
    *,
    rows: int = 32,
    seed: int = 0,
) -> SamplerReport:
    """Check ∇Q of the aggregated target critic. fn: (obs (B, O), action (B, D)), float32 → (B, D).

    Each row's gradient is its own (that of the sum over the batch). Returns and raises as
    `check_sampler`.
    """
    networks = checkpoint_of(checkpoint)
    obs, actions = _states(networks, rows, seed)
    g = array_of(lambda: fn(obs, actions), actions.shape, f"{rows} rows")
    case = stepwise_case(obs, actions, {"a": actions[None], "g": g[None]}, ("g",))
    return agreement(setting_of(networks, "ood", 1), case, "critic gradient", networks)


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
    setting: Setting, case: RecordedCase, title: str, networks: Checkpoint
) -> SamplerReport:
    """The report of a port that agrees; raises CrossCheckError with it of one that does not."""
    chosen, _, diagnosis = diagnose(setting, [case])
    calls = (f"{len(case.inputs.obs)} rows",)
    if not diagnosis.agrees:
        raise CrossCheckError(
            disagreement(chosen, diagnosis, networks.source, calls, None, [case], title)
        )
    return SamplerReport(diagnosis, networks.source, calls, hidden(chosen, [case]), title=title)
