"""Some 300 wrong command lines: exit code 2, a message that says what to do, nothing lost."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from qgf_ref.cli.main import main, parser

NEEDED = {
    "trace": "--checkpoint model.safetensors --input in.npz --weight 0.3 --out out.npz",
    "compare": "--checkpoint model.safetensors --trace in.npz",
    "convert": "model.safetensors copy.npz",
    "collect": "pointmaze-medium-navigate-v0",
    "goals": "pointmaze-medium-navigate-oraclerep-v0",
    "train": "pointmaze-medium-navigate-singletask-task1-v0 --out out",
    "train-extra": "cfgrl --run run",
    "audit": "--checkpoint model.safetensors --obs in.npz --out out",
    "explain": "--checkpoint model.safetensors --obs in.npz",
    "study": "noise --out out",
    "evaluate": "--out out",
    "bench": "--no-memory --out out",
    "sweep": "spec.toml --serial",
    "estimators": "",
}
"""What each command cannot do without; what is wrong is added to it."""


def commands() -> dict[str, argparse.ArgumentParser]:
    (sub,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(sub.choices)


def misspelt(flag: str) -> str:
    """Two letters in the middle exchanged, or one doubled where they are equal."""
    i = len(flag) // 2 + 1
    swapped = f"{flag[: i - 1]}{flag[i]}{flag[i - 1]}{flag[i + 1 :]}"
    return swapped if swapped != flag else f"{flag[:i]}{flag[i]}{flag[i:]}"


def generated(name: str, command: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """(command line, what is said): of each flag, misspelt and with nonsense for a value."""
    lines = []
    for action in command._actions:
        flag = next((f for f in action.option_strings if f.startswith("--")), None)
        if flag is None or flag == "--help":
            continue
        if len(flag) > 5:
            lines.append((f"{NEEDED[name]} {misspelt(flag)} 1", f"did you mean {flag}?"))
        kind = getattr(action.type, "__name__", "")
        if kind in ("int", "float", "natural"):
            lines.append((f"{NEEDED[name]} {flag} many", f"argument {flag}"))
        elif action.choices is not None and action.nargs != 0:
            lines.append((f"{NEEDED[name]} {flag} nonsense", "choose from"))
        elif action.nargs is None:
            lines.append((f"{NEEDED[name]} {flag}", "expected one argument"))
    return lines


ADDRESS = "is an address"
SPEC = """tasks = ["pointmaze-medium-navigate-singletask-task1-v0"]
[agents.iql]
methods = ["bc"]
"""
SAID: list[tuple[str, str]] = [
    ("", "required"),
    ("audti", "choose from audit"),
    ("trace", "required: --input, --out"),
    ("compare", "required: --trace"),
    ("convert", "required: SRC, DST"),
    ("convert model.safetensors", "required: DST"),
    ("collect", "required: NAME"),
    ("train-extra", "required: NETWORK, --run"),
    ("train", "which task?"),
    ("train --resume nowhere", "holds no training run"),
    ("train --resume nowhere --seed 1", "--resume takes its settings from the run"),
    ("train --base nowhere", "holds no training run"),
    ("train --agent fql --base nowhere", "--base is for agents that are trained against"),
    ("train --base nowhere --resume nowhere", "--base takes its other settings"),
    ("train --config nowhere.json", "cannot read nowhere.json"),
    ("train --config in.npz", "in.npz"),
    ("train cube-single-play-v0 --out out", "expected ENV-TYPE-singletask"),
    ("train cube-sngle-play-singletask-v0 --out out", "unknown task"),
    ("train --agent iqll x", "unknown agent 'iqll'"),
    ("train --agent nowhere:AGENT x", "cannot import it"),
    ("train --agent json:loads x", "not a qgf_ref.agents.agent.Agent"),
    ("train x --batch 0", "batch must be at least 1"),
    ("train x --updates -1", "updates must be at least 0"),
    ("train x --tau 2", "tau must lie in [0, 1]"),
    ("train x --learning-rate nan", "learning_rate must be finite"),
    ("train x --activation gleu", "unknown activation 'gleu'"),
    ("train x --q-aggregation max", "max"),
    ("train x --backend cuda", "unknown backend 'cuda'"),
    ("train x --threads 0", "threads must be a whole number"),
    ("train x --hidden 0", "hidden must be one or more widths"),
    ("train x --evaluate-every 7", "multiple of log_every"),
    ("train x --data hf://org/data", ADDRESS),
    ("train x --lr 3e-4", "did you mean --learning-rate?"),
    ("train x --device cuda", "on the CPU"),
    ("train-extra cfgrl --run nowhere", "holds no training run"),
    ("train-extra cfrgl --run nowhere", "unknown auxiliary network 'cfrgl'"),
    ("collect cube-single-v0", "unknown data set"),
    ("collect cube-single-play-v0 --episodes 0 --out x", "at least 1"),
    ("collect cube-single-play-v0 --workers 0 --out x", "at least 1 worker"),
    ("collect cube-single-play-v0 --episode-steps 1 --out x", "at least 2 steps"),
    ("collect antmaze-large-navigate-v0 --out x", "cannot collect"),
    ("collect cube-single-play-v0 --episodes 1 --out in.npz", "cannot write into"),
    ("evaluate --checkpoint nowhere --out x", "no checkpoint at nowhere"),
    ("evaluate --checkpoint model.safetensors --out x", "give --task"),
    ("evaluate --methods qfg --out x", "unknown"),
    ("evaluate --methods bc --estimators qgf --out x", "give either --methods"),
    ("evaluate --best-of 4 --out x", "--best-of goes with --estimators"),
    ("evaluate --episodes 0 --out x", "episodes must be ≥ 1"),
    ("evaluate --envs 0 --out x", "envs must be ≥ 1"),
    ("evaluate --workers 0 --out x", "workers must be ≥ 1"),
    ("evaluate --weights nan --out x", "weights must be finite"),
    ("evaluate --weights 1 1 --out x", "a weight is given twice"),
    ("evaluate --threads 2 --out x", "threads=2 is for backend numba"),
    ("evaluate --gif-method qgf --out x", "--gif-method goes with --gif"),
    ("evaluate --task cube-sngle-v0 --out x", "unknown task"),
    ("evaluate --out in.npz", "cannot write into in.npz"),
    ("audit --checkpoint hf://org/name", ADDRESS),
    ("audit --checkpoint in.npz --obs in.npz", "in.npz"),
    ("audit --checkpoint model.safetensors", "give --obs"),
    ("audit --estimators qfg --out x", "unknown estimator 'qfg'"),
    ("audit --estimators nowhere:f --out x", "cannot import it"),
    ("audit --rows 1 --out x", "--rows must be at least 2"),
    ("audit --weight -1 --out x", "weight must be a finite number ≥ 0"),
    ("audit --backend cupy --out x", "cupy"),
    ("audit --denoise-steps 0 --out x", "must be from 1"),
    ("audit --out in.npz", "cannot write into in.npz"),
    ("audit --out held", "held holds an earlier run's report.json: give --overwrite"),
    ("compare --trace in.npz --out held", "lacks action"),
    ("compare --trace nowhere.npz", "cannot read nowhere.npz"),
    ("compare --trace model.safetensors", "not a readable npz"),
    ("explain --checkpoint model.safetensors", "give --obs"),
    ("explain --step 99", "step must be one of"),
    ("explain --row 9999", "row must be one of"),
    ("explain --estimator oracle", "closed-form"),
    ("explain --obs model.safetensors", "not a readable npz"),
    ("trace --checkpoint model.safetensors --input in.npz --weight inf --out x.npz", "finite"),
    ("trace --input in.npz --weight 1 --out in.npz", "is an input"),
    ("trace --input in.npz --weight 1 --out no/x.npz", "there is no directory no"),
    ("trace --input in.npz --weight 1 --out x.npz --dtype float16", "choose from"),
    ("trace --input in.npz --weight 1 --out x.npz --threads 2", "threads is for backend numba"),
    ("trace --input in.npz --weight 1 --out x.npz", "obs must have shape (rows, 28)"),
    ("convert nowhere out.npz", "no checkpoint at nowhere"),
    ("convert model.safetensors out.docx", "its suffix does not say what to write"),
    ("convert model.safetensors model.safetensors", "is an input"),
    ("convert model.safetensors no/out.npz", "no"),
    ("convert model.safetensors out.npz --rules nowhere.json", "cannot read nowhere.json"),
    ("convert model.safetensors out.npz --to onnx", "choose from"),
    ("study didatic", "unknown study 'didatic'"),
    ("study didactic --checkpoint model.safetensors", "takes no --checkpoint"),
    ("study didactic --estimators qgf qgf --out x", "is given twice"),
    ("study scaling --checkpoint runs --out x", "trains its own networks"),
    ("study scaling --estimators qgf --out x", "takes no --estimators"),
    ("study didactic --workers 0 --out x", "workers must be ≥ 1"),
    ("study didactic --redraw nowhere --out x", "cannot read"),
    ("study noise --checkpoint nowhere", "no checkpoint at nowhere"),
    ("study didactic --out held", "held holds an earlier run's study_didactic.csv"),
    ("bench --network 512 --out x", "LAYERSxWIDTH"),
    ("bench --batch 0 --out x", "batch must be from 1"),
    ("bench --peer nothing --out x", "package.module:function"),
    ("bench --threads 9999 --out x", "number of threads must be from 1"),
    ("bench --estimator qfg --out x", "unknown estimator"),
    ("bench --dtype float16 --out x", "float16"),
    ("bench --weight nan --out x", "finite number"),
    ("bench --activation relu --out x", "describes a checkpoint"),
    ("bench --network 2x8 --checkpoint model.safetensors --out x", "not both"),
    ("bench --against nowhere.json --out x", "cannot read nowhere.json"),
    ("bench --against held/report.json --out x", "is no bench.json"),
    ("sweep", "required: SPEC.toml"),
    ("sweep nowhere.toml", "cannot read nowhere.toml"),
    ("sweep in.npz", "cannot read in.npz"),
    ("sweep held", "cannot read held"),
    ("sweep hf://org/spec.toml", ADDRESS),
    ("sweep spec.toml --jobs 3", "unrecognized arguments: --jobs"),
    ("sweep spec.toml --slurm --pbs", "not allowed with argument --slurm"),
    ("sweep spec.toml --serial --slurm", "--serial and --slurm are different workers"),
    ("sweep spec.toml --serial --workers 2", "--workers does not go with --serial"),
    ("sweep spec.toml --workers 0", "--workers must be ≥ 1"),
    ("sweep spec.toml --threads 9999 --serial", "threads must be a whole number from 1 to 1024"),
    ("sweep spec.toml --retries -1", "--retries must be ≥ 0"),
    ("sweep spec.toml --serial --data hf://org/data", ADDRESS),
    ("sweep spec.toml --out in.npz", "is a file: give a directory"),
    ("sweep spec.toml --out in.npz/x", "in.npz/x"),
    ("sweep spec.toml held", "a directory goes with status or table"),
    ("sweep status", "status of which sweep?"),
    ("sweep table nowhere", "holds no sweep: begin one with"),
    ("sweep statsu held", "did you mean qgf-ref sweep status held?"),
    ("sweep tabel held", "did you mean qgf-ref sweep table held?"),
    ("sweep status held", "is no sweep's"),
    ("sweep table held --serial", "only reads held: it takes no --serial"),
    ("bench --out held", "held holds an earlier run's bench.json"),
]


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a wrong command line says, which must end with exit code 2."""
    try:
        code: object = main(line.split())
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2, f"{line}: exit code {code}, {said}"
    assert "Traceback" not in said and "Errno" not in said, line
    return said


@pytest.fixture
def held(place: Path) -> dict[Path, bytes]:
    """What is in the current directory, and must stay: results of earlier runs among it."""
    (place / "held").mkdir()
    for name in ("report.json", "bench.json", "study_didactic.csv", "sweep.json"):
        (place / "held" / name).write_text('{"earlier": 1}')
    (place / "spec.toml").write_text(SPEC)
    (place / "out.npz").write_text("precious")
    return {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_every_flag_misspelt_and_with_nonsense(
    name: str, held: dict[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands()[name]
    for words, message in generated(name, command):
        said = refused(f"{name} {words}", capsys)
        assert message in said, f"{name} {words}: {said}"
        assert said.startswith(f"usage: qgf-ref {name}"), words
    assert {p: p.read_bytes() for p in Path.cwd().rglob("*") if p.is_file()} == held


def test_what_parses_and_is_wrong(
    held: dict[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    for line, message in SAID:
        said = refused(line, capsys)
        assert message in said, f"{line}: {said}"
        assert said.startswith("usage: ") or said.count("\n") == 1, f"{line}: {said}"
        now = {p: p.read_bytes() for p in Path.cwd().rglob("*") if p.is_file()}
        assert now == held, line


def test_there_are_enough() -> None:
    lines = [line for name, command in commands().items() for line in generated(name, command)]
    assert len(lines) + len(SAID) >= 300
