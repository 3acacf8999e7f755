"""Adapters round functions of NumPy arrays: layouts, observations, differences, bad input.

PyTorch's and JAX's are in tests/peers/test_adapters.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import adapters
from qgf_ref.adapters.actions import ActionLayout
from qgf_ref.adapters.differences import Differenced, NumpyFunction
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from tests.conftest import small_checkpoint
from tests.helpers.numpy_flow import ALL, bowl, flow, inputs, wave


def test_native_networks_as_plain_functions_give_the_native_trace() -> None:
    checkpoint = small_checkpoint()
    own = checkpoint.flow

    def field(obs: Array, a: Array, time: Array) -> Array:
        return own.field.forward(obs, a, time[0])[0]

    adapted = adapters.functions(
        field, lambda s, a: own.critic.forward(s, a)[0], action_shape=checkpoint.flat_action_dim,
        obs_dim=checkpoint.obs_dim, denoise_steps=checkpoint.options.denoise_steps, differences=ALL,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    obs = rng.standard_normal((5, checkpoint.obs_dim))
    noise = rng.standard_normal((5, checkpoint.flat_action_dim))
    for name in ("none", "qgf", "qgf_jacobian", "bptt"):
        runs = [
            qgf_ref.trace(f, obs, estimator=name, weight=0.3, noise=noise) for f in (own, adapted)
        ]
        for quantity, array in runs[0].arrays().items():
            # of differences alone: measured 1.3e-8, of gradients up to 9
            assert np.abs(runs[1].arrays()[quantity] - array).max() < 1e-7, (name, quantity)


def test_products_by_differences_and_their_adjoint() -> None:
    made = flow(differences=("jvp", "vjp"))
    obs, a = inputs()
    rng = np.random.default_rng(2)
    x, y, q_bar = (
        rng.standard_normal((4, 6)),
        rng.standard_normal((4, 6)),
        rng.standard_normal((2, 4)),
    )
    _, cache = made.field.forward(obs, a, 0.3)
    assert np.isclose((made.field.jvp(x, cache) * y).sum(), (made.field.vjp(y, cache) * x).sum())
    _, at = made.critic.forward(obs, a)
    assert np.isclose(
        (made.critic.jvp(x, at) * q_bar).sum(), (made.critic.vjp(q_bar, at) * x).sum()
    )
    assert made.critic.differenced == ("vjp", "jvp")  # type: ignore[attr-defined]


class Exact(NumpyFunction):
    """With a vjp: Q = −Σx⁴."""

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        return np.asarray(-4 * y_bar[:, None] * cache**3)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, Any]:
        return super().forward(obs, x, time)[0], x


def test_an_hvp_by_differences_of_an_exact_vjp() -> None:
    base = Exact(lambda obs, x: -(x**4).sum(axis=1), "the critic", np.dtype(float))
    rng = np.random.default_rng(3)
    x, x_dot, y_bar = (
        rng.standard_normal((4, 3)),
        rng.standard_normal((4, 3)),
        rng.standard_normal(4),
    )
    made = Differenced(base, ("hvp",))
    _, cache = made.forward(None, x, None)
    expected = -12 * y_bar[:, None] * x**2 * x_dot
    assert np.allclose(made.hvp(x_dot, y_bar, cache), expected, rtol=0, atol=1e-8)
    with pytest.raises(InputError, match="needs an exact vjp"):
        Differenced(base, ("vjp", "hvp"))


def test_padding_is_carried_or_held() -> None:
    """Dimension 1 of every step is padding."""
    real = np.array([True, False])
    seen: list[tuple[int, ...]] = []

    def critic(obs: Array, x: Array) -> Array:
        seen.append(x.shape[1:])
        return -(x**2).sum(axis=(1, 2))

    obs, a = inputs()
    carried = flow(critic=critic, real=real)
    assert carried.field.action_dim == 6
    q, cache = carried.critic.forward(obs, a)
    assert seen[-1] == (3, 1) and q.shape == (1, 4)
    assert np.allclose(q[0], -(a[:, ::2] ** 2).sum(axis=1))
    gradient = carried.critic.vjp(np.ones((1, 4)), cache)
    assert np.allclose(gradient[:, ::2], -2 * a[:, ::2]) and not gradient[:, 1::2].any()
    held = flow(critic=critic, real=real, held=0.5)
    assert held.field.action_dim == 3
    v, at = held.field.forward(obs, a[:, :3], 0.3)
    full = np.full((4, 3, 2), 0.5)
    full[..., 0] = a[:, :3]
    assert np.allclose(v, wave(obs, full, np.full(4, 0.3))[..., 0])
    assert held.field.vjp(v, at).shape == held.field.jvp(v, at).shape == (4, 3)
    run = qgf_ref.sample(held, obs, estimator="qgf_jacobian", weight=0.1, rng=0)
    assert run.shape == (4, 3)
    assert "carried along" in str(ActionLayout.of((3, 2), real, None))


def test_observations_of_any_structure_are_passed_through() -> None:
    given: dict[str, Any] = {
        "state": np.arange(8.0).reshape(4, 2),
        "prefix": (np.ones((4, 5)), [np.arange(4)]),
        "prompt": "pick",
    }
    seen: list[Any] = []

    def field(obs: Any, x: Array, time: Array) -> Array:
        seen.append(obs)
        return wave(obs["state"], x, time)

    made = flow(field, lambda s, x: bowl(s["state"], x), obs_dim=None, observations=given)
    rows = adapters.row_numbers(4)
    noise = inputs()[1]
    action = qgf_ref.sample(made, rows, estimator="qgf", weight=0.1, noise=noise)
    assert seen[-1] is given
    plain = qgf_ref.sample(flow(), given["state"], estimator="qgf", weight=0.1, noise=noise)
    assert np.array_equal(action, plain)
    turned = qgf_ref.sample(made, rows[::-1], estimator="qgf", weight=0.1, noise=noise[::-1])
    assert np.allclose(turned[::-1], action, rtol=0, atol=1e-12)
    assert seen[-1]["prompt"] == "pick" and seen[-1]["prefix"][1][0].tolist() == [3, 2, 1, 0]
    best = qgf_ref.sample(made, rows, estimator="none", rng=0, best_of=3)
    assert best.shape == (4, 6) and len(seen[-1]["state"]) == 12
    with pytest.raises(InputError, match="row numbers 0 … 3"):
        qgf_ref.sample(made, rows + 1, estimator="none", rng=0)


def test_a_select_function_of_the_users() -> None:
    """A cache whose rows lie along its second axis."""
    given = (np.zeros((4, 2)), np.arange(8.0).reshape(2, 4))

    def select(obs: Any, rows: Array) -> Any:
        return obs[0][rows], obs[1][:, rows]

    def field(obs: Any, x: Array, time: Array) -> Array:
        return x + obs[1].sum(axis=0)[:, None, None]

    with pytest.raises(InputError, match=r"observations\[1\] has 2 rows.*give select"):
        flow(field, None, obs_dim=None, observations=given)
    made = flow(field, None, obs_dim=None, observations=given, select=select)
    v, _ = made.field.forward(adapters.row_numbers(4)[2:3], np.zeros((1, 6)), 0.0)
    assert np.allclose(v, 8.0)


def test_observations_written_in_place_are_seen() -> None:
    """A robot's loop writes its next observation into the same arrays."""
    buffer = {"state": np.zeros((4, 2))}
    made = flow(lambda s, x, t: wave(s["state"], x, t), None, obs_dim=None, observations=buffer)
    rows, noise = adapters.row_numbers(4)[1:3], inputs(2)[1]
    qgf_ref.sample(made, rows, estimator="none", noise=noise)
    buffer["state"] += 1.0
    plain = qgf_ref.sample(flow(), buffer["state"][1:3], estimator="none", noise=noise)
    assert np.array_equal(qgf_ref.sample(made, rows, estimator="none", noise=noise), plain)


def test_a_port_in_its_own_convention_and_units() -> None:
    """u = −v at 1 − t, and a critic of raw actions."""
    units = adapters.Normalisation.mean_std(0.5, 2.0)
    made = flow(
        lambda s, x, t: -wave(s, x, 1 - t), bowl,
        convention=qgf_ref.Convention("own", 1, "noise"), critic_units=units,
    )  # fmt: skip
    obs, noise = inputs()
    v, _ = made.field.forward(obs, noise, 0.25)
    assert np.allclose(v, wave(obs, noise.reshape(4, 3, 2), np.full(4, 0.25)).reshape(4, 6))
    q, _ = made.critic.forward(obs, noise)
    assert np.allclose(q, bowl(obs, units.raw(noise).reshape(4, 3, 2)))


def test_without_a_critic() -> None:
    made = flow(critic=None)
    obs, noise = inputs()
    assert qgf_ref.sample(made, obs, estimator="none", noise=noise).shape == (4, 6)
    with pytest.raises(InputError, match="this flow has no critic"):
        qgf_ref.sample(made, obs, estimator="qgf", weight=0.1, noise=noise)


def random_field(obs: Array, x: Array, time: Array) -> Array:
    return x + 0.1 * np.random.default_rng().standard_normal(x.shape)


def over_rows(obs: Array, x: Array, time: Array) -> Array:
    return x - x.mean(axis=0)


def broken(obs: Array, x: Array, time: Array) -> Array:
    raise KeyError("state")


def nan_after(calls: int) -> Any:
    """A field that returns NaN from call number `calls` on, counted from 0."""
    count = iter(range(9))
    return lambda s, x, t: x * (1.0 if next(count) < calls else np.nan)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: flow(random_field), "the field gives other numbers when it is called again"),
        (lambda: flow(over_rows), "a row other numbers where the other rows"),
        (lambda: flow(lambda s, x, t: x * np.nan), "the field returned NaN or infinity"),
        (lambda: flow(nan_after(1)), "other numbers when it is called again"),
        (lambda: flow(nan_after(2)), "a row other numbers where the other rows"),
        (lambda: flow(lambda s, x, t: x[:, :2]), r"returned shape \(3, 2, 2\), expected that of x"),
        (lambda: flow(lambda s, x, t: x.astype(int)), "must return real numbers, it returned int"),
        (lambda: flow(broken), "the field raised KeyError: 'state' at .*test_adapters.py"),
        (lambda: flow(critic=lambda s, x: bowl(s, x).T), "members come first: transpose it"),
        (lambda: flow(critic=lambda s, x: x.sum()), r"expected \(B,\), or \(E, B\)"),
        (lambda: flow(5), "must be a function, got int"),
        (lambda: flow(convention="pi"), "unknown convention 'pi'"),
        (lambda: flow(aggregation="max"), "unknown aggregation"),
        (lambda: flow(obs_dim=None), "give obs_dim=O"),
        (lambda: flow(differences=("grad",)), "unknown product 'grad'"),
        (lambda: flow(shape=3), "unknown setting of an adapter 'shape'"),
        (lambda: flow(action_shape=None), r"give action_shape=\(H, A\)"),
        (lambda: flow(action_shape=(2, 3, 4)), r"action_shape must be D or \(H, A\)"),
        (lambda: flow(real=np.array([1, 0])), "mask of bools"),
        (lambda: flow(real=np.array([[True, False], [False, True], [True, True]])), "a block"),
        (lambda: flow(held=0.0), "give real=… with it"),
        (lambda: flow(obs_dim=None, observations={"prompt": "x"}), "holds no arrays"),
        (lambda: adapters.functions(wave, None, action_shape=2, obs_dim=1, dtype="int32"),
         "dtype must be one of"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_sentence(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_product_that_nobody_asked_for_is_refused() -> None:
    made = flow(differences=())
    obs, noise = inputs()
    qgf_ref.sample(made, obs, estimator="none", noise=noise)
    with pytest.raises(InputError, match=r"without a vjp: ask for it by differences=\('vjp',\)"):
        qgf_ref.sample(made, obs, estimator="qgf", weight=0.1, noise=noise)
    with pytest.raises(InputError, match="takes no complex arguments"):
        made.field.forward(obs, noise * 1j, 0.0)


class Half:
    """A field of the user's own with nothing but a vjp."""

    action_dim, obs_dim, dtype = 2, 2, np.dtype(float)

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, None]:
        return 0.5 * action, None

    def vjp(self, velocity_bar: Array, cache: None) -> Array:
        return 0.5 * velocity_bar


def test_a_field_without_a_jvp_runs_what_needs_none() -> None:
    critic = qgf_ref.QuadraticCritic(optimum=np.zeros(2), curvature=np.eye(2))
    made = GuidedFlow(Half(), critic, 4)  # type: ignore[arg-type]
    obs = np.zeros((3, 2))
    assert qgf_ref.sample(made, obs, estimator="bptt", weight=0.1, rng=0).shape == (3, 2)
    with pytest.raises(InputError, match="Half has no jvp, which this estimator needs"):
        qgf_ref.sample(made, obs, estimator="qgf_covariance", weight=0.1, rng=0)
