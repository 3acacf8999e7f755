"""Losses, Adam and target update: gradients by complex step, and the golden training steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.golden import golden_batch, nested
from benchmarks.verify import training_steps
from qgf_ref.agents import schedule
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.checks import check_vjp
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.interop.official import params_from_flax
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.iql import critic_loss, critic_target, value_loss
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.mlp import LayerParams, MLPParams
from tests.conftest import Golden, small_checkpoint
from tests.helpers.agents import variant
from tests.helpers.losses import batch_of


def cast(drawn: dict[str, Array], dtype: str) -> dict[str, Array]:
    return {name: array.astype(dtype) for name, array in drawn.items()}


@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_gradients(aggregation: str) -> None:
    ck = small_checkpoint(aggregation=aggregation, members=3)
    nets = ck.networks()
    b, drawn = batch_of(ck)
    x0, t = drawn.values()
    y = critic_target(nets.value, b.next_obs, b.rewards, b.masks, 0.9, 3)
    cases: dict[str, tuple[Any, Any]] = {
        "flow": (nets.policy, lambda n: flow_matching(n, b.obs, x0, b.action, t)),
        "critic": (nets.critic, lambda n: critic_loss(n, b.obs, b.action, y, b.valid)),
        "value": (
            nets.value,
            lambda n: value_loss(n, nets.target_critic, b.obs, b.action, b.valid, 0.8),
        ),
    }
    for net, loss in cases.values():

        def at(p: Any, net: Any = net) -> Any:
            return replace(net, params=net.params.replace(p))

        check_vjp(
            lambda p, at=at, loss=loss: np.asarray(loss(at(p))[0]),
            lambda p, u, at=at, loss=loss: tuple(float(u) * a for a in loss(at(p))[1].arrays()),
            net.params.arrays(),
            max_full=2000,
        )


def test_losses_are_literally_the_formulas() -> None:
    """Row by row with Python floats, from the definitions of method.md section 1."""
    ck = small_checkpoint()
    nets, hyper = ck.networks(), Hyperparameters(0.9, 3, 0.8)
    b, drawn = batch_of(ck)
    x0, t = drawn.values()
    result = losses(RECIPE, nets, b, drawn, hyper)
    policy = critic = value = 0.0
    for i in range(len(t)):
        row = slice(i, i + 1)
        x_t = (1 - t[i]) * x0[row] + t[i] * b.action[row]
        v = nets.policy.forward(b.obs[row], x_t, t[i])[0]
        policy += float(((v - (b.action[row] - x0[row])) ** 2).sum()) / b.action.size
        y = b.rewards[i] + 0.9**3 * b.masks[i] * nets.value.forward(b.next_obs[row])[0][0]
        q = nets.critic.forward(b.obs[row], b.action[row])[0][:, 0]
        critic += b.valid[i] * float(((q - y) ** 2).sum()) / (2 * len(t))
        d = nets.target_critic.forward(b.obs[row], b.action[row])[0].min()
        d -= nets.value.forward(b.obs[row])[0][0]
        value += b.valid[i] * (0.8 if d > 0 else 0.2) * d**2 / len(t)
    np.testing.assert_allclose(list(result.values.values()), (policy, critic, value))


def test_adam_by_hand() -> None:
    theta = MLPParams((LayerParams(np.array([[1.0]]), np.array([2.0])),))
    g = MLPParams((LayerParams(np.array([[0.5]]), np.array([-1e-9])),))
    new, state = adam(theta, g, AdamState.zero(theta), 0.1)
    # the first step is lr·g/(|g| + eps): bias-corrected, eps outside the root
    np.testing.assert_allclose(new.layers[0].kernel, 1 - 0.1 * 0.5 / (0.5 + 1e-8), rtol=1e-14)
    np.testing.assert_allclose(new.layers[0].bias, 2 + 0.1 * 1e-9 / (1e-9 + 1e-8), rtol=1e-14)
    assert state.count == 1
    _, state = adam(new, g, state, 0.1)
    np.testing.assert_allclose(state.mean.layers[0].kernel, 0.9 * 0.05 + 0.1 * 0.5)
    np.testing.assert_allclose(state.square.layers[0].kernel, 0.999 * 0.00025 + 0.001 * 0.25)


def test_target_update_moves_towards_the_critic_from_before_the_step() -> None:
    ck = small_checkpoint()
    state = TrainState.create(RECIPE, ck.networks())
    b, drawn = batch_of(ck)
    after, _ = update(RECIPE, state, b, drawn, Hyperparameters(tau=0.25))
    expected = target_update(ck.target_critic, ck.critic, 0.25)
    for a, e in zip(after.networks.target_critic.params.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a, e)
    np.testing.assert_array_equal(
        state.networks.policy.params.layers[0].kernel, ck.policy.layers[0].kernel
    )


def test_a_loss_that_is_not_finite_names_the_network() -> None:
    ck = small_checkpoint()
    b, drawn = batch_of(ck)
    bad = replace(b, rewards=np.full_like(b.rewards, np.nan))
    with pytest.raises(NonFiniteError, match="critic loss"):
        update(RECIPE, TrainState.create(RECIPE, ck.networks()), bad, drawn, Hyperparameters())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden_training_steps(golden: Golden, dtype: str) -> None:
    """Losses ≤ 1e-6 relative, parameters after 1 and 5 updates ≤ 1e-5.

    Measured: losses 7.2e-7 (relu_mean, T = 7; 1.2e-7 elsewhere), parameters 2.9e-6 (8e-7).
    """
    measured = training_steps(golden.name, dtype)
    assert measured["loss"] < 1e-6
    assert measured["parameters_1"] < 1e-5
    assert measured["parameters_5"] < 1e-5


def test_golden_gradients_in_float64(golden: Golden) -> None:
    """An independent float64 autodiff's losses and gradients.

    Measured, relative: losses 3e-15, gradients 1e-13 (the policy's; angles of 1e4 rad in the time
    embedding cost four digits), 1e-15 elsewhere.
    """
    z, expected = golden.npz("train_step_float32"), golden.npz("train_step_float64")
    ck = golden.load()
    batch = golden_batch(z, ck, "float64", rounded=False)
    drawn = {"x0": z["x0"].astype(float), "t": z["t"].astype(float)}
    result = losses(RECIPE, ck.networks(), batch, drawn, ck.hyperparameters())
    for name in ("policy", "critic", "value"):
        assert abs(result.values[name] / expected[f"loss/{name}"] - 1) < 2e-14
        gradient = params_from_flax(nested(expected, f"grad/{name}/"), name)
        for a, e in zip(result.gradients[name].arrays(), gradient.arrays(), strict=True):
            assert np.linalg.norm(a - e) <= 5e-13 * np.linalg.norm(e)


def test_every_network_learns_at_the_given_rate() -> None:
    """Adam's first step moves every parameter with a gradient by the learning rate."""
    ck = small_checkpoint()
    b, drawn = batch_of(ck)
    for rate in (1e-3, 1e-2):
        before = TrainState.create(RECIPE, ck.networks())
        after, _ = update(RECIPE, before, b, drawn, Hyperparameters(learning_rate=rate))
        for name in ("policy", "critic", "value"):
            moved = (
                getattr(after.networks, name).params.layers[-1].bias
                - getattr(ck, name).layers[-1].bias
            )
            np.testing.assert_allclose(abs(moved), rate, rtol=1e-3)


def test_an_empty_batch_is_refused() -> None:
    ck = small_checkpoint()
    b, drawn = batch_of(ck, rows=0)
    with pytest.raises(InputError, match="at least one row"):
        losses(RECIPE, ck.networks(), b, drawn, Hyperparameters())


def test_golden_losses_with_the_stored_times(golden: Golden) -> None:
    """With t exactly as stored the policy's loss is within 1e-6 for T = 10, and 6.7e-6 off for
    T = 7: the stored times are fl(k)·fl(1/7), and the official loss was not computed with those.
    """
    z, ck = golden.npz("train_step_float32"), golden.load("float32")
    nets, batch = ck.networks(embedding="float32"), golden_batch(z, ck, "float32")
    drawn = {"x0": z["x0"], "t": z["t"]}
    policy = losses(RECIPE, nets, batch, drawn, ck.hyperparameters()).values["policy"]
    tolerance = 1e-5 if golden.name == "relu_mean" else 1e-6
    assert abs(policy / z["official/info/bc_loss"] - 1) < tolerance


def test_the_same_seed_trains_the_same_bits() -> None:
    def run() -> bytes:
        ck = small_checkpoint(dtype="float32")
        state = TrainState.create(RECIPE, ck.networks(embedding="float32"))
        batch, drawn = batch_of(ck)
        rng = np.random.default_rng(3)
        for _ in range(5):
            x0 = rng.standard_normal(batch.action.shape).astype(np.float32)
            drawn["x0"] = x0
            state, _ = update(RECIPE, state, batch.astype(np.float32), drawn, Hyperparameters())
        nets = state.networks
        return b"".join(a.tobytes() for n in vars(nets).values() for a in n.params.arrays())

    assert run() == run()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_an_update_on_compiled_kernels(aggregation: str, dtype: str) -> None:
    """As on NumPy, and the same bits with any number of threads.

    Measured, in eps: losses 2, gradients 47 (a bias of the value, whose rows cancel).
    """
    ck = small_checkpoint(aggregation=aggregation, members=3, dtype=dtype)
    batch, drawn = batch_of(ck)
    given = batch.astype(dtype), cast(drawn, dtype)
    before, compiled = (
        TrainState.create(
            RECIPE, ck.networks(embedding="float32", kernels=backend_named(name).kernels())
        )
        for name in ("numpy", "numba")
    )
    _, expected = update(RECIPE, before, *given, Hyperparameters())
    after, found = update(RECIPE, compiled, *given, Hyperparameters())
    eps = np.finfo(dtype).eps
    for name in ("policy", "critic", "value"):
        assert abs(found.values[name] / expected.values[name] - 1) < 10 * eps
        bars = [r.gradients[name].arrays() for r in (found, expected)]
        for ours, theirs in zip(*bars, strict=True):
            assert ours.dtype == theirs.dtype
            assert np.abs(ours - theirs).max() < 100 * eps * np.abs(theirs).max()
    for threads in (2, 3, 9):
        again, _ = update(RECIPE, compiled, *given, Hyperparameters(), threads)
        nets = zip(vars(after.networks).values(), vars(again.networks).values(), strict=True)
        for net, other in nets:
            for a, b in zip(net.params.arrays(), other.params.arrays(), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [2, 3])
def test_rows_of_the_target_critic_that_another_thread_does(threads: int) -> None:
    """Whatever their number: the same bits, also of the rows at the seam."""
    ck = small_checkpoint(members=2, dtype="float32")
    batch, drawn = batch_of(ck, 40)
    given = batch.astype("float32"), cast(drawn, "float32")
    nets = ck.networks(embedding="float32", kernels=backend_named("numba").kernels())
    plan = schedule.schedule(RECIPE.stages, nets, 40, threads)
    if threads == 2:
        assert plan.helped == "value" and 0 < plan.helped_rows < 40
    expected = losses(RECIPE, nets, *given, Hyperparameters())
    for helped in (8, 32, 40, 48):
        other = plan._replace(helped_rows=helped)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schedule, "schedule", lambda *_, plan=other: plan)
            found = losses(RECIPE, nets, *given, Hyperparameters(), threads)
        assert found.values["value"] == expected.values["value"]
        bars = (result.gradients["value"].arrays() for result in (found, expected))
        for a, b in zip(*bars, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["fql", "qam"])
def test_rows_of_what_a_stage_reads_at_each_denoising_step(name: str) -> None:
    """QAM's are most of the work, so that another thread does more of them: the same bits."""
    ck = variant(name, action_dim=4)
    recipe = ck.agent.require_recipe()
    batch, _ = batch_of(ck, 80)
    batch, hyper = batch.astype("float32"), replace(ck.hyperparameters(), denoise_steps=10)
    drawn = recipe.draw(np.random.default_rng(0), batch, hyper)
    nets = ck.networks(embedding="float32", kernels=backend_named("numba").kernels())
    once = schedule.schedule(recipe.stages, nets, 80, 2)
    plan = schedule.schedule(recipe.stages, nets, 80, 2, hyper.denoise_steps)
    assert plan.helped in {s.name for s in recipe.stages if s.each_step}
    if name == "qam":
        assert once.helped_rows < plan.helped_rows <= 48
    state = TrainState.create(recipe, nets)
    expected, _ = update(recipe, state, batch, drawn, hyper)
    for threads in (2, 3):
        found, _ = update(recipe, state, batch, drawn, hyper, threads)
        for part in recipe.trained:
            pairs = zip(
                found.networks[part].params.arrays(),
                expected.networks[part].params.arrays(),
                strict=True,
            )
            for a, b in pairs:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_with_threads_too_the_first_network_that_is_not_finite_is_named(threads: int) -> None:
    ck = small_checkpoint()
    b, drawn = batch_of(ck)
    bad = replace(b, rewards=np.full_like(b.rewards, np.nan), obs=np.full_like(b.obs, np.nan))
    with pytest.raises(NonFiniteError, match="policy loss"):
        update(
            RECIPE, TrainState.create(RECIPE, ck.networks()), bad, drawn, Hyperparameters(), threads
        )
