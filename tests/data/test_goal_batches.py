"""Goal-conditioned batches: a literal version, the official batches byte for byte, statistics."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.batches.literal import MISTAKES, Literal, table
from qgf_ref.data.goals.batches import goal_batch, h_step, one_step, sample_goal_batch
from qgf_ref.data.goals.representation import oracle_representation
from qgf_ref.data.goals.sampling import (
    BatchDraws,
    GoalDraws,
    GoalLaw,
    GoalSampling,
    draw,
    goal_rows,
)
from qgf_ref.data.goals.trajectories import Trajectories, compact
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import GoalBatch
from tests.conftest import SHARED

CASES = {"cube": "cube-single-v0", "puzzle": "puzzle-2x3-v0", "state_goals": None}
GOLDEN = SHARED / "golden" / "gc"


def walks(lengths: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
    """Random episodes of these numbers of states, in OGBench's format."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    terminals = np.zeros(count, bool)
    terminals[np.cumsum(lengths) - 1] = True
    return {
        "observations": rng.standard_normal((count, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "terminals": terminals,
    }


def copied(data: dict[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in data.items()}


def same(ours: GoalBatch, literal: dict[str, Array]) -> None:
    for name, array in literal.items():
        mine = getattr(ours, name)
        assert mine.dtype == array.dtype, name
        np.testing.assert_array_equal(mine, array, err_msg=name)


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("starts", ["admissible", "all"])
@pytest.mark.parametrize("relabelling", ["h-step", "one-step"])
@pytest.mark.parametrize("law", [GoalLaw(0.2, 0.5, 0.3), GoalLaw(0.1, 0.6, 0.3, geometric=True),
                                 GoalLaw(1, 0, 0), GoalLaw(0, 0, 1)])  # fmt: skip
def test_against_the_literal_definition(
    horizon: int, starts: Any, relabelling: Any, law: GoalLaw
) -> None:
    # episodes of one length are found without a search
    for lengths, negative in (((9, 3, 14, 2, 7), False), ((8, 8, 8, 8), True)):
        data = walks(lengths, seed=horizon)
        literal, compacted = Literal(data), compact(copied(data), None, GOLDEN)
        sampling = GoalSampling(horizon, 0.9, law, law, relabelling, negative, starts)
        draws = draw(np.random.default_rng(3), compacted, 40, sampling)
        listed = literal.starts(sampling)
        assert len(sampling.starts_of(compacted)) == len(listed)
        rows = [listed[position] for position in draws.start]
        goals = [literal.goal(i, law, draws.value, b, listed) for b, i in enumerate(rows)]
        batch = goal_batch(compacted, draws, sampling)
        expected = [literal.row(i, g, sampling) for i, g in zip(rows, goals, strict=True)]
        same(batch, table(expected))
        assert draws.policy is not None
        policy = [literal.goal(i, law, draws.policy, b, listed) for b, i in enumerate(rows)]
        np.testing.assert_array_equal(batch.policy_goal_row, policy)
        np.testing.assert_array_equal(batch.policy_goal, literal.observations[policy])


def law(parts: list[float], geometric: bool) -> GoalLaw:
    current, trajectory, random = parts
    return GoalLaw(current, trajectory, random, geometric)


class Official:
    """One case of the golden files."""

    def __init__(self, case: str) -> None:
        path = GOLDEN / case
        if not path.is_dir():
            pytest.skip(f"needs {path}, which a bare clone does not have")
        self.config = json.loads((path / "config.json").read_text())
        with np.load(path / "data.npz") as file:
            self.file = dict(file)
        with np.load(path / "batches_float32.npz") as file:
            self.batches = dict(file)
        env_id = CASES[case]
        self.representation = None if env_id is None else oracle_representation(env_id)
        self.data = compact(copied(self.file), self.representation, path)

    def part(self, name: str, kind: str) -> dict[str, Array]:
        start = f"{name}/{kind}/"
        return {k.removeprefix(start): a for k, a in self.batches.items() if k.startswith(start)}

    def sampling(self, *, policy: bool, **changes: Any) -> GoalSampling:
        c = self.config
        value = law(c["p_value"], c["geometric_value"])
        actor = law(c["p_actor"], c["geometric_actor"]) if policy else None
        return GoalSampling(c["backup_horizon"], c["discount"], value, actor, **changes)

    def draws(self, name: str) -> BatchDraws:
        """The recorded draws; `edge` has rows by hand in place of start positions."""
        flat = {k.replace("actor/", "policy/"): a for k, a in self.part(name, "draws").items()}
        return BatchDraws.of_arrays(flat if "start" in flat else {**flat, "start": flat["idx"]})

    def replay(self, name: str, sampling: GoalSampling) -> GoalBatch:
        """The batch of these draws, which must be those of its seed."""
        draws, rows = self.draws(name), self.part(name, "draws").get("idx")
        if rows is None:
            rng = np.random.RandomState(int(self.batches[f"{name}/seed"]))
            again = draw(rng, self.data, len(draws.start), sampling).arrays()
            assert again.keys() == draws.arrays().keys()
            for key, array in draws.arrays().items():
                assert again[key].dtype == array.dtype
                np.testing.assert_array_equal(again[key], array, err_msg=key)
        return goal_batch(self.data, draws, sampling, rows)

    def require(self, name: str, ours: dict[str, Array]) -> None:
        """Every array of the official batch, byte for byte."""
        theirs = self.part(name, "official")
        assert ours.keys() == theirs.keys()
        for key, array in theirs.items():
            assert ours[key].dtype == array.dtype, key
            assert ours[key].tobytes() == array.tobytes(), key


@pytest.fixture(params=CASES)
def official(request: pytest.FixtureRequest) -> Official:
    return Official(request.param)


@pytest.mark.parametrize("name", ["train", "edge"])
def test_dqcs_batches(official: Official, name: str) -> None:
    data, batch = official.data, official.replay(name, official.sampling(policy=False))
    single = one_step(batch.row, batch.goal_row, len(data.observations) - 1)
    official.require(name, {
        "observations": batch.obs,
        "actions": data.actions[batch.row],
        "next_observations": data.observations[single.next_rows],
        "valids": batch.valid.astype(np.float64),
        "high_value_reps": data.goals(batch.row),
        "high_value_goals": batch.goal,
        "high_value_action_chunks": batch.action,
        "high_value_next_observations": batch.next_obs,
        "high_value_offsets": batch.goal_row - batch.row,
        "high_value_backup_horizon": batch.steps,
        "high_value_masks": batch.masks,
        "high_value_rewards": batch.rewards,
        "masks": single.masks,
        "rewards": single.rewards,
    })  # fmt: skip
    assert batch.policy_goal.shape == (len(batch.row), 0)
    if name == "edge":  # T4: the end of an episode within the window is taken for success
        cut = batch.steps == data.finals(batch.row) - batch.row
        assert (cut & (batch.steps < official.config["backup_horizon"])).any()
        assert not batch.valid.all()


@pytest.mark.parametrize("negative", [False, True])
def test_horizon_reductions_one_step_batches(official: Official, negative: bool) -> None:
    name = "goal_negative" if negative else "goal"
    sampling = official.sampling(
        policy=True, relabelling="one-step", negative=negative, starts="all"
    )
    batch = official.replay(name, sampling)
    official.require(name, {
        "observations": batch.obs,
        "actions": official.data.actions[batch.row],
        "next_observations": batch.next_obs,
        "value_goals": batch.goal,
        "actor_goals": batch.policy_goal,
        "masks": batch.masks,
        "rewards": batch.rewards,
    })  # fmt: skip


def test_horizon_reductions_hierarchical_batches(official: Official) -> None:
    data = official.data
    sampling = official.sampling(policy=True, negative=True, starts="all")
    batch, h = official.replay("hierarchy", sampling), sampling.horizon
    single = one_step(batch.row, batch.goal_row, len(data.observations) - 1, negative=True)
    finals = data.finals(batch.row)
    high = h_step(batch.row, batch.policy_goal_row, finals, h, sampling.discount)
    official.require("hierarchy", {
        "observations": batch.obs,
        "actions": data.actions[batch.row],
        "next_observations": data.observations[single.next_rows],
        "high_value_reps": data.goals(batch.row),
        "high_value_goals": batch.goal,
        "high_value_actions": data.goals(batch.row + batch.steps),
        "high_value_next_observations": batch.next_obs,
        "high_value_offsets": batch.goal_row - batch.row,
        "high_value_subgoal_steps": batch.steps,
        "high_value_masks": batch.masks,
        "high_value_rewards": batch.rewards,
        "masks": single.masks,
        "rewards": single.rewards,
        "high_actor_goals": batch.policy_goal,
        "high_actor_actions": data.goals(high.next_rows),
        "high_actor_next_observations": data.observations[high.next_rows],
        "low_actor_goals": data.goals(np.minimum(batch.row + h, finals)),
    })  # fmt: skip


def literal_batch(official: Official, mistakes: tuple[str, ...] = ()) -> dict[str, Array]:
    file = dict(official.file)
    if official.representation is not None:
        source = official.representation.source(official.file, "")
        file["goals"] = official.representation.of(source)
    return Literal(file, mistakes).batch(official.draws("train"), official.sampling(policy=False))


def test_the_literal_version_is_the_official_one(official: Official) -> None:
    same(official.replay("train", official.sampling(policy=False)), literal_batch(official))


def test_the_official_batches_tell_every_mistake() -> None:
    """Each of the ports' mistakes changes the batch of some case."""
    cases = [Official(case) for case in CASES]
    right = [case.replay("train", case.sampling(policy=False)) for case in cases]
    for mistake in MISTAKES.keys() - {"policy-goal-of-value"}:  # DQC's policy has no goals
        wrong = (literal_batch(case, (mistake,)) for case in cases)
        told = [
            any(not np.array_equal(getattr(batch, n), a) for n, a in made.items())
            for batch, made in zip(right, wrong, strict=True)
        ]
        assert any(told), mistake


def test_a_recording_replays() -> None:
    data = compact(walks((30, 20)), None, GOLDEN)
    sampling = GoalSampling(4, 0.9)
    draws = draw(np.random.default_rng(0), data, 7, sampling)
    again = BatchDraws.of_arrays(draws.arrays())
    first, second = (goal_batch(data, d, sampling) for d in (draws, again))
    for name, array in vars(first).items():
        np.testing.assert_array_equal(getattr(second, name), array, err_msg=name)
    fresh = sample_goal_batch(np.random.default_rng(0), data, 7, sampling)
    for name, array in vars(fresh).items():
        integer = name in ("steps", "row", "goal_row", "policy_goal_row")
        assert array.dtype == (np.int64 if integer else np.float32), name
    np.testing.assert_array_equal(fresh.goal, first.goal)
    assert len(fresh.rows(slice(2)).obs) == 2


def test_shares_of_goals() -> None:
    """Frequencies within five standard deviations of the probabilities that the words say."""
    data = compact(walks((11, 11)), None, GOLDEN)
    starts, rows = data.starts(2), np.zeros(100_000, np.int64)
    finals = data.finals(rows)  # 9: the states 1 … 9 are later ones
    rng = np.random.default_rng(5)

    def shares(law: GoalLaw) -> Array:
        sampling = GoalSampling(2, 0.5, law, None)
        draws = draw(rng, data, len(rows), sampling)
        goals = goal_rows(law, draws.value, rows, finals, starts)
        return np.bincount(goals, minlength=22) / len(rows)

    half, whole = 1 / 16, 1 / 8
    later = np.array([0, half, *[whole] * 7, half])
    spread = 5 * np.sqrt(0.25 / len(rows))
    uniform = shares(GoalLaw(0, 1, 0))
    np.testing.assert_allclose(uniform[:10], later, atol=spread)
    geometric = shares(GoalLaw(0, 1, 0, geometric=True))
    np.testing.assert_allclose(
        geometric[:10], [0, *[0.5**n for n in range(1, 9)], 0.5**8], atol=spread
    )
    mixed = shares(GoalLaw(0.2, 0.5, 0.3))
    # 16 starts, eight an episode, state 0 among them; its own share is p_current and a start's
    listed = 0.3 / 16
    np.testing.assert_allclose(mixed[0], 0.2 + listed, atol=spread)
    np.testing.assert_allclose(mixed[11:19], listed, atol=spread)
    assert not mixed[19:].any() and mixed[10] == 0


def test_what_cannot_be_sampled() -> None:
    data = compact(walks((9, 3)), None, GOLDEN)
    for parts in ((0.2, 0.5, 0.2), (-0.1, 0.6, 0.5), (0.5, 0.6, -0.1)):
        with pytest.raises(InputError, match=r"lie in \[0, 1\] and sum to 1; got .* sum"):
            GoalLaw(*parts)
    with pytest.raises(InputError, match=r"no episode is longer than the horizon of 8.*has 8"):
        data.starts(8)
    assert (data.too_short(2), data.too_short(8), data.too_short(1)) == (1, 2, 0)
    sampling = GoalSampling(3, 0.9)
    draws = draw(np.random.default_rng(0), data, 5, sampling)
    longer = GoalSampling(7, 0.9)
    with pytest.raises(InputError, match="another data set or another horizon"):
        goal_batch(data, draws, longer)
    unequal = BatchDraws(draws.start[:2], draws.value, draws.policy)
    with pytest.raises(InputError, match="one length"):
        goal_batch(data, unequal, sampling)
    with pytest.raises(InputError, match="have none for it"):
        goal_batch(data, BatchDraws(draws.start, draws.value), sampling)
    lacking = GoalDraws(draws.value.random, draws.value.along)
    with pytest.raises(InputError, match="u_traj and u_cur are missing"):
        goal_batch(data, BatchDraws(draws.start, lacking, draws.policy), sampling)
    with pytest.raises(InputError, match="lack 'along'"):
        BatchDraws.of_arrays({"start": draws.start, "value/random": draws.start})
    with pytest.raises(InputError, match=r"compact trajectories.* got dict"):
        goal_batch({}, draws, sampling)  # type: ignore[arg-type]
    for changes, message in (
        ({"horizon": 0}, "at least 1"),
        ({"discount": 1.0}, r"\[0, 1\)"),
        ({"relabelling": "two-step"}, "h-step, one-step"),
        ({"starts": "some"}, "admissible, all"),
    ):
        with pytest.raises(InputError, match=message):
            GoalSampling(**changes)
    assert isinstance(data, Trajectories) and len(data) == 10
