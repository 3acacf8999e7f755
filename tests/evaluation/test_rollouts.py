"""Rollouts on a line whose optimum is known, and Monte-Carlo returns against a double loop."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import parse_method
from qgf_ref.evaluation.rollouts import Policy, Simulator, discounted_returns, episode_noise, play
from qgf_ref.guidance.queries import critic_value
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint
from tests.evaluation.fakes import LIMIT, Line, LineTask, constant, line_checkpoint


def test_full_speed_is_the_optimum() -> None:
    played = play([Line() for _ in range(4)], constant(1.0), [0, 1, 2, 3])
    for e in played.episodes:
        steps = int(np.ceil(round((1 - 0.1 * (e.seed % 4)) / 0.25, 9)))
        assert (e.success, e.terminated, e.length) == (True, True, steps)
        assert e.total_reward == -(steps - 1)
        # chunks of three: the one under way at the end is cut
        assert e.steps == tuple(range(0, steps, 3))
        assert e.realised == e.observed
        assert e.realised[0] == pytest.approx(-sum(0.9**i for i in range(steps - 1)))


def test_a_cut_episode_is_completed_as_if_its_last_reward_went_on_forever() -> None:
    (e,) = play([Line()], constant(0.0), [0]).episodes
    assert (e.success, e.terminated, e.length) == (False, False, LIMIT)
    assert e.realised == pytest.approx([-1 / (1 - 0.9)] * 4)
    assert e.observed == pytest.approx([-sum(0.9**i for i in range(LIMIT - t)) for t in e.steps])


def test_without_discount_what_follows_a_cut_is_unknown() -> None:
    cut, ended = (play([Line()], constant(a, 1.0), [0]).episodes[0] for a in (0.0, 1.0))
    assert set(cut.realised) == {None}
    assert ended.realised == (-3.0, 0.0)


def test_returns_are_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    rewards, gamma, tail = rng.standard_normal(37).tolist(), 0.97, -12.5
    for t, found in enumerate(discounted_returns(rewards, gamma, tail)):
        expected = tail * gamma ** (len(rewards) - t)
        for i in range(t, len(rewards)):
            expected += gamma ** (i - t) * rewards[i]
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["bc", "qgf", "qgf+bfn-3", "gradstep"])
def test_chunks_and_critic_are_those_of_the_sampler(name: str) -> None:
    checkpoint, method = line_checkpoint(dtype="float64"), parse_method(name)
    weight = 0.2 if method.weighted else None
    (e,) = play([Line()], Policy.of(checkpoint, method, weight), [2]).episodes
    obs, _ = Line().reset(seed=2)
    chunk = sample(
        checkpoint.flow,
        obs[None],
        estimator=method.estimator,
        weight=weight,
        noise=episode_noise(2, 0, method.best_of, 3),
        best_of=method.best_of,
        gradient_steps=method.gradient_steps,
    )
    assert e.q[0] == pytest.approx(critic_value(checkpoint.flow, obs[None], chunk)[0])


def test_noise_is_shared_by_methods_and_fresh_in_every_chunk() -> None:
    assert (episode_noise(3, 5, 4, 6)[0] == episode_noise(3, 5, 1, 6)[0]).all()
    drawn = [episode_noise(s, c, 1, 6) for s in range(3) for c in range(3)]
    assert len(np.unique(np.concatenate(drawn))) == 9 * 6


def test_a_group_does_not_depend_on_what_was_played_before() -> None:
    policy = Policy.of(line_checkpoint(), parse_method("qgf"), 0.1)
    with Simulator(LineTask(), 4) as simulator:
        first = simulator.play(policy, [4, 5, 6, 7])
        simulator.play(policy, [1, 2])
        assert simulator.play(policy, [4, 5, 6, 7]) == first


def test_environments_are_kept_and_closed() -> None:
    made: list[Line] = []

    class Counting(LineTask):
        def make_env(self, **options: object) -> Line:
            made.append(Line())
            return made[-1]

    with Simulator(Counting(), 3) as simulator:
        simulator.play(constant(1.0), [0, 1])
        simulator.play(constant(1.0), [0, 1, 2])
        with pytest.raises(InputError, match="4 episodes at a time"):
            simulator.play(constant(1.0), [0, 1, 2, 3])
    assert len(made) == 3
    assert all(env.closed for env in made)


def test_misfits_are_named_with_both_widths() -> None:
    with Simulator(LineTask(), 1) as simulator:
        simulator.require_fit(line_checkpoint())
        with pytest.raises(InputError, match=r"observations of 7 .* actions of 3.*\(5,\).*\(1,\)"):
            simulator.require_fit(small_checkpoint(obs_dim=7))


def test_an_environment_without_success_is_an_error() -> None:
    with pytest.raises(InputError, match="lacks 'success'"):
        play([Line("solved")], constant(1.0), [0])


def test_float32_checkpoints_embed_times_in_float32() -> None:
    rng = np.random.default_rng(2)
    obs, noise = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    precisions: dict[str, Precision] = {"float32": "float32", "float64": "exact"}
    for dtype, embedding in precisions.items():
        ck = line_checkpoint(dtype=dtype)
        actions, q = Policy.of(ck, parse_method("bc"), None).act(obs, noise)
        flow = ck.guided_flow(embedding=embedding)
        np.testing.assert_array_equal(actions, sample(flow, obs, estimator="none", noise=noise))
        np.testing.assert_array_equal(q, critic_value(flow, obs.astype(dtype), actions))
    assert (
        replace(constant(1.0), action=0.5).act(np.zeros((2, 5)), np.zeros((2, 3)))[0].max() == 0.5
    )


class Plane(Line):
    """Two action dimensions, and a memory of what was executed. Never arrives."""

    action_space = SimpleNamespace(shape=(2,), seed=lambda seed: None)

    def __init__(self) -> None:
        super().__init__()
        self.executed: list[Array] = []

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        assert action.shape == (2,)
        self.executed.append(np.array(action))
        return super().step(0 * action)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["bc", "bfn-3", "qgf+bfn-2"])
def test_every_environment_executes_its_own_chunk_in_order(name: str, backend: str) -> None:
    checkpoint = small_checkpoint(action_dim=6)
    checkpoint = replace(checkpoint, options=replace(checkpoint.options, horizon_length=3))
    method, seeds = parse_method(name), [4, 9, 2, 7]
    weight = 0.2 if method.weighted else None
    envs = [Plane() for _ in seeds]
    play(envs, Policy.of(checkpoint, method, weight, backend), seeds)
    for env, seed in zip(envs, seeds, strict=True):
        obs, _ = Plane().reset(seed=seed)
        chunk = sample(
            checkpoint.flow,
            obs,
            estimator=method.estimator,
            weight=weight,
            noise=episode_noise(seed, 0, method.best_of, 6),
            best_of=method.best_of,
        )
        # flat index h·A + a; rows of a batch may differ from a batch of one in the last bits
        expected = [[chunk[2 * h], chunk[2 * h + 1]] for h in range(3)]
        np.testing.assert_allclose(env.executed[:3], expected, rtol=1e-12)


def test_the_discount_is_the_checkpoints() -> None:
    checkpoint = line_checkpoint()
    assert checkpoint.options.discount == 0.9
    assert Policy.of(checkpoint, parse_method("bc"), None).discount == 0.9
