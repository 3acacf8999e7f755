"""Conventions against loops written out as the ports write them, and against each other."""

from __future__ import annotations

import numpy as np
import pytest

import qgf_ref
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import CONVENTIONS, Convention, convention
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.flow.path import time_grid
from tests.conftest import small_checkpoint

MIXTURE = qgf_ref.MixtureFlow(
    qgf_ref.GaussianMixture.isotropic([0.4, 0.6], [[-1.0, 0.5], [0.7, 0.0]], 0.3)
)


def accumulated_down(T: int) -> list[float]:
    """openpi's while loop: float32 from 1.0 by dt, while time >= −dt/2."""
    dt, time, times = np.float32(-1.0 / T), np.float32(1.0), []
    while time >= -dt / 2:
        times.append(float(time))
        time = np.float32(time + dt)
    return times


@pytest.mark.parametrize("T", [1, 4, 7, 10, 50])
def test_times_are_those_of_the_ports(T: int) -> None:
    assert list(convention("openpi").times(T)) == accumulated_down(T)
    told = np.array(convention("lerobot").times(T), np.float32)
    assert told.tolist() == [np.float32(1.0 + k * (-1.0 / T)) for k in range(T)]
    assert list(convention("gr00t").times(T)) == [k / float(T) for k in range(T)]
    assert convention("qgf").times(T) == time_grid(T)
    grid = np.arange(T, dtype=np.float32) * np.float32(1 / T)
    assert list(convention("flow_matching").times(T)) == grid.tolist()
    divided = Convention("own", 1, "noise", "divided").times(T)
    assert list(divided) == [float(1 - np.float32(k) / np.float32(T)) for k in range(T)]


def test_gr00t_asks_at_the_bucket() -> None:
    told = convention("gr00t")
    for T in (4, 10):
        asked = [told.asked(told.time_of(k / T, T)) for k in range(T)]
        assert asked == [int(k / float(T) * 1000) for k in range(T)]


def test_a_time_off_the_grid_is_affine() -> None:
    openpi = convention("openpi")
    assert openpi.time_of(0.123, 10) == 1 - 0.123
    assert np.allclose(openpi.time_of(np.array([0.0, 0.31, 1.0]), 10), [1.0, 0.69, 0.0])
    assert openpi.time_of(0.7, 10) == accumulated_down(10)[7] != 1 - 0.7
    assert openpi.core_time(0.25) == 0.75


@pytest.mark.parametrize("name", ["qgf", "openpi", "lerobot", "flow_matching"])
def test_a_loop_in_the_ports_convention_is_our_sampler(name: str) -> None:
    """x ← x ± u/T over the port's own times, and our loop round the converted field."""
    T, told = 10, convention(name)
    port = told.from_core(MIXTURE)
    noise = np.random.default_rng(0).standard_normal((6, 2))
    x = noise
    for tau in told.times(T):
        u, _ = port.forward(np.zeros((6, 0)), x, tau)
        x = x - u / T if told.velocity_to == "noise" else x + u / T
    critic = qgf_ref.QuadraticCritic(optimum=np.zeros(2), curvature=np.eye(2))
    flow = qgf_ref.GuidedFlow(told.to_core(port, T), critic, T, action_bound=None)
    ours = qgf_ref.sample(flow, np.zeros((6, 0)), estimator="none", noise=noise)
    assert np.abs(ours - x).max() < 1e-14  # the same operations; measured 4e-16
    plain = qgf_ref.GuidedFlow(MIXTURE, critic, T, action_bound=None)
    core = qgf_ref.sample(plain, np.zeros((6, 0)), estimator="none", noise=noise)
    # float32 times: 2e-7 measured
    assert np.abs(ours - core).max() < (1e-14 if name == "qgf" else 2e-6)


def test_products_change_their_sign_with_the_velocity() -> None:
    field = convention("openpi").to_core(convention("openpi").from_core(MIXTURE), 8)
    obs, rng = np.zeros((4, 0)), np.random.default_rng(1)
    a, x = rng.standard_normal((2, 4, 2))
    for time in (0.3, np.array([0.1, 0.2, 0.5, 0.9])):
        (v, cache), (w, own) = (f.forward(obs, a, time) for f in (field, MIXTURE))
        assert np.allclose(v, w, rtol=0, atol=1e-13)
        assert np.allclose(field.jvp(x, cache), MIXTURE.jvp(x, own), rtol=0, atol=1e-13)
        assert np.allclose(field.vjp(x, cache), MIXTURE.vjp(x, own), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_training_target_is_the_paths_velocity(name: str) -> None:
    told, rng = convention(name), np.random.default_rng(2)
    noise, action, tau = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.random(3)
    x, u = told.training_pair(noise, action, tau)
    h = 1e-6
    up, down = (told.training_pair(noise, action, tau + s)[0] for s in (h, -h))
    assert np.allclose((up - down) / (2 * h), u, rtol=0, atol=1e-8)
    end = told.training_pair(noise, action, np.full(3, float(told.noise_time)))[0]
    assert np.allclose(end, noise)
    assert x.shape == u.shape == (3, 2)


def test_weights() -> None:
    per_step = Convention("own", guidance="step")
    assert per_step.core_weight(0.01, 10) == 0.1
    assert per_step.port_weight(0.1, 10) == 0.01
    assert convention("openpi").core_weight(0.3, 10) == 0.3


def test_traces_come_back_and_follow_the_chain_rule() -> None:
    checkpoint = small_checkpoint(steps=3)
    D = checkpoint.flat_action_dim
    rng = np.random.default_rng(3)
    obs, noise = rng.standard_normal((4, checkpoint.obs_dim)), rng.standard_normal((4, D))
    run = qgf_ref.trace(checkpoint.flow, obs, estimator="qgf", weight=0.2, noise=noise)
    units = Normalisation.quantiles(-rng.random(D) - 1, 1 + rng.random(D), eps=1e-6)
    told = convention("openpi")
    theirs = told.trace_from_core(run.arrays(), units)
    back = told.trace_to_core(theirs, units)
    for name, array in run.arrays().items():
        assert np.allclose(back[name], array, rtol=1e-12, atol=1e-12), name
    # their update in raw actions: raw ← raw − dt·u + …, with G as a gradient in raw actions
    following = theirs["a"][0] + (-theirs["v"][0] + 0.2 * units.scale**2 * theirs["g"][0]) / 3
    assert np.allclose(following, theirs["a"][1], rtol=0, atol=1e-12)


def test_a_critic_of_raw_actions() -> None:
    rng = np.random.default_rng(4)
    units = Normalisation.mean_std([0.5, -1.0, 0.2], [2.0, 0.1, 1.0])
    checkpoint = small_checkpoint()
    critic = units.critic(checkpoint.flow.critic)
    obs, a = rng.standard_normal((4, checkpoint.obs_dim)), rng.standard_normal((4, 3))

    def value(x: Array) -> Array:
        return critic.forward(obs, x)[0]

    def at(x: Array) -> object:
        return critic.forward(obs, x)[1]

    q_bar = rng.standard_normal((2, 4))
    qgf_ref.check_jvp(value, lambda x, x_dot: critic.jvp(x_dot, at(x)), a)
    qgf_ref.check_vjp(value, lambda x, y_bar: critic.vjp(y_bar, at(x)), a)
    qgf_ref.check_jvp(
        lambda x: critic.vjp(q_bar, at(x)), lambda x, x_dot: critic.hvp(x_dot, q_bar, at(x)), a
    )
    assert np.allclose(units.normalised(units.raw(a)), a)
    assert np.allclose(units.inverse.raw(units.raw(a)), a)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: convention("pi0"), "valid ones are"),
        (lambda: Convention("x", noise_time=2), "noise_time must be 0 or 1"),  # type: ignore[arg-type]
        (lambda: Convention("x", velocity_to="data"), "velocity_to"),  # type: ignore[arg-type]
        (lambda: Convention("x", grid="linspace"), "accumulated"),  # type: ignore[arg-type]
        (lambda: Convention("x", guidance="dt"), "velocity"),  # type: ignore[arg-type]
        (lambda: Convention("x", buckets=0), "buckets"),
        (lambda: Convention("x", grid=(0.0, 0.4)).times(3), "has 2 times, expected T = 3"),
        (lambda: convention("gr00t").from_core(MIXTURE), "no time comes back"),
        (lambda: Normalisation.mean_std([0.0], [0.0]), "must be > 0"),
        (lambda: Normalisation.quantiles([np.nan], [1.0]), "finite"),
    ],
)
def test_bad_input(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]


def test_a_convention_says_what_it_is() -> None:
    assert str(convention("openpi")) == (
        "openpi: t = 1 is noise, dt < 0; u = noise − action; times accumulated; w·G beside u"
    )
    assert "⌊1000·t⌋" in str(convention("gr00t"))
    assert all(c.source for c in CONVENTIONS.values())
