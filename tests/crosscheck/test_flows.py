"""`compare` and the `check_…` of a flow of whose networks nothing is known but the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, with_mistakes
from qgf_ref.crosscheck.sampler.mistakes.convention import CONVENTION
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.crosscheck.sampler.port import reference_port
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.crosscheck.sampler.search import Search
from qgf_ref.crosscheck.sampler.subject import FlowNetworks
from qgf_ref.errors import InputError
from qgf_ref.files import write_npz
from qgf_ref.flow.convention import convention
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.interop.trace_file import RecordedTrace, read_trace, recorded_trace
from qgf_ref.testing import check_sampler
from tests.conftest import small_checkpoint
from tests.crosscheck.closed_flow import NOISE, OBS, WEIGHT, Closed, D, T, flow

AGREEMENT_CALLS, DIAGNOSIS_CALLS = 300, 2000
"""Most calls of a network; measured 85, and 230 to 360."""


def recorded(
    made: Made | None = None, estimator: str = "qgf", final: bool = False
) -> RecordedTrace:
    """What a float32 port in openpi's convention, with a mistake, writes down."""
    networks = FlowNetworks.of(flow("float32"), OBS, 10**9)
    port = reference_port(networks, qgf_ref.estimator(estimator), "exact", T)
    port = port if made is None else with_mistakes(port, (made,))
    run = free_running(port, Inputs(OBS, NOISE, WEIGHT, 1))
    arrays = {name: np.asarray(x, np.float32) for name, x in run.items()}
    arrays = convention("openpi").trace_from_core(arrays)
    if final:
        arrays = {"action": arrays["action"]}
    return recorded_trace({**arrays, "obs": OBS, "noise": NOISE})


def result(trace: RecordedTrace, estimator: EstimatorLike = "qgf", **settings: Any) -> Comparison:
    return compare(flow(), trace, estimator=estimator, weight=WEIGHT, **settings)


def calls(comparison: Comparison) -> int:
    checkpoint = comparison.setting.checkpoint
    assert isinstance(checkpoint, FlowNetworks)
    return checkpoint.meter.total


def slowly(*cases: Any) -> list[Any]:
    return [pytest.param(case, id=str(case), marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("estimator", ["qgf", *slowly("qgf_jacobian", "bptt")])
def test_a_correct_port_in_its_own_convention_agrees(estimator: str) -> None:
    found = result(recorded(estimator=estimator), estimator)
    assert found.agrees
    said = text(found)
    assert "flow GuidedFlow(" in said and "calls of a network" in said
    if estimator == "qgf":
        assert calls(found) <= AGREEMENT_CALLS


NAMED = (
    *(Made(m.name, "") for m in CONVENTION),
    Made("time-index", ""),
    Made("gradient-negated", ""),
    Made("gradient-clip-masked", ""),
    Made("gradient-jacobian", ""),
    Made("ensemble-mean", ""),
    Made("weight-squared", ""),
    Made("guidance-without-dt", ""),
    Made("query-factor-t", ""),
    Made("query-unclipped", ""),
    Made("gradient-batch-mean", ""),
    Made("grid-reversed", "divided, in the network only"),
    Made("clip-every-step", ""),
    Made("final-clip-missing", ""),
)


@pytest.mark.parametrize("made", [NAMED[0], NAMED[4], *slowly(*NAMED[1:4], *NAMED[5:])], ids=str)
def test_a_mistake_is_named_alone_from_a_trace(made: Made) -> None:
    found = result(recorded(made))
    assert [e.names for e in found.diagnosis.explanations] == [(made.name,)]
    assert calls(found) <= DIAGNOSIS_CALLS


def test_the_report_on_the_page_is_printed_still() -> None:
    """Digits of rounding are this machine's; how often networks are called is not."""
    page = (Path(adapters.__file__).parent / "README.md").read_text()
    block = page.partition("--estimator qgf --weight 1.5\n")[2].partition("```")[0]
    said = text(result(recorded(Made("guidance-sign", ""))))

    def words(report: str) -> list[list[str]]:
        lines = report.replace("DISAGREES: memory", "DISAGREES: theirs.npz").strip().splitlines()
        return [re.sub(r"[-\d.e+!]+", " ", line).split() for line in lines]

    assert words(block) == words(said)
    assert re.findall(r"\d+ calls", block) == re.findall(r"\d+ calls", said)


@pytest.mark.parametrize("name", ["query-other-end", *slowly("velocity-sign", "guidance-sign")])
def test_mixed_conventions_are_named_from_final_actions(name: str) -> None:
    found = result(recorded(Made(name, ""), final=True))
    names = [e.names for e in found.diagnosis.explanations]
    # minus the gradient and minus its weight are one function of the inputs
    expected = {(name,)} | ({("gradient-negated",)} if name == "guidance-sign" else set())
    assert set(names) == expected


def test_a_trace_recorded_in_the_cores_convention_is_told() -> None:
    """Their v is taken for u: the sampler agrees, and the record is named."""
    found = result(recorded(), convention="qgf")
    assert not found.agrees and found.diagnosis.record == ("what was recorded as v is −v",)


def test_what_has_no_name_is_unknown_at_the_right_quantity() -> None:
    trace = recorded()
    bent = {**trace.stepwise, "g": np.tanh(3 * trace.stepwise["g"])}
    found = result(replace(trace, stepwise=bent))
    assert not found.diagnosis.explanations and found.diagnosis.unknown == "g"


def test_a_budget_ends_the_diagnosis_and_says_so() -> None:
    found = result(recorded(Made("weight-squared", "")), budget=200)
    assert found.diagnosis.unknown == "a"
    assert "200 calls are spent before the diagnosis was done" in found.diagnosis.known[0]
    assert found.first is not None and found.first[1] == "a"


def test_a_function_as_estimator_has_a_budget_too() -> None:
    def halved(own: GuidedFlow, step: DenoisingStep) -> Array:
        return 0.5 * qgf_ref.estimator("qgf")(own, step).gradient

    found = result(recorded(Made("weight-squared", "")), halved, budget=200)
    assert "200 calls are spent" in found.diagnosis.known[0]


class AtItsTimes(Closed):
    """A network with a table of its sampler's times, that knows no other."""

    def forward(self, obs: Array, action: Array, time: Any) -> tuple[Array, Any]:
        if np.min(time) < 0.5 / T or np.max(time) > 1:
            raise InputError("the field raised IndexError: no such time in its table")
        answer: tuple[Array, Any] = self._base.forward(obs, action, time)
        return answer


def test_a_time_that_the_network_does_not_know_is_not_what_they_asked() -> None:
    """Mistakes of time ask at τ = 0 and beyond 1: there this port could not have run."""
    own = flow()
    table = AtItsTimes(own.field.base)  # type: ignore[attr-defined]
    only = replace(own, field=convention("openpi").to_core(table, T))
    trace = recorded(Made("ensemble-mean", ""))
    found = compare(only, trace, estimator="qgf", weight=WEIGHT)
    assert [e.names for e in found.diagnosis.explanations] == [("ensemble-mean",)]


def test_ctrl_c_ends_the_diagnosis_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(search: Search, progress: bool = False) -> Diagnosis:
        search.singles = 7
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "diagnose", interrupted)
    wrong = recorded(Made("weight-squared", ""))
    found = result(wrong)
    assert found.diagnosis.interrupted and found.diagnosis.unknown == "a"
    assert found.first is not None and found.first[1] == "a"
    assert "Ctrl-C came before the diagnosis was done, after 7 mistakes" in text(found)
    with pytest.raises(KeyboardInterrupt):  # pytest's own Ctrl-C must end pytest
        check_sampler(port(-1.0), flow(), observations=OBS)


def test_another_number_of_steps_is_refused() -> None:
    with pytest.raises(InputError, match="the flow has T = 4"):
        compare(flow(), replace(recorded(final=True)), estimator="qgf", weight=1.0, denoise_steps=5)


def port(sign: float = 1.0) -> Callable[[Array, Array, float], Array]:
    """A sampler of somebody's, in openpi's convention, of final actions."""
    own = flow("float32")

    def sampler(obs: Array, noise: Array, weight: float) -> Array:
        u, x = own.field.base, noise  # type: ignore[attr-defined]
        for tau in convention("openpi").times(T):
            v = u.forward(obs, x, tau)[0]
            at = np.clip(x - np.float32(tau) * v, -1, 1)
            q, cached = own.critic.forward(obs, at)
            least = (q == q.min(axis=0)).astype(np.float32)
            g = own.critic.vjp(least, cached)
            x = x - (v - np.float32(sign * weight) * g) / np.float32(T)
        return np.clip(x, -1, 1).astype(np.float32)

    return sampler


def test_check_sampler_of_a_flow() -> None:
    report = check_sampler(port(), flow(), observations=OBS)
    assert report.agrees and report.calls == ("mixed", "one row", "unguided", "strong", "outside")
    with pytest.raises(CrossCheckError, match=r"guidance-sign|gradient-negated"):
        check_sampler(port(-1.0), flow(), observations=OBS)
    with pytest.raises(InputError, match="build makes samplers of checkpoints"):
        check_sampler(port(), flow(), build=lambda checkpoint: port())


def test_row_numbers_are_what_the_port_gets() -> None:
    """Observations of a structure of the user's."""
    own = flow("float32")
    held = {"state": OBS}
    adapted = adapters.functions(
        lambda s, x, t: own.field.forward(s["state"], x, t[0])[0],
        lambda s, x: own.critic.forward(s["state"], x)[0],
        action_shape=D, observations=held, denoise_steps=T, dtype="float32",
        differences=("vjp", "jvp"),
    )  # fmt: skip

    def sampler(rows: Array, noise: Array, weight: float) -> Array:
        return port()(OBS[rows[:, 0].astype(int)], noise, 0.0 * weight)

    assert check_sampler(sampler, adapted, estimator="none").agrees


MODULE = """
from tests.crosscheck.closed_flow import flow
def build(): return flow()
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_port_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, made in {"right": None, "wrong": Made("velocity-sign", "")}.items():
        trace = recorded(made)
        arrays = {"obs": OBS, "noise": NOISE, "action": trace.action, **trace.stepwise}
        write_npz(tmp_path / f"{name}.npz", arrays)
    run = ["compare", "--flow", "my_port_module:build", "--estimator", "qgf", "--weight", "1.5"]
    assert main([*run, "--trace", "right.npz"]) == 0
    assert main([*run, "--trace", "wrong.npz"]) == 1
    assert "velocity-sign" in capsys.readouterr().out
    assert main([*run, "--trace", "right.npz", "--convention", "pi0"]) == 2
    wrong = [*run, "--trace", "right.npz", "--denoise-steps", "4", "--checkpoint", "a.pt"]
    assert main(wrong) == 2
    assert "leave out --checkpoint, --denoise-steps" in capsys.readouterr().err


def test_the_command_trace_writes_in_the_flows_convention_and_compare_reads_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_traced_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "in.npz", {"obs": OBS, "noise": NOISE})
    run = ["trace", "--flow", "my_traced_module:build", "--weight", "1.5", "--input", "in.npz"]
    assert main([*run, "--out", "openpi.npz"]) == 0
    assert main([*run, "--out", "core.npz", "--convention", "qgf"]) == 0
    in_own, in_core = read_trace("openpi.npz"), read_trace("core.npz")
    assert in_own.metadata["convention"] == "openpi" and in_core.metadata["convention"] == "qgf"
    assert np.array_equal(in_own.stepwise["v"], -in_core.stepwise["v"])
    assert np.array_equal(in_own.action, in_core.action)
    compared = ["compare", "--flow", "my_traced_module:build", "--trace"]
    assert main([*compared, "openpi.npz"]) == 0
    assert main([*compared, "core.npz"]) == 0
    assert main([*run, "--out", "other.npz", "--dtype", "float32"]) == 2
    assert "compute in float64, at the times of its convention" in capsys.readouterr().err
    metadata = {**in_own.metadata, "convention": "gr00t"}
    assert not compare(flow(), replace(in_own, metadata=metadata)).agrees
    with pytest.raises(InputError, match="unknown convention 'pi'"):
        compare(flow(), replace(in_own, metadata=metadata | {"convention": "pi"}))


def test_a_checkpoints_trace_in_another_convention_is_read_in_it() -> None:
    """u = −v is told by the trace, or by the caller."""
    checkpoint = small_checkpoint(steps=T)
    run = qgf_ref.trace(checkpoint.flow, OBS, estimator="qgf", weight=WEIGHT, noise=NOISE)
    arrays = convention("openpi").trace_from_core(run.arrays())
    trace = recorded_trace(arrays, {"convention": "openpi"})
    how: dict[str, Any] = {"estimator": "qgf", "weight": WEIGHT}
    assert compare(checkpoint, trace, **how).agrees
    bare = replace(trace, metadata={})
    assert compare(checkpoint, bare, convention="openpi", **how).agrees
    assert not compare(checkpoint, bare, **how).agrees
