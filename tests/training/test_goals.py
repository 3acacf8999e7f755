"""Training on goals: DQC from the command line, killed and resumed, on a data set of mazes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.registry import agent_with
from qgf_ref.cli.main import main
from qgf_ref.data.goals.sampling import POLICY_GOALS, VALUE_GOALS, GoalLaw, GoalSampling
from qgf_ref.data.tasks import goal_task
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.goals import load_goal_data
from tests.data.synthetic import DATASET, GOALS, SMALL_DQC, write_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path, count=5, steps=41)
    return tmp_path


def trained(data: Path, name: str, *flags: str, of: str = GOALS) -> int:
    return main(["train", of, "--data", str(data), "--out", str(data / name), *SMALL_DQC, *flags])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_resumed_run_is_the_whole_one(data: Path, backend: str) -> None:
    how = ("--backend", backend)
    assert trained(data, "whole", "--updates", "6", *how) == 0
    assert trained(data, "part", "--updates", "4", *how) == 0
    assert main(["train", "--resume", str(data / "part"), "--updates", "6"]) == 0
    for file in ("model.safetensors", "state.safetensors"):
        assert (data / "whole" / file).read_bytes() == (data / "part" / file).read_bytes()
    checkpoint = qgf_ref.load(data / "whole")
    assert (checkpoint.agent.name, checkpoint.agent.stated["goal_dim"]) == ("dqc", 2)
    assert (checkpoint.obs_dim, checkpoint.horizon) == (4, 2)
    obs = np.random.default_rng(0).standard_normal((3, 4))
    assert qgf_ref.sample(checkpoint.flow, obs, weight=0.1, rng=0).shape == (3, 4)


@pytest.mark.parametrize("goals", [True, False])
def test_batches_are_drawn_as_the_configuration_says(data: Path, goals: bool) -> None:
    own: dict[str, Any] = {"backup_horizon": 9, "policy_chunk_size": 5, "policy_goals": goals}
    config = TrainConfig(task=GOALS, agent="dqc", discount=0.9, agent_settings=own)
    loaded = load_goal_data(data / f"{DATASET}.npz", goal_task(GOALS), config)
    law = POLICY_GOALS if goals else None
    assert loaded.sampling == GoalSampling(9, 0.9, VALUE_GOALS, law)
    own |= {"value_p_curgoal": 0.1, "value_p_randomgoal": 0.4, "value_geom_sample": True,
            "actor_p_trajgoal": 0.6, "actor_p_randomgoal": 0.4,
            "actor_geom_sample": False}  # fmt: skip
    other = load_goal_data(
        data / f"{DATASET}.npz", goal_task(GOALS), replace(config, agent_settings=own)
    )
    law = GoalLaw(0, 0.6, 0.4) if goals else None
    assert other.sampling == GoalSampling(9, 0.9, GoalLaw(0.1, 0.5, 0.4, True), law)
    batch = loaded.batch(np.random.default_rng(0), 8)
    assert batch.action.shape == (8, 18) and batch.policy_goal.shape == (8, 2 if goals else 0)


def test_a_setting_of_it_given_to_another_agent_is_said_to_be_its() -> None:
    with pytest.raises(InputError, match=r"kappa_d.*dqc"):
        agent_with("fql", {"kappa_d": 0.5})


def test_short_episodes_are_left_out_where_that_is_said(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(data / f"{DATASET}.npz") as file:
        arrays = dict(file)
    arrays["terminals"][3] = True
    np.savez(data / f"{DATASET}.npz", **arrays)
    assert trained(data, "run", "--updates", "1") == 2
    assert "1 of 6 episodes" in capsys.readouterr().err
    assert trained(data, "run", "--updates", "1", "--short-episodes", "skip") == 0


def test_one_name_of_a_chunks_length_is_enough(data: Path) -> None:
    both = [*SMALL_DQC]
    for name in ("--horizon-length", "--policy-chunk-size"):
        out = data / name
        i = both.index(name)
        own = ["--data", str(data), "--out", str(out), *both[:i], *both[i + 2 :]]
        assert main(["train", GOALS, "--updates", "1", *own]) == 0
        config = json.loads((out / "train.json").read_text())["config"]
        assert (config["horizon_length"], config["agent_settings"]["policy_chunk_size"]) == (2, 2)


def test_whole_observations_are_goals_of_the_plain_name(data: Path) -> None:
    assert trained(data, "run", "--updates", "2", "--no-policy-goals",
                   of="pointmaze-medium-navigate-v0") == 0  # fmt: skip
    assert qgf_ref.load(data / "run").agent.stated["goal_dim"] == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--goal-dim", "5"], "the data's goals have 2 columns"),
        (["--horizon-length", "3"], "a policy's chunk is stated twice"),
        (["--backup-horizon", "80"], "no episode has more than 80 transitions"),
        (["--value-p-curgoal", "0.5"], "--value-p-randomgoal: the probabilities of current"),
        (["--kappa-d", "1.5"], "kappa_d is a level from 0 to 1, not 1.5"),
        (["--masks", "official-100m"], "--masks official-100m is of one task's rewards"),
        (["--preset", "paper"], "no such preset"),
        (["--alpha", "3"], "alpha"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    data: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(data, "new/run", *flags) == 2
    assert says in capsys.readouterr().err
    assert not (data / "new").exists()
    assert not (data / "run" / "train.json").exists()


def test_each_kind_of_name_is_of_its_agents(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = "pointmaze-medium-navigate-singletask-task1-v0"
    assert trained(data, "run", of=single) == 2
    assert GOALS in capsys.readouterr().err
    assert main(["train", GOALS, "--data", str(data), "--out", str(data / "run")]) == 2
    assert "is goal-conditioned and has no rewards" in capsys.readouterr().err
