"""Checks for other implementations' own tests: what `check_estimator` is to scikit-learn's users.

    from qgf_ref.testing import check_sampler

    def test_my_port():
        check_sampler(my_sampler, "exp/params_500000.pkl")

Every check calls the implementation with inputs that expose the mistakes of the bank, compares with
the reference by what float32 rounding explains, and raises `CrossCheckError` (an `AssertionError`)
that names the mistakes which reproduce what was returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.calls import Sampler, array_of, called
from qgf_ref.crosscheck.sampler.calls_report import SamplerReport, disagreement
from qgf_ref.crosscheck.sampler.case import Case, Setting
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.probes import hidden, loud, probes
from qgf_ref.crosscheck.update.check import TrainingReport, check_losses
from qgf_ref.crosscheck.update.inputs import EXPOSING, default_batch
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.load import CheckpointLike, checkpoint_of
from qgf_ref.interop.trace_file import recorded_trace

__all__ = [
    "EXPOSING",
    "CrossCheckError",
    "SamplerReport",
    "TrainingReport",
    "check_critic",
    "check_gradient",
    "check_losses",
    "check_sampler",
    "check_velocity",
    "default_batch",
]


def check_sampler(
    fn: Sampler,
    checkpoint: CheckpointLike,
    *,
    estimator: EstimatorLike = "qgf",
    weight: float = 0.3,
    best_of: int = 1,
    rows: int = 32,
    seed: int = 0,
    build: Callable[[Checkpoint], Sampler] | None = None,
    coverage: bool = True,
) -> SamplerReport:
    """Check a sampler against the reference on inputs that expose every mistake of the bank.

    fn         the port, with `checkpoint`'s networks: (obs (B, O) float32, noise (B·n, D) float32,
               weight) → action (B, D), or a mapping with `action` and any of a, v, a1_hat, q, g
               (see `qgf_ref.interop.trace_file`): the more it returns, the closer the diagnosis
    checkpoint the networks, or the path of their file
    weight     of most calls; 0 and 1.5 are tried as well
    best_of    n > 1: also call it with B·n rows of noise, of which it must choose
    build      checkpoint → sampler: then also check networks made so that quiet mistakes show
               (LayerNorm statistics near epsilon, moved parameters, tied members)
    coverage   list the mistakes that none of the calls would have shown

    returns the report; raises CrossCheckError with it when rounding does not explain a difference,
    when the port raises, or returns what is no action. Raises InputError on malformed arguments.
    """
    networks = checkpoint_of(checkpoint)
    guide = estimator_by_name(estimator)
    tried_on = {networks.source: networks}
    if build is not None:
        varied = loud(networks, seed)
        tried_on |= {f"a {name} variation of it": made for name, made in varied.items()}
    unseen: set[str] | None = None
    calls: tuple[str, ...] = ()
    for on, nets in tried_on.items():
        port = fn if build is None or nets is networks else build(nets)
        setting = Setting(nets.astype("float64"), guide, nets.options.denoise_steps)
        tried = probes(nets, rows=rows, weight=weight, best_of=best_of, seed=seed)
        calls = tuple(probe.name for probe in tried)
        cases = [called(port, nets, probe, on) for probe in tried]
        chosen, _, diagnosis = diagnose(setting, cases)
        if not diagnosis.agrees:
            raise CrossCheckError(disagreement(chosen, diagnosis, on, calls, nets, cases))
        if coverage:
            missed = set(hidden(chosen, cases))
            unseen = missed if unseen is None else unseen & missed
    return SamplerReport(diagnosis, " and ".join(tried_on), calls, tuple(sorted(unseen or ())))


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
    setting = _setting(networks, "none", networks.options.denoise_steps)
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
    case = _stepwise_case(obs, actions, {"a": states, "v": np.stack(v)}, ("v",))
    return _verdict(setting, case, "velocity field", networks)


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
    case = _stepwise_case(obs, actions, {"a": actions[None], "q": q[None]}, ("q",))
    return _verdict(_setting(networks, "ood", 1), case, "critic", networks)


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
    case = _stepwise_case(obs, actions, {"a": actions[None], "g": g[None]}, ("g",))
    return _verdict(_setting(networks, "ood", 1), case, "critic gradient", networks)


def _setting(networks: Checkpoint, estimator: str, T: int) -> Setting:
    return Setting(networks.astype("float64"), estimator_by_name(estimator), T)


def _states(networks: Checkpoint, rows: int, seed: int) -> tuple[Array, Array]:
    if rows < 1:
        raise InputError(f"rows must be ≥ 1, got {rows}")
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((rows, networks.obs_dim)).astype(np.float32)
    return obs, rng.standard_normal((rows, networks.flat_action_dim)).astype(np.float32)


def _stepwise_case(
    obs: Array, noise: Array, stepwise: dict[str, Array], compared: Sequence[str]
) -> Case:
    arrays = {"obs": obs, "noise": noise, "action": np.zeros_like(noise), **stepwise}
    return Case(recorded_trace(arrays), 0.0, compared=tuple(compared))


def _verdict(setting: Setting, case: Case, title: str, networks: Checkpoint) -> SamplerReport:
    chosen, _, diagnosis = diagnose(setting, [case])
    calls = (f"{len(case.inputs.obs)} rows",)
    if not diagnosis.agrees:
        raise CrossCheckError(
            disagreement(chosen, diagnosis, networks.source, calls, None, [case], title)
        )
    return SamplerReport(diagnosis, networks.source, calls, hidden(chosen, [case]), title=title)
