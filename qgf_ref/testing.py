"""Checks for other implementations' own tests, and for users' own estimators.

    from qgf_ref.testing import check_sampler, parametrize_with_checks

    def test_my_port():
        check_sampler(my_sampler, "exp/params_500000.pkl")

    @parametrize_with_checks([MyEstimator(), "my_package.estimators:guide"])
    def test_my_estimators(check):
        check()

Every check calls the implementation with inputs that expose the mistakes of the bank, compares with
the reference by what float32 rounding explains, and raises `CrossCheckError` (an `AssertionError`)
that names the mistakes which reproduce what was returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array, whole_number
from qgf_ref.audit.agent_contract import agent_checks, check_agent
from qgf_ref.audit.definitions import OracleStep, defines
from qgf_ref.audit.flow_contract import check_flow
from qgf_ref.contracts import ContractError, ContractReport
from qgf_ref.crosscheck.arguments import (
    USUAL_WEIGHT,
    guidance_weight,
    known_precision,
    require_plain,
)
from qgf_ref.crosscheck.batches.check import BatchReport, check_batches
from qgf_ref.crosscheck.errors import CrossCheckError, answer_of
from qgf_ref.crosscheck.estimator import (
    check_estimator,
    estimator_checks,
    parametrize_with_checks,
)
from qgf_ref.crosscheck.sampler.calls import Sampler, called, require_drawn, require_premises
from qgf_ref.crosscheck.sampler.calls_report import SamplerReport, disagreement
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.pointwise import check_critic, check_gradient, check_velocity
from qgf_ref.crosscheck.sampler.probes import actor_of, hidden, loud, probes
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import (
    FLOW_BUDGET,
    Compared,
    compared_with,
    returning_core,
)
from qgf_ref.crosscheck.update.check import TrainingReport, check_losses
from qgf_ref.crosscheck.update.inputs import EXPOSING, default_batch
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import ConventionLike
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.load import CheckpointLike
from qgf_ref.progress import tracked, wanted
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import require_function

__all__ = [
    "EXPOSING",
    "BatchReport",
    "ContractError",
    "ContractReport",
    "CrossCheckError",
    "OracleStep",
    "SamplerReport",
    "TrainingReport",
    "agent_checks",
    "check_agent",
    "check_batches",
    "check_critic",
    "check_estimator",
    "check_flow",
    "check_gradient",
    "check_losses",
    "check_sampler",
    "check_velocity",
    "default_batch",
    "defines",
    "estimator_checks",
    "parametrize_with_checks",
]


@one_blas_thread()
def check_sampler(
    fn: Sampler,
    checkpoint: CheckpointLike | GuidedFlow,
    *,
    estimator: EstimatorLike = "qgf",
    weight: float = 0.3,
    best_of: int = 1,
    rows: int = 32,
    seed: int = 0,
    build: Callable[[Checkpoint], Sampler] | None = None,
    coverage: bool = True,
    show_progress: bool | None = None,
    observations: Array | None = None,
    convention: ConventionLike | None = None,
    budget: int = FLOW_BUDGET,
    gradient_steps: GradientSteps | None = None,
    precision: str | None = None,
) -> SamplerReport:
    """Check a sampler against the reference on inputs that expose every mistake of the bank.

    fn         the port, with `checkpoint`'s networks: (obs (B, O) float32, noise (B·n, D) float32,
               weight) → action (B, D), or a mapping with `action` and any of a, v, a1_hat, q, g
               (see `qgf_ref.interop.trace_file`): the more it returns, the closer the diagnosis
               Of an agent that acts without a flow: (obs, noise, z), z (T, B, D) the noise that
               its steps add (DAC, QSM), in their order; (obs, noise) where they add none (FQL). A
               port that cannot be given z returns its own in the mapping. v is then what the
               network says, a1_hat the clean estimate
    checkpoint the networks, or the path of their file
    estimator  of an agent whose flow was trained with the critic (EDP, QAM) give "none"; one that
               acts without a flow has neither estimator nor weight
    weight     of most calls; 0 and 1.5 are tried as well
    best_of    n > 1: also call it with B·n rows of noise, of which it must choose
    gradient_steps  of GradStep, which follow the flow (with the estimator none, as published)
    build      checkpoint → sampler: then also check networks made so that quiet mistakes show
               (LayerNorm statistics near epsilon, moved parameters, tied members)
    coverage   list the mistakes that none of the calls would have shown
    observations  obs (N, O) to call the port with, in turn, float32 (default: normal ones)
    convention    of what the port returns (default: the core's)
    precision     in which the port's networks compute, if that is less than float32: "bfloat16" or
                  "float16", whose rounding explains the more
    show_progress  on stderr (default: on a terminal)
    A GuidedFlow in the place of the checkpoint is of anybody's networks: at most 8 rows, no mistake
    inside of networks is tried, and neither `build` nor `coverage` applies. Then
    observations  default: all that the adapter was given, whose row numbers (B, 1) the port gets
    convention    default: that of the flow's adapter
    budget        calls of a network; a diagnosis that does not come to its end says so

    (B, H, A) for (B, D) is taken as well. A sampler that disagrees is called again first: nothing
    is explained of one whose answers its inputs do not decide, or that is right and misrecorded.

    returns the report; raises CrossCheckError with it when rounding does not explain a difference,
    when the port raises, or returns what is no action. Raises InputError on malformed arguments.
    """
    _require_functions(fn, build)
    weight, best_of = guidance_weight(weight), whole_number(best_of, "best_of", 1)
    seed, precision = whole_number(seed, "seed"), known_precision(precision)
    if gradient_steps is not None and not isinstance(gradient_steps, GradientSteps):
        raise InputError(f"gradient_steps must be a GradientSteps, got {gradient_steps!r}")
    if isinstance(checkpoint, GuidedFlow):
        if build is not None:
            raise InputError("build makes samplers of checkpoints: a flow's networks are its own")
        coverage = False
    networks = compared_with(checkpoint, observations, budget)
    actor = actor_of(networks)
    guide = estimator_by_name(estimator if actor is None else "none")
    if actor is not None and (best_of > 1 or gradient_steps):
        raise InputError(
            f"{networks.source}: the agent {actor.name} draws one action for each observation and "
            "leaves it: neither best_of nor gradient_steps applies"
        )
    if actor is not None:
        guided = weight not in (0.0, USUAL_WEIGHT)
        named = estimator not in ("none", "qgf")
        require_plain(actor, networks.source, estimator=named, weight=guided,
                      convention=convention is not None)  # fmt: skip
    tried_on: dict[str, Compared] = {networks.source: networks}
    if build is not None:
        assert isinstance(networks, Checkpoint)
        varied = loud(networks, seed)
        tried_on |= {f"a {name} variation of it": made for name, made in varied.items()}
    unseen: set[str] | None = None
    calls: tuple[str, ...] = ()
    notes: dict[str, None] = {}
    show = wanted(show_progress)
    for on, nets in tracked(
        tried_on.items(), len(tried_on), "network", title="check_sampler", leave=False, show=show
    ):
        port = fn
        if build is not None and isinstance(nets, Checkpoint) and nets is not networks:
            port = answer_of(partial(build, nets), f"on {on}, your build", "instead of a sampler")
            require_function(port, "what build returns", "(obs, noise, weight) → action")
        if actor is None:
            port = returning_core(port, checkpoint, convention)
        T = nets.options.denoise_steps
        setting = Setting(nets.astype("float64"), guide, T, climb=gradient_steps)
        tried = probes(
            nets, rows=rows, weight=weight, best_of=best_of, seed=seed, observations=observations
        )
        calls = tuple(probe.name for probe in tried)
        cases = [called(port, nets, probe, on, precision) for probe in tried]
        notes |= {note: None for case in cases for note in case.notes}
        premises = partial(require_premises, port, nets, setting, tried, cases, on)
        chosen, _, diagnosis = diagnose(setting, cases, show, premises)
        if diagnosis.unknown is not None:
            require_drawn(port, nets, tried[0], cases[0], on)
        if not diagnosis.agrees:
            raise CrossCheckError(disagreement(chosen, diagnosis, on, calls, nets, cases))
        if coverage:
            missed = set(hidden(chosen, cases, show))
            unseen = missed if unseen is None else unseen & missed
    return SamplerReport(
        diagnosis, " and ".join(tried_on), calls, tuple(sorted(unseen or ())), notes=tuple(notes)
    )


def _require_functions(fn: object, build: object) -> None:
    require_function(fn, "fn", "(obs, noise, weight) → action")
    if build is not None:
        require_function(build, "build", "checkpoint → sampler")
