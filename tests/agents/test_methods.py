"""The paper's other methods on the command line: trained, killed, resumed, evaluated, converted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.registry import AGENTS, agent_with
from qgf_ref.cli.main import main
from qgf_ref.testing import check_agent
from qgf_ref.training.config import TrainConfig, preset
from tests.data.synthetic import TASK, write_dataset
from tests.helpers.some import some
from tests.replay.recorder import killed_command

METHODS = {
    "edp": ("--bc-weight", "3"),
    "fql": ("--alpha", "3", "--critic-loss-type", "ddpg"),
    "qam": ("--inv-temp", "3", "--critic-loss-type", "ddpg", "--rho", "0.5", "--best-of-n", "2"),
    "dac": ("--alpha", "3", "--critic-loss-type", "ddpg", "--no-clip-sampler-before"),
    "qsm": ("--inv-temp", "0.3", "--rho", "0.5"),
}
"""Agent → flags of its own."""
SMALL = (
    TASK, "--hidden", "7", "6", "--batch", "16", "--horizon-length", "3", "--updates", "24",
    "--log-every", "6", "--checkpoint-every", "10", "--threads", "1", "--denoise-steps", "3",
)  # fmt: skip
FILES = "model.safetensors", "config.json", "state.safetensors", "metrics.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("methods"), count=6, steps=41))


@pytest.mark.parametrize("name", some(reversed(METHODS), 1))
def test_killed_and_resumed_it_ends_alike(name: str, data: str, tmp_path: Path) -> None:
    words = (*SMALL, "--data", data, "--agent", name, *METHODS[name])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["train", *words, "--out", str(whole)]) == 0
    killed_command("train", *words, "--out", str(broken), saves=1)
    assert main(["train", "--resume", str(broken)]) == 0
    for file in FILES:
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    checkpoint = qgf_ref.load(whole)
    assert checkpoint.agent.name == name
    own = json.loads((whole / "train.json").read_text())["config"]["agent_settings"]
    assert own == checkpoint.agent.stated != AGENTS[name].stated


@pytest.mark.parametrize("name", some(reversed(METHODS), 1))
def test_it_is_evaluated_and_converted(
    name: str, data: str, tmp_path: Path, short_episodes: None
) -> None:
    run = str(tmp_path / "run")
    words = (*SMALL, "--data", data, "--agent", name, "--updates", "2", "--out", run)
    assert main(["train", *words]) == 0
    played = ("--methods", "bc", "--selection-episodes", "1", "--episodes", "2", "--envs", "1")
    for command in (
        ("evaluate", "--checkpoint", run, *played, "--out", str(tmp_path / "evaluation")),
        ("convert", run, str(tmp_path / "copy.safetensors")),
        ("convert", run, str(tmp_path / "copy.npz")),
        ("convert", run, str(tmp_path / "copy.msgpack")),
        ("convert", run, str(tmp_path / "copy.pt")),
    ):
        assert main(list(command)) == 0, command
    for copy in ("copy.safetensors", "copy.npz"):
        assert qgf_ref.load(tmp_path / copy).agent.name == name
    if name == "edp":  # its networks are those of the paper's agent
        assert qgf_ref.load(tmp_path / "copy.msgpack").agent.name == name
        return
    with pytest.raises(InputError, match=f"of the agent {name} under the names of flax"):
        qgf_ref.load(tmp_path / "copy.msgpack")


@pytest.mark.parametrize("name", METHODS)
def test_it_keeps_its_contract(name: str) -> None:
    assert set(check_agent(AGENTS[name]).unchecked) <= {"flow"}


def test_settings_belong_to_their_agents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", TASK, "--alpha", "3"]) == 2
    assert "alpha is a setting of fql" in (error := capsys.readouterr().err)
    assert error.endswith("; the agent iql has none\n")
    with pytest.raises(InputError, match="unknown setting 'alpa'; the valid ones are: alpha, "):
        agent_with("fql", {"alpa": 1.0})
    with pytest.raises(InputError, match="alpha must be of type float, got 'x'"):
        TrainConfig(agent="fql", agent_settings={"alpha": "x"})
    with pytest.raises(InputError, match="unknown critic_loss_type 'td3'"):
        agent_with("fql", {"critic_loss_type": "td3"})


def test_presets_of_the_paper() -> None:
    for domain, alpha in (("cube-quadruple", 1000), ("scene", 300)):
        config = preset("paper", "fql", f"{domain}-play-singletask-task2-v0")
        assert config.agent_settings["alpha"] == alpha and config.hidden == (1024,) * 4
    assert (config.q_aggregation, config.action_clip_eps) == ("mean", 0.0)
    with pytest.raises(InputError, match=r"no alpha of fql for this task .*scene: --alpha 300"):
        preset("paper", "fql", "cube-single-play-singletask-task1-v0")
    own = preset("paper", "fql", "cube-single-play-singletask-task1-v0", {"alpha": 3.0})
    assert own.agent_settings["alpha"] == 3 and np.isclose(own.discount, 0.999)


def test_settings_are_written_and_read() -> None:
    config = TrainConfig(agent="fql", agent_settings={"alpha": 3})
    text = json.dumps(config.to_json())
    assert TrainConfig.from_json(json.loads(text), "f") == config
    assert config.agent_settings == {**AGENTS["fql"].stated, "alpha": 3.0}
    assert "agent_settings" not in TrainConfig().to_json()
