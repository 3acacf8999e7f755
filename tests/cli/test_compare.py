"""qgf-ref compare: exit codes, what it prints and writes, and every estimator's own trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.cli.compare import FILES, PROBE
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, mistake
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.interop.load import load
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import STEPWISE, recorded_trace
from qgf_ref.sampling import trace
from tests.conftest import Golden, small_checkpoint, states
from tests.crosscheck.ports import inputs, lively, port_run, setting
from tests.helpers.some import some

KNOWN = {"estimator": "qgf", "weight": 0.3}
COMPARE = "compare --checkpoint model.safetensors --trace theirs.npz"
NAMES = {"ensemble-mean": "g", "layer-norm-eps-1e-5": "v", "final-clip-missing": "action"}
"""Mistakes planted here, and where they show first."""


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(command.split())
    out, err = capsys.readouterr()
    return code, out, err


def ours(checkpoint: Checkpoint, dtype: str = "float32", name: str = "qgf") -> dict[str, Array]:
    """Our own sampler's trace."""
    obs, noise = states(checkpoint, 8)
    flow = checkpoint.astype(dtype).guided_flow(
        embedding="float32" if dtype == "float32" else "exact"
    )
    single = [x.astype("f4") for x in (obs, noise)]
    return trace(flow, single[0], estimator=name, weight=0.3, noise=single[1]).arrays()


def write(path: Path, arrays: dict[str, Array], **metadata: Any) -> None:
    np.savez(path, **arrays, metadata=np.array(json.dumps(metadata)))  # type: ignore[arg-type]


@pytest.fixture
def checkpoint(place: Path) -> Checkpoint:
    return load(place / "model.safetensors")


@pytest.fixture
def theirs(place: Path, checkpoint: Checkpoint) -> dict[str, Array]:
    """A right trace, also written to theirs.npz with its metadata."""
    arrays = ours(checkpoint)
    write(place / "theirs.npz", arrays, **KNOWN)
    return arrays


def planted(place: Path, name: str, weight: float = 0.3, only: tuple[str, ...] = STEPWISE) -> None:
    """The float32 trace of a port with this mistake, as theirs.npz; its checkpoint beside it."""
    ck = lively()
    save_checkpoint(ck, place / "model.safetensors")
    made = Made(name, next(iter(mistake(name).variants)))
    given = inputs(ck, weight=weight)
    found = port_run(setting(ck), (made,), given)
    arrays = {name: x for name, x in found.items() if name in (*only, "action")}
    arrays |= {"obs": given.obs, "noise": given.noise}
    write(place / "theirs.npz", arrays, estimator="qgf", weight=weight)


@pytest.fixture
def unhidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the list of what a trace would not show, which costs more than the rest."""
    monkeypatch.setattr("qgf_ref.crosscheck.compare.hidden", lambda *given: ())
    yield


def test_a_right_trace_agrees(
    place: Path, theirs: dict[str, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(COMPARE, capsys)
    assert (code, err) == (0, "")
    assert out.startswith("AGREES: theirs.npz\n")
    assert "8 rows, T = 6, estimator qgf, weight 0.3, float32" in out
    assert "checkpoint model.safetensors" in out
    assert "every recorded number is within rounding" in out
    assert sorted(p.name for p in place.iterdir()) == ["in.npz", "model.safetensors", "theirs.npz"]


def test_what_the_trace_command_wrote_agrees(
    place: Path, unhidden: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("--dtype float64", "--dtype float32 --time-embedding float32"):
        command = "trace --checkpoint model.safetensors --input in.npz --out theirs.npz"
        assert main([*command.split(), "--weight", "0.3", *how.split()]) == 0
        capsys.readouterr()
        assert run(COMPARE, capsys)[0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_named(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted(place, name)
    code, out, err = run(COMPARE, capsys)
    assert (code, err) == (1, "")
    assert out.startswith("DISAGREES: theirs.npz\n")
    first = [line for line in out.splitlines() if line.startswith("first disagreement: ")]
    assert len(first) == 1 and first[0].startswith(f"first disagreement: {NAMES[name]}")
    assert f"  worst element {NAMES[name]}[" in out
    assert f"DIAGNOSIS\n1. {name}" in out
    says = " ".join(out.split())
    assert " ".join(mistake(name).says.split()) in says


@pytest.mark.slow
def test_the_flags_stand_over_the_metadata(
    place: Path, theirs: dict[str, Array], unhidden: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(f"{COMPARE} --estimator qgf_jacobian", capsys)
    assert code == 1 and "1. gradient-plain" in out
    for metadata in ({}, {"estimator": "ood", "weight": 9.0}):
        write(place / "theirs.npz", theirs, **metadata)
        assert run(f"{COMPARE} --estimator qgf --weight 0.3", capsys)[0] == 0
    write(place / "theirs.npz", ours(load("model.safetensors"), name="none"))
    assert run(f"{COMPARE} --estimator none", capsys)[0] == 0


def test_the_final_actions_are_enough(
    place: Path, theirs: dict[str, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {name: theirs[name] for name in ("obs", "noise", "action")}
    write(place / "theirs.npz", bare, estimator="qgf", weight=0.3)
    code, out, _ = run(COMPARE, capsys)
    assert code == 0 and "free-running from their noise: error / rounding" in out
    planted(place, "gradient-clip-masked", only=())
    code, out, _ = run(COMPARE, capsys)
    assert code == 1 and "1. gradient-clip-masked" in out


def test_the_files_that_are_written(
    place: Path, capsys: pytest.CaptureFixture[str], draws: None
) -> None:
    planted(place, "ensemble-mean")
    code, out, _ = run(f"{COMPARE} --out result", capsys)
    assert code == 1
    assert sorted(p.name for p in (place / "result").iterdir()) == sorted(FILES)
    words = (place / "result/compare.txt").read_text()
    assert out == f"{words}\nwrote " + ", ".join(f"result/{name}" for name in FILES) + "\n"
    assert (place / "result/compare.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    found = json.loads((place / "result/compare.json").read_text())
    assert {"python", "versions", "commit", "processor", "time"} <= set(found)
    assert (found["agrees"], found["estimator"], found["weight"]) == (
        False, "qgf", float(np.float32(0.3)),
    )  # fmt: skip
    assert found["first"] == {"step": 0, "quantity": "g"}
    assert [m["name"] for e in found["explanations"] for m in e["mistakes"]] == ["ensemble-mean"]
    assert found["separating_input"] is None
    assert set(found["teacher_forced"]) == {*STEPWISE, "action"}
    assert found["teacher_forced"]["v"]["agrees"] and not found["teacher_forced"]["g"]["agrees"]


def test_an_input_that_separates_what_is_ambiguous(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At w < 1, an integer weight is no guidance at all; the input that is written tells."""
    planted(place, "weight-integer", weight=0.5, only=())
    code, out, _ = run(f"{COMPARE} --out result", capsys)
    assert code == 1
    assert "DIAGNOSIS: ambiguous, 2 explanations" in out
    assert ". weight-integer" in out and ". guidance-missing" in out
    assert "To tell them apart, run your sampler with weight 1.5." in out
    assert f"run your sampler on result/{PROBE} with weight 1.5 and compare again" in out
    assert sorted(p.name for p in (place / "result").iterdir()) == sorted((*FILES, PROBE))
    with np.load(place / "result" / PROBE) as probe:
        assert set(probe) == {"obs", "noise"}
        given = inputs(lively())._replace(obs=probe["obs"], noise=probe["noise"], weight=1.5)
    for name in ("weight-integer", "guidance-missing"):
        found = port_run(setting(lively()), (Made(name, ""),), given)
        arrays = {"obs": given.obs, "noise": given.noise, "action": found["action"]}
        write(place / "theirs.npz", arrays, estimator="qgf", weight=1.5)
        code, out, _ = run(COMPARE, capsys)
        assert code == 1
        # at 1.5, a weight cut to 1 may also be a default: that is for the first input to tell
        assert {n for n in ("weight-integer", "guidance-missing") if n in out} == {name}


@pytest.mark.slow
def test_no_line_is_wider_than_100_columns(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgf_ref.crosscheck.sampler.search.MAX_PAIRS", 5)
    ck = small_checkpoint(hidden=(4, 3), steps=2, dtype="float32")
    save_checkpoint(ck, place / "model.safetensors")
    arrays = ours(ck)
    write(place / "theirs.npz", arrays, **KNOWN)
    outputs = [run(COMPARE, capsys)[1]]
    assert "This trace would not show: " in outputs[0]
    write(place / "theirs.npz", {**arrays, "g": arrays["g"] * np.float32(1.001)}, **KNOWN)
    outputs.append(run(f"{COMPARE} --out wide --overwrite", capsys)[1])
    assert "DIAGNOSIS: unknown" in outputs[1]
    assert "Look at how your code computes g" in outputs[1]
    planted(place, "weight-integer", weight=0.5, only=())
    outputs.append(run(f"{COMPARE} --out wide --overwrite", capsys)[1])
    assert "DIAGNOSIS: ambiguous" in outputs[2]
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    outputs.append(capsys.readouterr().out)
    assert [line for text in outputs for line in text.splitlines() if len(line) > 100] == []


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "example:\n  qgf-ref compare --checkpoint" in out
    assert "Exit code: 0 agrees to rounding, 1 disagrees, 2 bad input." in out


Change = Callable[[dict[str, Array]], dict[str, Array] | None]


def _without(name: str) -> Change:
    return lambda arrays: {n: x for n, x in arrays.items() if n != name}


def _as(**changed: Callable[[Array], Array]) -> Change:
    return lambda arrays: {n: changed.get(n, np.asarray)(x) for n, x in arrays.items()}


def _wider(x: Array) -> Array:
    return np.concatenate([x, x], axis=-1)


def _same(arrays: dict[str, Array]) -> dict[str, Array]:
    return arrays


BAD: dict[str, tuple[Change, dict[str, Any], str, str]] = {
    "no trace": (lambda arrays: None, KNOWN, "", "cannot read theirs.npz"),
    "no noise": (_without("noise"), KNOWN, "", "theirs.npz lacks noise; it holds"),
    "wide obs": (_as(obs=_wider), KNOWN, "", "obs has 10 columns; model.safetensors has 5"),
    "wide action": (
        lambda arrays: {
            n: _wider(x) if n in ("noise", "action") else x
            for n, x in arrays.items() if n not in STEPWISE
        }, KNOWN, "", "action has 6 columns; model.safetensors has 3",
    ),
    "a step too few": (
        lambda arrays: {n: x[1:] if n in STEPWISE else x for n, x in arrays.items()},
        KNOWN, "", "holds 5 denoising steps, expected 6",
    ),
    "another T": (_same, KNOWN, "--denoise-steps 7", "holds 6 denoising steps, expected 7"),
    "T of the metadata": (_same, {**KNOWN, "denoise_steps": 9}, "", "denoising steps, expected 9"),
    "no T at all": (_without("x"), KNOWN, "--denoise-steps 0", "must be from 1 to 100000, got 0"),
    "no estimator": (_same, {"weight": 0.3}, "", "which estimator it was made with: give --est"),
    "no weight": (_same, {"estimator": "qgf"}, "", "does not say its guidance weight: give --wei"),
    "unknown estimator": (_same, KNOWN, "--estimator qfg", "unknown estimator 'qfg'; the valid"),
    "unknown of the trace": (_same, {**KNOWN, "estimator": "x"}, "", "unknown estimator 'x'"),
    "code of the trace": (_same, {**KNOWN, "estimator": "os:abort"}, "", "give --estimator os:abo"),
    "oracle": (_same, KNOWN, "--estimator oracle", "closed-form"),
    "negative weight": (_same, KNOWN, "--weight=-1", "weight must be a finite number ≥ 0"),
    "negative of the trace": (_same, {**KNOWN, "weight": -0.5}, "", "finite number ≥ 0"),
    "weight NaN": (_same, KNOWN, "--weight nan", "weight must be a finite number ≥ 0"),
    "enormous weight": (_same, KNOWN, "--weight 1e39", "at most 1e+18, got 1e+39"),
    "weight of many digits": (_same, {**KNOWN, "weight": 10**400}, "", "must be a float, got"),
    "best of": (_same, {**KNOWN, "best_of": 4}, "", "best_of is 4, but 8 rows of noise for 8"),
    "version": (_same, {**KNOWN, "version": 3}, "", "trace schema version 3; this reads 1"),
    "more members": (
        _as(q=lambda x: np.concatenate([x, x], axis=1)), KNOWN, "",
        "q has shape (6, 4, 8), expected (T, E, B·n) with the 2 members of model.safetensors",
    ),
    "NaN": (_as(v=lambda x: x * np.nan), KNOWN, "", "theirs.npz: v must be finite"),
    "no checkpoint": (_same, KNOWN, "--checkpoint no.pkl", "no checkpoint at no.pkl"),
    "activation": (_same, KNOWN, "--activation gleu", "unknown activation 'gleu'"),
    "out is a file": (_same, KNOWN, "--out in.npz", "cannot write into in.npz"),
    "out under a file": (_same, KNOWN, "--out in.npz/x", "cannot write into in.npz/x"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_exits_2_with_one_line_and_loses_nothing(
    what: str, place: Path, theirs: dict[str, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    change, metadata, flags, message = BAD[what]
    (place / "theirs.npz").unlink()
    arrays = change(theirs)
    if arrays is not None:
        write(place / "theirs.npz", arrays, **metadata)
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    code, out, err = run(f"{COMPARE} {flags}", capsys)
    assert (code, out) == (2, "")
    assert err.startswith("qgf-ref compare: ") and message in err
    assert err.count("\n") == 1 and len(err) < 600
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_arguments_that_are_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--checkpoint", "model.safetensors"])
    assert stop.value.code == 2
    assert "the following arguments are required: --trace" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", some([n for n in learned_estimator_names() if estimator(n).auxiliary is None], 6)
)
def test_every_estimators_own_trace_agrees(
    name: str, dtype: str, checkpoint: Checkpoint, unhidden: None
) -> None:
    metadata = {"estimator": name, "weight": 0.3}
    found = compare(checkpoint, recorded_trace(ours(checkpoint, dtype, name), metadata))
    assert found.agrees and found.first is None
    assert found.setting.time_precision == ("float32" if dtype == "float32" else "exact")
    assert max(float(j.excess.max()) for j in found.judged.values()) < 1
    assert found.rows_undecided <= 2, "nearly every row is compared"


def test_estimators_with_an_auxiliary_network_are_not_compared(
    checkpoint: Checkpoint, unhidden: None
) -> None:
    theirs = recorded_trace(ours(checkpoint), {"estimator": "robust_q", "weight": 0.3})
    with pytest.raises(InputError, match="robust_q works with the auxiliary network robust_q"):
        compare(checkpoint, theirs)


def golden_traces(golden: Golden) -> Iterator[tuple[str, float, dict[str, Array]]]:
    """(method, weight, arrays) of the golden float64 file, of every method with one weight."""
    stored, outer = golden.npz("trace_float64"), golden.official
    runs: dict[str, dict[str, dict[str, Array]]] = {}
    for key, array in stored.items():
        method, weight, *name = key.split("/")
        if method != "grad_step":
            runs.setdefault(method, {}).setdefault(weight, {})[name[0]] = array
    for i, (method, weights) in enumerate(runs.items()):
        weight, arrays = list(weights.items())[i % len(weights)]
        # their weights are a float32 array
        w = float(np.float32(weight[1:]))
        yield method, w, {**arrays, "obs": outer["obs"], "noise": outer["noise"]}


def test_the_golden_float64_traces_agree(golden: Golden, unhidden: None) -> None:
    ck, seen = golden.load(), set()
    for method, weight, arrays in golden_traces(golden):
        found = compare(ck, recorded_trace(arrays), estimator=method, weight=weight)
        assert found.agrees, f"{golden.name}/{method}/w{weight}"
        assert not found.case.single
        seen.add(method)
    assert seen == {"bc", "ood", "qgf", "qgf_jacobian", "qgf_chain", "bptt"}


def test_the_official_float32_actions_agree(golden_official: Golden, unhidden: None) -> None:
    ck, outer, seen = golden_official.load(), golden_official.official, set()
    for key, action in outer.items():
        if not key.startswith("official/") or key.split("/")[1] in ("grad_step",):
            continue
        _, method, weight = key.split("/")
        many = method.startswith("qgf_bfn")
        noise = outer["bfn_noise" if many else "noise"]
        arrays = {"obs": outer["obs"], "noise": noise.reshape(-1, noise.shape[-1])}
        trace_ = recorded_trace({**arrays, "action": action})
        name = "qgf" if many else method
        found = compare(ck, trace_, estimator=name, weight=float(weight[1:]))
        assert found.agrees, f"{golden_official.name}/{key}"
        seen.add(method)
    assert seen
