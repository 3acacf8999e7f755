"""The losses of the paper's other methods, literally as their formulas say, row by row.

Oracles: baselines.md's equations in Python floats; Jacobians column by column by complex steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.registry import agent_with
from qgf_ref.agents.step import losses
from qgf_ref.arrays import Array
from qgf_ref.checks import complex_step
from qgf_ref.flow.diffusion import CORRECTED, OFFICIAL, SamplerClips, ddpm, vp_schedule
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.losses.clipping import clipped_by_norm, joint_norm
from qgf_ref.losses.qam import lean_adjoint, sigma, simulated
from qgf_ref.nets.networks import Networks
from tests.conftest import small_checkpoint
from tests.helpers.losses import batch_of

T = 4
HYPER = Hyperparameters(0.9, 3, 0.8, denoise_steps=T)


def case(name: str, **settings: Any) -> tuple[Any, Any, Any, dict[str, Array], dict[str, float]]:
    """Recipe, networks, batch, random numbers, and the losses that we compute."""
    ck = small_checkpoint()
    agent, rng = agent_with(name, settings), np.random.default_rng(2)
    initial = agent.initial(rng, ck.obs_dim, ck.flat_action_dim, (7, 6), 2)
    nets = Networks(**{
        part.name: part.network(
            initial[part.name].astype(float).map(lambda a: a + rng.normal(0, 0.3, a.shape)),
            ck.network_settings(),
        )
        for part in agent.parts
    })  # fmt: skip
    recipe, (batch, _) = agent.require_recipe(), batch_of(ck)
    drawn = recipe.draw(rng, batch, HYPER)
    values = losses(recipe, nets, batch, drawn, HYPER).values
    return recipe, nets, batch, drawn, values


def row_of(batch: Any, drawn: dict[str, Array], i: int) -> tuple[Any, ...]:
    row = slice(i, i + 1)
    return batch.obs[row], drawn["x0"][row], batch.action[row], float(drawn["t"][i]), row


def clipped(x: Array) -> Array:
    return np.clip(x, -1, 1)


def test_edp() -> None:
    _, nets, batch, drawn, values = case("edp", bc_weight=3.0)
    total, B = 0.0, len(batch.obs)
    for i in range(B):
        obs, x0, x1, t, _ = row_of(batch, drawn, i)
        x_t = (1 - t) * x0 + t * x1
        v = nets.policy.forward(obs, x_t, t)[0]
        q = nets.target_critic.forward(obs, clipped(x_t + (1 - t) * v))[0].min()
        total += (-q + 3 * ((v - (x1 - x0)) ** 2).mean()) / B
    np.testing.assert_allclose(values["policy"], total, rtol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
def test_fql(normalize: bool) -> None:
    settings = {"alpha": 5.0, "critic_loss_type": "ddpg", "normalize_q_loss": normalize}
    _, nets, batch, drawn, values = case("fql", **settings)
    clone = distill = critic = 0.0
    pull, B = [], len(batch.obs)
    for i in range(B):
        obs, x0, x1, t, row = row_of(batch, drawn, i)
        m = batch.valid[i]
        v = nets.actor_bc_flow.forward(obs, (1 - t) * x0 + t * x1, t)[0]
        clone += m * ((v - (x1 - x0)) ** 2).mean() / B
        a = drawn["z"][row]
        mu = nets.actor_onestep_flow.forward(obs, a)[0]
        for k in range(T):
            a = a + nets.actor_bc_flow.forward(obs, a, k / T)[0] / T
        distill += m * ((mu - clipped(a)) ** 2).mean() / B
        pull.append(m * nets.critic.forward(obs, clipped(mu))[0].mean())
        after = batch.next_obs[row]
        mu = nets.actor_onestep_flow.forward(after, drawn["next_noise"][row])[0]
        q = nets.target_critic.forward(after, clipped(mu))[0].min()
        y = batch.rewards[i] + 0.9**3 * batch.masks[i] * q
        critic += m * ((nets.critic.forward(obs, x1)[0] - y) ** 2).sum() / (2 * B)
    scale = 1 / np.abs(pull).mean() if normalize else 1.0
    assert (batch.valid == 0).any()
    np.testing.assert_allclose(values["actor_bc_flow"], clone, rtol=1e-12)
    np.testing.assert_allclose(
        values["actor_onestep_flow"], 5 * distill - scale * np.mean(pull), rtol=1e-12
    )
    np.testing.assert_allclose(values["critic"], critic, rtol=1e-12)


def test_qam() -> None:
    """The path, its adjoint with Jacobians by complex steps, the loss along it, the bootstrap."""
    settings = {"inv_temp": 3.0, "critic_loss_type": "ddpg", "best_of_n": 3, "rho": 0.5}
    _, nets, batch, drawn, values = case("qam", **settings)
    fast, base, D = nets.actor_fast, nets.target_actor_slow, batch.action.shape[1]
    total, critic, B, h, outside = 0.0, 0.0, len(batch.obs), 1 / T, 0
    for i in range(B):
        obs, _, x1, _, row = row_of(batch, drawn, i)
        x, path = drawn["adj_x0"][row], []
        for k in range(T):
            path.append(x)
            t, s = k * h, np.sqrt(2 * (1 - k * h + h) / (k * h + h))
            if k < T - 1:
                drift = 2 * fast.forward(obs, x, t)[0] - x / (t + h)
                x = x + h * drift + np.sqrt(h) * s * drawn["adj_noise"][k, row]
            else:
                x = x + h * base.forward(obs, x, t)[0]
        outside += (np.abs(x) > 1).sum()

        def q(a: Array, obs: Array = obs) -> Array:
            inside = np.where(np.abs(a.real) < 1, a, np.sign(a.real))
            return nets.target_critic.forward(obs, inside)[0].mean(axis=0)

        unit = np.eye(D)[:, None]
        g = -3 * np.array([complex_step(q, x, e)[0] for e in unit])
        for k in reversed(range(T)):
            t, s = k * h, np.sqrt(2 * (T - k + 1) / (k + 1))
            J = [
                complex_step(lambda a, obs=obs, t=t: base.forward(obs, a, t + h)[0], path[k], e)[0]
                for e in unit
            ]  # the rows of the transpose
            g = g + h * (2 * np.stack(J) @ g - g / (t + h))
            v, slow = (net.forward(obs, path[k], t)[0][0] for net in (fast, base))
            total += ((2 / s * (v - slow) + s * g) ** 2).sum() / B
        after = batch.next_obs[row]
        ends = []
        for a in drawn["next_noise"][i][:, None]:
            end = a
            for k in range(T):
                end = end + fast.forward(after, end, k / T)[0] / T
            ends.append(clipped(end))
        best = ends[int(np.argmax([nets.critic.forward(after, e)[0].mean() for e in ends]))]
        of_best = nets.target_critic.forward(after, best)[0]
        boot = of_best.mean() - 0.5 * of_best.std()
        y = batch.rewards[i] + 0.9**3 * batch.masks[i] * boot
        error = nets.critic.forward(obs, x1)[0] - y
        critic += batch.valid[i] * (error**2).sum() / (2 * B)
    assert outside, "the mask of the clip takes part"
    np.testing.assert_allclose(values["actor_fast"], total, rtol=1e-12)
    np.testing.assert_allclose(values["critic"], critic, rtol=1e-12)


def test_a_lean_adjoint_without_a_jacobian() -> None:
    """Of a base flow that is constant in x, g_i = (i/T)·g_T."""
    _, nets, batch, drawn, _ = case("qam")
    base = nets.target_actor_slow
    flat = Networks(base=base).having({"base": base.params.map(np.zeros_like)}).base
    points, velocities, last = simulated(
        nets.actor_fast, flat, batch.obs, drawn["adj_x0"], drawn["adj_noise"]
    )
    np.testing.assert_array_equal(velocities, np.zeros_like(velocities))
    np.testing.assert_array_equal(last, points[-1])
    adjoint = lean_adjoint(flat, batch.obs, points, last)
    for i in range(T):
        np.testing.assert_allclose(adjoint[i], i / T * last, rtol=1e-14)
    assert sigma(0, T) == np.sqrt(2 * (1 + 1 / T) * T)


def test_gradients_are_clipped_by_group() -> None:
    """By hand: one factor for each group, none below the norm, no epsilon."""
    _, nets, _, _, _ = case("qam")
    bars = {name: net.params for name, net in vars(nets).items()}
    flat = np.concatenate([a.ravel() for n in ("critic", "value") for a in bars[n].arrays()])
    np.testing.assert_allclose(
        joint_norm((bars["critic"], bars["value"])), np.linalg.norm(flat), rtol=1e-14
    )
    groups = (("critic", "value"), ("actor_fast",))
    found = clipped_by_norm(bars, groups, 2.0)
    for name in ("critic", "value"):
        for a, b in zip(found[name].arrays(), bars[name].arrays(), strict=True):
            np.testing.assert_allclose(a, 2 * b / np.linalg.norm(flat), rtol=1e-14)
    assert found["actor_slow"] is bars["actor_slow"]
    assert clipped_by_norm(bars, groups, 1e9)["critic"] is bars["critic"]
    np.testing.assert_allclose(joint_norm([found["actor_fast"]]), 2, rtol=1e-14)


@pytest.mark.parametrize("name", ["dac", "qsm"])
def test_diffusion(name: str) -> None:
    """The schedule as a product, both losses, and a bootstrap by the sampler, posterior mean."""
    settings: dict[str, Any] = {"alpha": 5.0, "critic_loss_type": "ddpg", "rho": 0.5}
    settings |= {"inv_temp": 3.0} if name == "qsm" else {}
    _, nets, batch, drawn, values = case(name, **settings)
    betas = [1 - np.exp(-0.1 / T - 0.5 * 9.9 * (2 * k - 1) / T**2) for k in range(1, T + 1)]
    hats = np.concatenate([[1.0], np.cumprod([1 - b for b in betas])])
    np.testing.assert_allclose(vp_schedule(T).alpha_hats, hats, rtol=1e-14)
    total, critic, B, D = 0.0, 0.0, len(batch.obs), batch.action.shape[1]
    for i in range(B):
        obs, after, row, k = batch.obs[[i]], batch.next_obs[[i]], [i], int(drawn["k"][i])
        eps, spread = drawn["eps"][row], np.sqrt(1 - hats[k])
        x = np.sqrt(hats[k]) * batch.action[row] + spread * eps
        e = nets.actor.forward(obs, x, k)[0]
        columns = [
            complex_step(
                lambda a, obs=obs: nets.target_critic.forward(obs, a)[0].mean(axis=0), x, u
            )
            for u in np.eye(D)[:, None]
        ]
        g = np.concatenate(columns)[None]
        own = ((e + 3 * g) ** 2).mean() if name == "qsm" else (spread * g * e).mean()
        total += batch.valid[i] * (own + 5 * ((eps - e) ** 2).mean()) / B
        x = drawn["next_noise"][row]
        for k in range(T, 0, -1):
            e = nets.actor.forward(after, x, k)[0]
            clean = clipped((x - np.sqrt(1 - hats[k]) * e) / np.sqrt(hats[k]))
            b = betas[k - 1]
            x = np.sqrt(hats[k - 1]) * b * clean + np.sqrt(1 - b) * (1 - hats[k - 1]) * x
            x = x / (1 - hats[k]) + (np.sqrt(b) * drawn["next_z"][T - k, row] if k > 1 else 0)
        q = nets.target_critic.forward(after, x)[0]
        y = batch.rewards[i] + 0.9**3 * batch.masks[i] * (q.mean() - 0.5 * q.std())
        error = nets.critic.forward(obs, batch.action[row])[0] - y
        critic += batch.valid[i] * (error**2).sum() / (2 * B)
    np.testing.assert_allclose(values["actor"], total, rtol=1e-11)
    np.testing.assert_allclose(values["critic"], critic, rtol=1e-11)


def test_the_official_sampler_takes_the_clean_estimate() -> None:
    """Without a clip before, x̂ is the next x; `after` clips what the noise was added to."""
    _, nets, batch, drawn, _ = case("dac", critic_loss_type="ddpg")
    obs, x, z = batch.obs, drawn["next_noise"], drawn["next_z"]
    schedule = vp_schedule(T)
    for clips in (OFFICIAL, SamplerClips(after=True)):
        ours, state = ddpm(nets.actor, obs, x, z, clips), x
        for k in range(T, 0, -1):
            hat = schedule.alpha_hats[k]
            state = state - np.sqrt(1 - hat) * nets.actor.forward(obs, state, k)[0]
            state = state / np.sqrt(hat)
            state = state + (np.sqrt(schedule.betas[k]) * z[T - k] if k > 1 else 0)
            state = clipped(state) if clips.after else state
        np.testing.assert_allclose(ours, state, rtol=1e-11)
    assert np.abs(ddpm(nets.actor, obs, x, z, CORRECTED)).max() < 1 + 1e-14
