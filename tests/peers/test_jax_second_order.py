"""What takes second derivatives, and the auxiliary networks' losses, by JAX in float64.

Everything is written out for one row, with dense matrices and flax's own LayerNorm ("fast"
variance). Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import DenoisingStep
from qgf_ref.guidance.qgf_covariance import QGFCovariance
from qgf_ref.guidance.qgf_shifted import QGFShifted
from qgf_ref.guidance.queries import critic_curvature
from qgf_ref.losses import auxiliary
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import small_checkpoint, states
from tests.peers.test_autodiff import layers_of

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("double_precision", "quick_compilation")]
jax = pytest.importorskip("jax")
nn = pytest.importorskip("flax.linen")
jnp = jax.numpy

from benchmarks.peers.jax_networks import ACTIVATIONS, REDUCTIONS  # noqa: E402

STEPS = (0, 2, 5)
"""The first step, whose time the schedules replace; one between; the last."""


def mlp(activation: str, layers: Any, x: Any) -> Any:
    """x (…, I) → (…, F). layers of (kernel, bias, scale | None, offset | None)."""
    for i, (kernel, bias, scale, offset) in enumerate(layers):
        x = x @ kernel + bias
        if scale is not None:
            x = nn.LayerNorm().apply({"params": {"scale": scale, "bias": offset}}, x)
        if i < len(layers) - 1:
            x = ACTIVATIONS[activation](x)
    return x


def embedding(t: Any) -> Any:
    """t (…) → (…, 16)."""
    angles = jnp.asarray(t)[..., None] * (1e4 * np.exp(-np.log(1e4) * np.arange(8) / 8))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Oracle:
    """A checkpoint's networks of one row or of many: s (…, O), a (…, D), t (…)."""

    def __init__(self, ck: Checkpoint) -> None:
        self.name, self.reduce = ck.options.activation, REDUCTIONS[ck.options.q_aggregation]
        self.policy = layers_of(ck.policy, jnp.asarray)
        self.target = layers_of(ck.target_critic, jnp.asarray)
        self.value = layers_of(ck.value, jnp.asarray)
        self.T = ck.options.denoise_steps

    def of(self, layers: Any, *inputs: Any) -> Any:
        return mlp(self.name, layers, jnp.concatenate(inputs, axis=-1))

    def v(self, s: Any, a: Any, t: Any) -> Any:
        return self.of(self.policy, s, a, embedding(t))

    def members(self, s: Any, a: Any) -> Any:
        return jax.vmap(lambda layers: self.of(layers, s, a)[..., 0])(self.target)

    def q(self, s: Any, a: Any) -> Any:
        return self.reduce(self.members(s, a), axis=0)

    def denoised(self, s: Any, a: Any, t: Any) -> Any:
        return a + (1 - t) * self.v(s, a, t)


def error(ours: Any, theirs: Any) -> float:
    """Norm of the difference, relative to theirs."""
    return float(np.linalg.norm(ours - np.asarray(theirs)) / np.linalg.norm(theirs))


@pytest.mark.parametrize("aggregation", ["min", "mean"])
@pytest.mark.parametrize("activation", ["gelu", "mish"])
def test_hessian_vector_products_of_the_aggregate(activation: str, aggregation: str) -> None:
    """Measured ≤ 1.9e-15: two float64 implementations, in another order of summation."""
    ck = small_checkpoint(activation=activation, aggregation=aggregation)
    oracle, (obs, x), x_dot = Oracle(ck), states(ck, 32), states(ck, 32, seed=2)[1]
    guidance, curvature = critic_curvature(ck.flow, obs, x)

    @jax.jit
    def expected(a: Any, a_dot: Any) -> Any:
        return jax.jvp(jax.grad(lambda a: oracle.q(obs, a).sum()), (a,), (a_dot,))

    gradient, product = expected(x, x_dot)
    assert error(guidance.gradient, gradient) < 1e-14
    assert error(curvature.product(x_dot), product) < 1e-14


@pytest.mark.parametrize("activation", ["gelu", "mish"])
def test_hessian_vector_products_of_weighted_members(activation: str) -> None:
    """In the action alone, and in (s, a). Measured ≤ 1.4e-15."""
    ck = small_checkpoint(activation=activation)
    oracle, point, direction = Oracle(ck), states(ck, 32), states(ck, 32, seed=2)
    critic = ck.networks().target_critic
    q, cache = critic.forward(*point)
    q_bar = np.random.default_rng(0).standard_normal(q.shape)

    @jax.jit
    def expected(obs_dot: Any, x_dot: Any) -> Any:
        total = jax.grad(lambda p: (q_bar * oracle.members(*p)).sum())
        return jax.jvp(total, (point,), ((obs_dot, x_dot),))[1]

    ours = critic.hvp_inputs(*direction, q_bar, cache)
    for mine, theirs in zip(ours, expected(*direction), strict=True):
        assert error(mine, theirs) < 1e-14
    _, alone = expected(np.zeros_like(point[0]), direction[1])
    assert error(critic.hvp(direction[1], q_bar, cache), alone) < 1e-14


def steps_of(ck: Checkpoint, rows: int) -> Iterator[tuple[DenoisingStep, tuple[Any, ...]]]:
    """Steps with a weight of their own in each row, 0 in the first two; and s, a, w (rows,), t."""
    obs, action = states(ck, rows)
    weight = np.random.default_rng(4).uniform(0.05, 0.8, (rows, 1))
    weight[:2] = 0
    for k in STEPS:
        step = qgf_ref.denoising_step(ck.flow, obs, action, k, weight)
        yield step, (obs, action, weight[:, 0], step.time)


def dense_covariance(oracle: Oracle, s: Any, a: Any, w: Any, t: Any, t_c: Any) -> Any:
    """G (D,) of the docstring of `QGFCovariance`, and the eigenvalues of C and M. t_c: C's time."""
    at = jnp.clip(oracle.denoised(s, a, t), -1, 1)
    J = jax.jacobian(lambda x: oracle.denoised(s, x, t_c))(a)
    C = (1 - t_c) ** 2 / t_c * (J + J.T) / 2
    M = -jax.hessian(lambda x: oracle.q(s, x))(at)
    g = jax.grad(lambda x: oracle.q(s, x))(at)
    G = C @ jnp.linalg.solve(jnp.eye(len(a)) + w * M @ C, g) / (1 - t)
    return G, jnp.linalg.eigvalsh(C), jnp.linalg.eigvalsh(M)


@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_covariance(aggregation: str) -> None:
    """D iterations are the dense solve, where C is a covariance and Q is concave.

    Elsewhere the row stops early, by design, and is left out here. Measured ≤ 3.9e-15, and
    with one iteration less ≥ 2.1e-4.
    """
    ck = small_checkpoint(aggregation=aggregation)
    D, oracle = ck.flat_action_dim, Oracle(ck)
    dense = jax.jit(jax.vmap(lambda *row: dense_covariance(oracle, *row), (0, 0, 0, None, None)))
    for step, point in steps_of(ck, 1024):
        found = dense(*point, max(step.time, 1 / oracle.T))
        theirs, spread, bend = (np.asarray(x) for x in found)
        rows = (spread.min(axis=1) > 0) & (bend.min(axis=1) >= 0)
        rows[:2] = True  # w = 0: C∇Q/(1 − t), whatever C and M
        assert rows.sum() >= 20
        ours, short = (QGFCovariance(n)(ck.flow, step).gradient[rows] for n in (D, D - 1))
        assert error(ours, theirs[rows]) < 2e-14
        assert error(short, theirs[rows]) > 1e-5


def written_out(oracle: Oracle, passes: int, grid: bool) -> Any:
    """The docstring of `QGFShifted` for one row: (G, acceleration), each (D,), and μ.

    first  the least t′: the step's time, or at t = 0 the first positive one
    """
    times = np.arange(1, oracle.T) / oracle.T

    def level(t: Any) -> Any:
        return (t / (1 - t)) ** 2

    def row(s: Any, a: Any, w: Any, t: Any, first: Any) -> Any:
        gradient = jax.grad(lambda x: oracle.q(s, x))
        mean, least = oracle.denoised(s, a, t), level(first)
        m = jnp.clip(mean, -1, 1)
        g, mu, reached = gradient(m), 0.0, mean
        for n in range(passes):
            if n:
                along = jnp.clip(reached, -1, 1) - m
                fall = jnp.dot(g - gradient(m + along), along)
                # both may be clipped to the same point
                mu = jnp.maximum(fall, 0) / jnp.maximum(jnp.dot(along, along), 1e-300)
            wanted = jnp.maximum(level(t) + w * mu, least)
            if grid:
                off = jnp.where(times >= first, abs(jnp.log(level(times) / wanted)), jnp.inf)
                later = jnp.asarray(times)[off.argmin()]
            else:
                later = jnp.sqrt(wanted) / (1 + jnp.sqrt(wanted))
            # λ′x′/t′ = right
            right = a * t / (1 - t) ** 2 + w * g + (level(later) - level(t)) * m
            x = right * later / level(later)
            reached = oracle.denoised(s, x, later)
        borrowed = jnp.where(t == 0, jnp.maximum(1 - w * mu / least, 0), 0)
        unmoved = mean + borrowed * (oracle.denoised(s, first * m, first) - mean)
        J = jax.jacobian(lambda x: oracle.denoised(s, x, later))(x)
        noise = (a - t * reached) / (1 - t)
        bent = (1 - later) ** 2 / later * J @ noise / (1 - t) ** 3
        G = jnp.where(w == 0, 0, (reached - unmoved) / (jnp.where(w == 0, 1, w) * (1 - t)))
        return G, bent, mu

    return jax.jit(jax.vmap(row, (0, 0, 0, None, None)))


@pytest.mark.parametrize("grid", [True, False], ids=["grid", "free"])
@pytest.mark.parametrize("passes", [1, 2])
def test_shifted(passes: int, grid: bool) -> None:
    """Measured ≤ 5.1e-14 on the grid, by the cancellation in D(x′, t′) − D(a_t, t), and ≤ 1.4e-12
    off it, where the last bit of t′ is multiplied by the 10⁴ of the time embedding.
    """
    ck = small_checkpoint()
    expected = written_out(Oracle(ck), passes, grid)
    for step, point in steps_of(ck, 64):
        G, bent, mu = expected(*point, max(step.time, ck.flow.times[1]))
        assert passes == 1 or 10 < np.sum(mu > 0) < 64, "both signs of the curvature take part"
        ours = QGFShifted(passes, grid, second_order=True)(ck.flow, step)
        tolerance = 3e-13 if grid else 1e-11
        assert error(ours.gradient, G) < tolerance
        assert error(ours.acceleration, bent) < tolerance


class Losses:
    """Both sides' losses on one batch."""

    def __init__(self, rows: int = 24) -> None:
        self.ck = ck = small_checkpoint()
        rng = np.random.default_rng(9)
        self.obs, self.x1 = states(ck, rows)
        self.x0, self.t = rng.standard_normal(self.x1.shape), rng.integers(0, 7, rows) / 6
        self.start = rng.integers(0, ck.options.denoise_steps, rows)
        self.oracle = Oracle(ck)

    def ours(self, name: str) -> tuple[float, MLPParams]:
        nets, flow = self.ck.networks(), self.ck.flow
        net: Any = getattr(flow.auxiliary, name)
        critic, data = nets.target_critic, (self.obs, self.x0, self.x1)
        if name == "robust_q":
            return auxiliary.robust_q_loss(net, critic, *data, self.t)
        if name == "cfgrl":
            return auxiliary.cfgrl_loss(net[0], critic, nets.value, *data, self.t)
        return auxiliary.distill_loss(net, nets.policy, flow.times, *data, self.start)

    def theirs(self, name: str) -> tuple[Any, list[Any]]:
        params = getattr(self.ck.auxiliary, name)
        tree = layers_of(params, jnp.asarray)
        if params.table is not None:
            tree = (jnp.asarray(params.table), tree)
        loss, bar = jax.jit(jax.value_and_grad(getattr(self, name)))(tree)
        return loss, jax.tree_util.tree_leaves(bar)

    def point(self, t: Array) -> Array:
        return (1 - t[:, None]) * self.x0 + t[:, None] * self.x1

    def robust_q(self, layers: Any) -> Any:
        q = self.oracle.of(layers, self.obs, self.point(self.t), embedding(self.t))[:, 0]
        return jnp.mean((q - self.oracle.q(self.obs, self.x1)) ** 2)

    def cfgrl(self, params: Any) -> Any:
        table, layers = params
        v = self.oracle.of(self.oracle.value, self.obs)[:, 0]
        better = self.oracle.q(self.obs, self.x1) > v

        def flow_matching(o: int, counts: Any) -> Any:
            label = jnp.broadcast_to(table[o], (len(self.obs), table.shape[1]))
            inputs = self.obs, self.point(self.t), embedding(self.t), label
            off = self.oracle.of(layers, *inputs) - (self.x1 - self.x0)
            return jnp.mean(counts * jnp.mean(off**2, axis=1))

        return flow_matching(1, better) + 0.1 * flow_matching(0, 1.0)

    def distill(self, layers: Any) -> Any:
        T = self.oracle.T
        t = self.start / T
        end = self.point(t)
        for k in range(T):
            moved = end + self.oracle.v(self.obs, end, jnp.full(len(end), k / T)) / T
            end = jnp.where(k >= self.start[:, None], moved, end)
        predicted = self.oracle.of(layers, self.obs, self.point(t), embedding(t))
        return jnp.mean((predicted - end) ** 2)

    def errors(self, name: str) -> list[float]:
        """Of the loss, and of every array's gradient."""
        (loss, bar), (their_loss, their_bar) = self.ours(name), self.theirs(name)
        pairs = zip(bar.arrays(), their_bar, strict=True)
        return [error(np.array([loss]), np.array([their_loss])), *(error(*pair) for pair in pairs)]


@pytest.mark.parametrize("name", ["robust_q", "cfgrl", "distill"])
def test_losses_of_the_auxiliary_networks(name: str) -> None:
    """Measured ≤ 1.6e-15, the gradient of cfgrl's table among them."""
    assert max(Losses().errors(name)) < 1e-14
