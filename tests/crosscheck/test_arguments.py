"""The arguments of every `check_…`: used, or refused in a sentence; an exception is an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.iql import IQL
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import convention
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.testing import (
    CrossCheckError,
    check_agent,
    check_batches,
    check_critic,
    check_estimator,
    check_flow,
    check_gradient,
    check_losses,
    check_sampler,
    check_velocity,
)
from tests.conftest import small_checkpoint
from tests.crosscheck.ports import OTHER_ORDER, functions_of, lively, setting
from tests.helpers.agents import variant

CHECKPOINT = lively()
FLOW = setting(CHECKPOINT, "ood").port((), "float32", OTHER_ORDER).flow
velocity, critic, gradient = functions_of(FLOW)
OBS = np.random.default_rng(5).standard_normal((3, CHECKPOINT.obs_dim)).astype(np.float32)


def raises(*given: Any) -> Any:
    raise KeyError("no such key")


def sampler(obs: Array, noise: Array, weight: float, told: str = "qgf") -> dict[str, Array]:
    """Ours in float32, its steps written in a convention."""
    port = setting(CHECKPOINT).port((), "float32", OTHER_ORDER)
    run = free_running(port, Inputs(obs, noise, float(np.float32(weight)), 1))
    kept = {name: x.astype(np.float32) for name, x in run.items()}
    return convention(told).trace_from_core(kept)


def in_bfloat16(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


CHECKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "check_velocity": (check_velocity, velocity),
    "check_critic": (check_critic, critic),
    "check_gradient": (check_gradient, gradient),
    "check_sampler": (partial(check_sampler, coverage=False), sampler),
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_observations_given_are_those_of_the_calls(name: str) -> None:
    check, right = CHECKS[name]
    asked: list[Array] = []

    def port(obs: Array, *rest: Any) -> Any:
        asked.append(obs)
        return right(obs, *rest)

    assert check(port, CHECKPOINT, observations=OBS, rows=8).agrees
    assert all(obs.dtype == np.float32 for obs in asked)
    assert {row.tobytes() for obs in asked for row in obs} == {row.tobytes() for row in OBS}
    assert max(map(len, asked)) == 8


@pytest.mark.parametrize("name", CHECKS)
def test_networks_in_bfloat16_are_judged_as_such(name: str) -> None:
    check, right = CHECKS[name]

    def port(*given: Any) -> Any:
        answer = right(*given)
        if isinstance(answer, dict):  # its final actions alone
            return in_bfloat16(answer["action"])
        return in_bfloat16(answer)

    assert check(port, CHECKPOINT, rows=8, precision="bfloat16").agrees
    if name == "check_critic":
        with pytest.raises(CrossCheckError):
            check(port, CHECKPOINT, rows=8)
    with pytest.raises(InputError, match="unknown precision 'half'"):
        check(port, CHECKPOINT, precision="half")


def test_a_sampler_of_a_checkpoint_may_write_in_another_convention() -> None:
    theirs = partial(sampler, told="openpi")
    report = check_sampler(theirs, CHECKPOINT, rows=8, coverage=False, convention="openpi")
    assert report.agrees
    with pytest.raises(CrossCheckError):
        check_sampler(theirs, CHECKPOINT, rows=8, coverage=False)


def losses(**given: Any) -> Any:
    return check_losses(raises, small_checkpoint(), **given)


def losses_of(networks: Any) -> Any:
    return check_losses(raises, networks)


def flow_checked(flow: Any) -> Any:
    return check_flow(flow, OBS)


def agent_checked(agent: Any) -> Any:
    return check_agent(agent)


def in_estimator(**given: Any) -> Any:
    return check_estimator("qgf", small_checkpoint(), **given)


def against(check: Callable[..., Any], **given: Any) -> Any:
    return check(raises, CHECKPOINT, **given)


def of_actor(**given: Any) -> Any:
    return check_sampler(raises, variant("fql", steps=3), **given)


def compared(**given: Any) -> Any:
    """FQL's run, which no weight and no gradient step is part of."""
    ck = variant("fql", steps=3)
    obs, noise = np.ones((2, ck.obs_dim)), np.ones((2, ck.flat_action_dim))
    return compare(ck, recorded_trace({"obs": obs, "noise": noise, "action": 0 * noise}), **given)


def of_flow(**given: Any) -> Any:
    return check_flow(CHECKPOINT.flow, np.zeros((3, CHECKPOINT.obs_dim)), **given)


REFUSED: list[Any] = [
    *(
        (partial(against, check), {"budget": 9}, "budget bounds the calls of a flow's networks")
        for check, _ in CHECKS.values()
    ),
    *(
        (partial(against, check), {"observations": np.zeros((3, 99))}, r"observations must have sh")
        for check, _ in CHECKS.values()
    ),
    *(
        (partial(against, check), {"observations": np.zeros((0, 6))}, "at least one row")
        for check, _ in CHECKS.values()
    ),
    *(
        (job, {"seed": seed}, "seed must be a whole number")
        for seed in ("a", -1, 1.5, True)
        for job in (
            *(partial(against, check) for check, _ in CHECKS.values()),
            losses, in_estimator, of_flow, partial(check_batches, raises),
            partial(check_agent, IQL),
        )
    ),
    *(
        (job, {"rows": rows}, "rows must be a whole number ≥")
        for rows in ("a", 0, 2.5)
        for job in (
            *(partial(against, check) for check, _ in CHECKS.values()),
            in_estimator, partial(check_batches, raises),
        )
    ),
    *(
        (job, {"weight": weight}, "weight must be a finite number ≥ 0")
        for weight in ("a", -1, np.nan)
        for job in (partial(against, check_sampler), partial(against, check_gradient), in_estimator)
    ),
    (partial(against, check_velocity), {"convention": "openpi"}, "policy is asked at t = k/T"),
    (partial(against, check_gradient), {"estimator": "qgf", "convention": "gr00t"}, "asked at t"),
    (partial(against, check_gradient), {"weight": 0.5}, "∇Q depends on no weight"),
    (partial(against, check_gradient), {"convention": "qgf"}, "∇Q depends on no weight"),
    (partial(against, check_sampler), {"best_of": 0}, "best_of must be a whole number ≥ 1"),
    (partial(against, check_sampler), {"gradient_steps": 3}, "must be a GradientSteps"),
    (partial(against, check_sampler), {"build": 3}, "build must be a function checkpoint"),
    (of_actor, {"estimator": "qgf_jacobian"}, "acts without a flow .*leave out estimator"),
    (of_actor, {"weight": 0.5}, "leave out weight"),
    (of_actor, {"convention": "openpi"}, "leave out convention"),
    (of_actor, {"gradient_steps": GradientSteps()}, "neither best_of nor gradient_steps"),
    (compared, {"weight": 0.5}, "leave out weight"),
    (compared, {"gradient_steps": GradientSteps()}, "leave out gradient_steps"),
    (compared, {"convention": "openpi"}, "leave out convention"),
    (losses, {"x0": np.zeros((24, 3)), "drawn": {"x0": np.zeros((24, 3))}}, "x0 is given twice"),
    (losses, {"drawn": 3}, "drawn must map names to arrays"),
    (losses, {"hyper": {}}, "hyper must be Hyperparameters .* got dict"),
    (losses, {"bank": {}}, "bank must be a TrainingBank, got dict"),
    (partial(losses_of, CHECKPOINT.flow), {}, "a GuidedFlow has none"),
    (partial(check_batches, raises), {"sampling": {}}, "must be a GoalSampling .* got dict"),
    (partial(check_batches, raises), {"data": "x.npz"}, "data must map .* got str"),
    (in_estimator, {"tolerance": "a"}, "tolerance must be a number ≥ 0"),
    (in_estimator, {"known_failures": ["shape"]}, "known_failures must map checks to reasons"),
    (partial(flow_checked, CHECKPOINT), {}, "got Checkpoint; of a checkpoint, pass"),
    (partial(agent_checked, "iql"), {}, "must be a qgf_ref.agents.agent.Agent, got str"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "given", "says"), REFUSED)
def test_what_nothing_would_use_is_refused(
    job: Callable[..., Any], given: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        job(**given)


@pytest.mark.parametrize(
    "job",
    [
        *(partial(check, checkpoint=CHECKPOINT) for check, _ in CHECKS.values()),
        partial(check_losses, checkpoint=small_checkpoint()),
        check_batches,
    ],
)
def test_an_exception_in_a_port_is_its_answer(job: Callable[..., Any]) -> None:
    with pytest.raises(CrossCheckError, match=r"raised KeyError .*: 'no such key' at .*:\d+"):
        job(raises)
    with pytest.raises(InputError, match=r"fn must be a function .*, got int"):
        job(3)


def test_what_build_does_wrong_is_told_as_such() -> None:
    check: Any = partial(check_sampler, sampler, CHECKPOINT, rows=8, coverage=False)
    with pytest.raises(CrossCheckError, match="your build raised KeyError instead of a sampler"):
        check(build=raises)
    with pytest.raises(InputError, match="what build returns must be a function"):
        check(build=lambda networks: 3)


def half(*given: Any) -> Any:
    return sampler(*given)["action"] / 2


def wrong_loss(*given: Any) -> dict[str, float]:
    return {"critic": 1.0}


@pytest.mark.parametrize(
    ("job", "says"),
    [
        pytest.param(
            partial(check_sampler, half, CHECKPOINT, rows=4),
            "simulating mistakes",
            marks=pytest.mark.slow,
        ),
        (partial(check_losses, wrong_loss, small_checkpoint()), "simulating mistakes"),
        (partial(check_critic, lambda *x: critic(*x) / 2, CHECKPOINT, rows=4), "simulating mist"),
    ],
)
def test_a_diagnosis_shows_how_far_it_is_where_somebody_watches(
    job: Any, says: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(CrossCheckError):
        job()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(CrossCheckError):
        job()
    assert says in capsys.readouterr().err
    if job.func is not check_critic:
        with pytest.raises(CrossCheckError):
            job(show_progress=False)
        assert capsys.readouterr().err == ""


def test_a_tolerance_of_nothing_is_one() -> None:
    from qgf_ref.contracts import ContractError

    with pytest.raises(ContractError, match="row_independence"):
        in_estimator(tolerance=0.0)
