"""Episodes that reach goals: which goal a seed plays, what is observed, success goal by goal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import DQCSettings, dqc
from qgf_ref.agents.options import Options
from qgf_ref.cli.main import main
from qgf_ref.data.tasks import goal_task, seeded_reset, task
from qgf_ref.evaluation.goal_report import goal_table
from qgf_ref.evaluation.goals import WEIGHTS, Goals, by_goal, goal_of
from qgf_ref.evaluation.methods import parse_method
from qgf_ref.evaluation.protocol import success_rate
from qgf_ref.evaluation.records import digest
from qgf_ref.evaluation.rollouts import Policy, play
from tests.data.synthetic import GOALS, SMALL_DQC, TASK, write_dataset


def small() -> Checkpoint:
    """Networks of two actions of a maze, as drawn."""
    agent = dqc(DQCSettings(goal_dim=2, backup_horizon=4, policy_chunk_size=2))
    params = agent.initial(np.random.default_rng(0), 4, 4, (8, 8), 2)
    options = Options("gelu", "min", 3, 2, True, discount=0.99, expectile=0.9)
    return Checkpoint(options, params=params, agent=agent)


def test_five_seeds_in_a_row_play_all_goals() -> None:
    assert sorted(goal_of(seed) for seed in range(100_000, 100_005)) == [1, 2, 3, 4, 5]
    rates = by_goal([0, 5, 1, 10], [True, False, True, True])
    assert {goal: (r.value, r.low < r.value) for goal, r in rates.items()} == {
        1: (2 / 3, True), 2: (1.0, True),
    }  # fmt: skip


def test_an_observation_is_the_state_and_the_goal_of_the_reset() -> None:
    env = Goals(goal_task(GOALS)).make_env()
    plain = goal_task(GOALS).make_env()
    try:
        assert env.observation_space.shape == (4,)
        seen = []
        for seed in range(5):
            obs = seeded_reset(env, seed)
            np.random.seed(seed)  # noqa: NPY002
            plain.unwrapped.action_space.seed(seed)
            state, info = plain.reset(seed=seed, options={"task_id": goal_of(seed)})
            np.testing.assert_array_equal(obs[:2], state)
            np.testing.assert_array_equal(obs[2:], np.float32(info["goal"]))
            for _ in range(2):  # the goal stays, and steps are the environment's own
                action = np.array([0.3, -0.2])
                after, reward, *_ = env.step(action)
                expected = plain.step(action)
                np.testing.assert_array_equal(after, [*expected[0], *obs[2:]])
                assert reward == expected[1]
            seen.append(tuple(obs[2:].round(0)))
        assert len(set(seen)) > 2
    finally:
        env.close()
        plain.close()


def test_each_kind_of_checkpoint_is_played_on_its_kind_of_task() -> None:
    with pytest.raises(InputError, match=r"trained on goals, and .* is of a single task"):
        success_rate(small(), task(TASK), "bc", seeds=range(1))
    with pytest.raises(InputError, match="needs a goal-conditioned name"):
        success_rate(small(), TASK, "bc", seeds=range(1))


def test_q_is_a_probability() -> None:
    checkpoint = small()
    rng = np.random.default_rng(1)
    q = checkpoint.agent.q(checkpoint, rng.standard_normal((6, 4)), rng.standard_normal((6, 4)))
    assert q.shape == (6,) and ((q > 0) & (q < 1)).all()


def test_the_table_by_goal() -> None:
    episodes = [SimpleNamespace(seed=s, success=s == 7) for s in (5, 6, 7, 12)]
    cell = SimpleNamespace(
        method=parse_method("qgf"), weight=0.3, episodes=episodes, split="held-out"
    )
    played = SimpleNamespace(held_out=[cell], selection=[])
    header, rows = goal_table(played)  # type: ignore[arg-type]
    assert header == ["method", "goal 1", "goal 2", "goal 3"]
    assert rows == [["qgf  w=0.3", "0% (0–79)", "0% (0–79)", "50% (9–91)"]]


def test_the_return_of_a_goal_is_gamma_to_the_steps_until_it() -> None:
    """As Q has it: γᵏ with k steps to the goal; the environment's reward comes a step early."""
    checkpoint = small()

    class Arrives:
        observation_space = SimpleNamespace(shape=(4,))
        action_space = SimpleNamespace(seed=lambda seed: None)
        steps = 0

        @property
        def unwrapped(self) -> Any:
            return self

        def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, bool]]:
            return np.zeros(4), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, bool]]:
            self.steps += 1
            there = self.steps == 3
            return np.zeros(4), float(there), there, False, {"success": there}

    policy = Policy.of(checkpoint, parse_method("bc"), None)
    episode = play([Arrives()], policy, [0]).episodes[0]
    assert episode.success and episode.steps == (0, 2)
    np.testing.assert_allclose(np.array(episode.observed), (0.99**3, 0.99), rtol=1e-12)
    assert episode.observed == episode.realised and episode.total_reward == 1


def test_what_guides_is_part_of_what_is_evaluated() -> None:
    """Interrupted with one and continued with another, an evaluation would be of neither."""
    checkpoint, changes = small(), ({"guide_output": "probability"}, {"guide_critic": "target"})
    others = [replace(checkpoint, agent=checkpoint.agent.having(each)) for each in changes]
    assert len({digest(each) for each in (checkpoint, *others)}) == 3


@pytest.mark.slow
def test_trained_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, count=5, steps=41)
    run, out = tmp_path / "run", tmp_path / "out"
    how = ["--evaluate-every", "2", "--evaluate-episodes", "1", "--updates", "2"]
    assert main(["train", GOALS, "--data", str(tmp_path), "--out", str(run), *SMALL_DQC, *how]) == 0
    assert "success_qgf" in (run / "metrics.csv").read_text()
    flags = ["--selection-episodes", "1", "--episodes", "2", "--out", str(out)]
    assert main(["evaluate", "--checkpoint", str(run), "--methods", "bc", "qgf", *flags]) == 0
    said = capsys.readouterr().out
    assert "by goal, held out:" in said and GOALS in said and "ECE" in said and "IQL" not in said
    told = json.loads((out / "evaluation.json").read_text())
    assert (told["task"], told["settings"]["weights"]) == (GOALS, list(WEIGHTS))
