"""What every agent's training must satisfy, of ours and of an example that is not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.registry import AGENTS, agent_named
from qgf_ref.agents.stage import StageInputs
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.checks import check_vjp
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.losses.optimiser import target_update
from qgf_ref.nets.networks import Networks
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.state import initial_state, load_state, save_state
from tests.agents.toy.agent import TOY
from tests.conftest import small_checkpoint, states

BOOTSTRAPPED = {"critic_loss_type": "ddpg", "rho": 0.5, "best_of_n": 2}
VARIANTS = (
    AGENTS["fql"].having({"critic_loss_type": "ddpg", "normalize_q_loss": True}),
    AGENTS["qam"].having({**BOOTSTRAPPED, "inv_temp": 3.0, "clip_grad": 0.0}),
    AGENTS["dac"].having({"critic_loss_type": "ddpg", "rho": 0.5, "clip_sampler_before": False}),
    AGENTS["qsm"].having({"critic_loss_type": "ddpg", "clip_sampler_after": True}),
)
"""Of the agents with settings, what their defaults leave out."""
EVERY = (*AGENTS.values(), *VARIANTS, TOY)
HYPER = Hyperparameters(0.9, 3, 0.8, 0.1, 1e-2, denoise_steps=4)
pytestmark = pytest.mark.parametrize(
    "agent", EVERY, ids=[f"{a.name}-variant" if a in VARIANTS else a.name for a in EVERY]
)


@cache
def base() -> Checkpoint:
    return small_checkpoint(members=3)


def networks_of(agent: Agent, dtype: str = "float64", backend: str = "numpy") -> Networks:
    """Freshly drawn, those of a base beside them; targets moved away from what they follow."""
    rng = np.random.default_rng(2)
    initial = agent.initial(rng, base().obs_dim, base().flat_action_dim, (7, 6), 2)
    base_of = base().astype(dtype)
    settings = base_of.network_settings("exact", backend_named(backend).kernels())
    own = {}
    for part in agent.parts:
        # biases and offsets start at 0, where a forgotten one does not show
        params = initial[part.name].map(lambda a: a + rng.normal(0, 0.1, a.shape)).astype(dtype)
        own[part.name] = part.network(params, settings)
    of_base = {} if agent.base is None else {p: base_of.network(p, settings) for p in base().params}
    return Networks(**{**of_base, **own})


def batch_of(rows: int = 12, dtype: str = "float64") -> Batch:
    obs, action = states(base(), rows)
    next_obs, _ = states(base(), rows, seed=5)
    masks, valid = ((np.arange(rows) % n != 0).astype(float) for n in (5, 4))
    rewards = np.random.default_rng(3).standard_normal(rows)
    return Batch(obs, action, next_obs, rewards, masks, valid).astype(dtype)


def case(agent: Agent, dtype: str = "float64", backend: str = "numpy") -> tuple[Any, ...]:
    """Recipe, networks, batch and random numbers."""
    recipe, batch = agent.require_recipe(), batch_of(dtype=dtype)
    drawn = recipe.draw(np.random.default_rng(1), batch, HYPER)
    return recipe, networks_of(agent, dtype, backend), batch, drawn


def bits(networks: Networks) -> bytes:
    return b"".join(a.tobytes() for net in vars(networks).values() for a in net.params.arrays())


def test_its_parts_are_trained_or_follow_one_that_is(agent: Agent) -> None:
    recipe = agent.require_recipe()
    assert len(set(recipe.trained)) == len(recipe.trained), "a part is trained by one stage"
    assert not set(recipe.trained) & set(recipe.targets)
    assert set(recipe.targets.values()) <= set(recipe.trained)
    assert set(agent.part_names) == {*recipe.trained, *recipe.targets}
    assert recipe.parts == agent.parts


def test_losses_give_gradients_of_what_they_train(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent)
    result = losses(recipe, nets, batch, drawn, HYPER)
    assert tuple(result.values) == recipe.losses
    assert tuple(result.gradients) == recipe.trained
    for part, bar in result.gradients.items():
        shapes = [[a.shape for a in p.arrays()] for p in (bar, nets[part].params)]
        assert shapes[0] == shapes[1], part


def test_gradients_against_complex_steps_and_differences(agent: Agent) -> None:
    """Of each stage in each part that it trains, the others held."""
    recipe, nets, batch, drawn = case(agent)
    for stage in recipe.stages:
        inputs = StageInputs(nets, batch, HYPER, drawn)
        inputs = replace(inputs, fixed=None if stage.fixed is None else stage.fixed(inputs))
        for part in stage.trains:
            net = nets[part]

            def at(p: Any, part: str = part, inputs: Any = inputs, net: Any = net) -> Any:
                changed = {**vars(inputs.nets), part: replace(net, params=net.params.replace(p))}
                return replace(inputs, nets=Networks(**changed))

            check_vjp(
                lambda p, at=at, stage=stage: np.asarray(stage.loss(at(p))[0]),
                lambda p, u, at=at, stage=stage, part=part: tuple(
                    float(u) * a for a in stage.loss(at(p))[1][part].arrays()
                ),
                net.params.arrays(),
                max_full=1000,
            )


def test_draws_are_replayable_and_have_the_batchs_rows(agent: Agent) -> None:
    recipe, batch = agent.require_recipe(), batch_of(dtype="float32")
    first, again = (recipe.draw(np.random.default_rng(4), batch, HYPER) for _ in range(2))
    assert list(first) == [draw.name for draw in recipe.draws]
    for draw in recipe.draws:
        np.testing.assert_array_equal(first[draw.name], again[draw.name])
        assert first[draw.name].shape[draw.row_axis] == len(batch.obs)
        assert first[draw.name].dtype.kind in "iu" or first[draw.name].dtype == np.float32
    by_name = {d.name: d for stage in recipe.stages for d in stage.draws}
    assert all(by_name[d.name] is d for s in recipe.stages for d in s.draws), "one name, one law"


class Watched:
    """A network that notes when it is asked."""

    def __init__(self, network: Any, name: str, asked: set[str]) -> None:
        self._network, self._name, self._asked = network, name, asked

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("forward", "joint", "given"):
            self._asked.add(self._name)
        return getattr(self._network, attribute)


def test_stages_read_what_they_say(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent)
    for stage in recipe.stages:
        asked: set[str] = set()
        watched: Any = Networks(**{n: Watched(net, n, asked) for n, net in vars(nets).items()})
        inputs = StageInputs(watched, batch, HYPER, drawn)
        fixed = None if stage.fixed is None else stage.fixed(inputs)
        stage.loss(replace(inputs, fixed=fixed))
        assert asked == {*stage.trains, *stage.reads}, stage.name


def test_what_is_fixed_is_computed_row_by_row(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent)
    inputs = StageInputs(nets, batch, HYPER, drawn)
    for stage in recipe.stages:
        if stage.fixed is not None:
            some = stage.fixed_rows(inputs, slice(3, 7))
            np.testing.assert_allclose(some, stage.fixed(inputs)[..., 3:7], rtol=1e-13)


def test_an_update_is_pure_and_changes_every_part(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent)
    before = TrainState.create(recipe, nets)
    noted = bits(nets), [a.tobytes() for a in (*vars(batch).values(), *drawn.values())]
    after, result = update(recipe, before, batch, drawn, HYPER)
    assert noted[0] == bits(before.networks)
    assert noted[1] == [a.tobytes() for a in (*vars(batch).values(), *drawn.values())]
    assert result.values == losses(recipe, nets, batch, drawn, HYPER).values
    for name, net in vars(nets).items():
        own = name in agent.part_names
        moved = zip(net.params.arrays(), after.networks[name].params.arrays(), strict=True)
        assert any((a != b).any() for a, b in moved) == own, name
    assert {adam.count for adam in after.moments.values()} == {1}


def test_averages_move_towards_the_parts_from_before_the_step(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent)
    after, _ = update(recipe, TrainState.create(recipe, nets), batch, drawn, HYPER)
    for target, online in recipe.targets.items():
        expected = target_update(nets[target].params, nets[online].params, HYPER.tau)
        for a, b in zip(after.networks[target].params.arrays(), expected.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_bits_do_not_depend_on_threads(agent: Agent) -> None:
    recipe, nets, batch, drawn = case(agent, "float32", "numba")
    state = TrainState.create(recipe, nets)
    one, two, three = (
        bits(update(recipe, state, batch, drawn, HYPER, threads)[0].networks)
        for threads in (1, 2, 3)
    )
    assert one == two == three


def test_gradients_may_be_treated_jointly(agent: Agent) -> None:
    """All parts' together, as joint clipping needs it, and once: the same steps if unchanged."""
    recipe, nets, batch, drawn = case(agent)
    seen: list[set[str]] = []

    def unchanged(bars: Any, kernels: Any) -> Any:
        seen.append(set(bars))
        return bars

    alone, jointly = (replace(recipe, jointly=how) for how in (None, unchanged))
    state = TrainState.create(recipe, nets)
    apart, together = (update(r, state, batch, drawn, HYPER)[0] for r in (alone, jointly))
    assert seen == [set(recipe.trained)] and bits(apart.networks) == bits(together.networks)


def test_its_state_is_saved_whole(agent: Agent, tmp_path: Path) -> None:
    """Three updates, saved, loaded, three more: as six. (Beside a run: `test_extra.py`.)"""
    if agent.base is not None:
        return
    agent_named("tests.agents.toy.agent:TOY")
    config = TrainConfig(
        agent=agent.name, agent_settings=agent.stated, hidden=(7, 6), horizon_length=3,
        backend="numpy",
    )  # fmt: skip
    action_dim = base().flat_action_dim // 3
    recipe, batch = agent.require_recipe(), batch_of(dtype="float32")

    def advanced(state: Any, updates: int) -> Any:
        for _ in range(updates):
            drawn: dict[str, Array] = recipe.draw(state.rng, batch, HYPER)
            state.train, result = update(recipe, state.train, batch, drawn, HYPER)
            state.update += 1
            state.sums += tuple(result.values.values())
        return state

    whole = advanced(initial_state(config, base().obs_dim, action_dim), 6)
    half = advanced(initial_state(config, base().obs_dim, action_dim), 3)
    save_state(half, tmp_path / "half", agent.name)
    save_state(advanced(load_state(tmp_path / "half", config), 3), tmp_path / "ended", agent.name)
    save_state(whole, tmp_path / "whole", agent.name)
    assert (tmp_path / "ended").read_bytes() == (tmp_path / "whole").read_bytes()
