"""The example agent through the command line: nothing in the package knows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.registry import AGENTS, agent_named
from qgf_ref.checks import check_vjp
from qgf_ref.cli.main import main
from tests.data.synthetic import TASK, write_dataset
from tests.replay.recorder import killed_command

SPEC = "tests.agents.toy.agent:TOY"
SMALL = (
    TASK, "--hidden", "7", "6", "--batch", "16", "--horizon-length", "3", "--updates", "24",
    "--log-every", "6", "--checkpoint-every", "10", "--threads", "1", "--agent", SPEC,
)  # fmt: skip
FILES = "model.safetensors", "config.json", "state.safetensors", "metrics.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("toy"), count=6, steps=41))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toy") / "run"
    assert main(["train", *SMALL, "--data", data, "--out", str(place)]) == 0
    return place


def test_it_learns_and_is_loaded(run: Path) -> None:
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[0] == "update,actor,critic,validation_actor,validation_critic" and len(rows) == 5
    checkpoint = qgf_ref.load(run)
    assert checkpoint.agent is agent_named(SPEC)
    assert list(checkpoint.params) == ["actor", "critic", "target_critic"]
    assert (checkpoint.obs_dim, checkpoint.flat_action_dim) == (2, 6)
    moved = checkpoint.params["target_critic"].arrays(), checkpoint.params["critic"].arrays()
    assert any((a != b).any() for a, b in zip(*moved, strict=True))


def test_killed_and_resumed_it_ends_alike(run: Path, data: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    killed_command("train", *SMALL, "--data", data, "--out", str(broken), saves=1)
    assert main(["train", "--resume", str(broken), "--agent", SPEC]) == 0
    for name in FILES:
        assert (run / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_process_that_does_not_know_it_says_what_to_give(run: Path) -> None:
    for command in (["train", "--resume", str(run)], ["audit", "--checkpoint", str(run)]):
        program = [sys.executable, "-m", "qgf_ref", *command]
        ended = subprocess.run(program, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert "of the agent toy, which is not among those known here (iql, " in ended.stderr
        assert "--agent package.module:AGENT" in ended.stderr


def test_what_is_no_agent(capsys: pytest.CaptureFixture[str]) -> None:
    for spec, message in (
        ("toys", "unknown agent 'toys'"),
        ("tests.agents.toy.agent:PARTS", "is a tuple, not a qgf_ref.agents.agent.Agent"),
        ("tests.agents.toy.agent:NONE", "has no 'NONE'"),
    ):
        assert main(["train", TASK, "--agent", spec]) == 2
        assert message in capsys.readouterr().err
    assert "toys" not in AGENTS


def test_its_own_networks_gradient(run: Path) -> None:
    """μ(s, z) in its noise, against complex steps and differences."""
    checkpoint = qgf_ref.load(run)
    actor, rng = checkpoint.network("actor"), np.random.default_rng(0)
    obs = rng.standard_normal((3, checkpoint.obs_dim))
    check_vjp(
        lambda z: actor.forward(obs, z)[0],
        lambda z, a_bar: actor.vjp(a_bar, actor.forward(obs, z)[1]),
        rng.standard_normal((3, checkpoint.flat_action_dim)),
    )


@pytest.mark.slow
def test_the_other_commands_take_it_too(run: Path, tmp_path: Path) -> None:
    """In processes that do not know it: converted, evaluated by two workers, audited."""
    evaluate = (
        "evaluate", "--checkpoint", str(run), "--methods", "bc", "--selection-episodes", "1",
        "--episodes", "2", "--envs", "1", "--workers", "2", "--out", str(tmp_path / "evaluation"),
    )  # fmt: skip
    audit = ("audit", "--checkpoint", str(run), "--obs", "normal", "--out", str(tmp_path))
    commands: tuple[tuple[int, tuple[str, ...]], ...] = (
        (0, ("convert", str(run), str(tmp_path / "copy.safetensors"))),
        (0, ("convert", str(run), str(tmp_path / "toy.npz"))),
        (0, evaluate),
        (0, audit),
        (2, (*audit, "--overwrite", "--estimators", "qgf")),
    )
    for code, words in commands:
        program = [sys.executable, "-m", "qgf_ref", *words, "--agent", SPEC]
        ended = subprocess.run(program, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
    assert "the agent toy has no flow to guide" in ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    names = {check["name"] for check in report["checks"]}
    assert report["passed"] and {
        "actor in the noise vjp", "actor in observation and noise jvp",
        "actor in the parameters vjp", "critic in the parameters vjp",
        "target critic in the action adjoint", "actor loss gradient", "critic loss gradient",
        "ensemble_reduce min vjp",
    } <= names  # fmt: skip
    assert "velocity" not in str(names) and not report["profile"]["norm"]
    copy = qgf_ref.load(tmp_path / "copy.safetensors")
    assert copy.agent.name == "toy" and list(copy.params) == list(qgf_ref.load(run).params)
    with np.load(tmp_path / "toy.npz") as arrays:
        assert "actor.layers.0.kernel" in arrays
