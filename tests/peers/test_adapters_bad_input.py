"""What was wrong in somebody's first hour with PyTorch's and JAX's adapters. `pytest -m peers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import adapters
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread", "quick_compilation")]
torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp: Any = jax.numpy if not isinstance(jax, pytest.MarkDecorator) else None

Module: Any = torch.nn.Module
HOW: dict[str, Any] = {"action_shape": 3, "obs_dim": 2, "denoise_steps": 4}
torch.manual_seed(0)
LINEAR = torch.nn.Linear(6, 3).eval()
MATRIX = LINEAR.weight.detach().numpy().T
COUNT, RNG = iter(range(99)), np.random.default_rng(0)
DROP = torch.nn.Sequential(torch.nn.Dropout(0.5))


def joined(o: Any, x: Any, t: Any) -> Any:
    return torch.cat([o, x, t[:, None]], 1)


def f(o: Any, x: Any, t: Any) -> Any:
    return LINEAR(joined(o, x, t)).tanh()


def q(o: Any, x: Any) -> Any:
    return -(x**2).sum(1)


def g(o: Any, x: Any, t: Any) -> Any:
    return jnp.tanh(jnp.concatenate([o, x, t[:, None]], 1) @ MATRIX)


def written(o: Any, x: Any, t: Any) -> Any:
    o.mul_(2)
    return f(o, x, t)


class Hidden(Module):
    """A BatchNorm that .eval() does not find."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = {"first": torch.nn.BatchNorm1d(3)}

    def forward(self, o: Any, x: Any, t: Any) -> Any:
        return self.norms["first"](f(o, x, t))


class Policy:
    """No module, but holds some."""

    def __init__(self, *modules: Any) -> None:
        self.model, self.unused = modules[0], torch.nn.Dropout(0.5)

    def velocity(self, o: Any, x: Any, t: Any) -> Any:
        return self.model(joined(o, x, t))

    def __call__(self, o: Any, x: Any, t: Any) -> Any:
        return self.velocity(o, x, t)


def in_torch(field: Any = f, critic: Any = q, **settings: Any) -> GuidedFlow:
    return adapters.torch(field, critic, **{**HOW, **settings})


def in_jax(field: Any = g, critic: Any = q, **settings: Any) -> GuidedFlow:
    return adapters.jax(field, critic, **{**HOW, **settings})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: in_torch(lambda o, x, t: DROP(f(o, x, t))), "in training mode .Sequential, 0"),
        (lambda: in_torch(Policy(DROP).velocity), "in training mode .Sequential"),
        (lambda: in_torch(Policy(DROP)), "in training mode .Sequential"),
        (lambda: in_torch(lambda o, x, t: torch.dropout(f(o, x, t), 0.5, True)), "called again"),
        (lambda: in_torch(Hidden().eval()), "where the other rows are others"),
        (lambda: in_torch(torch.nn.Linear), "a module or a function, got the class Linear"),
        (lambda: in_torch(lambda x, t: x), r"it is called as f\(obs, x, τ\)"),
        (lambda: in_torch(lambda o, x, t: f(o, x, t).long()), "must return real numbers, it ret"),
        (lambda: in_torch(lambda o, x, t: f(o, x, t) + 0j), "it returned complex64"),
        (lambda: in_torch(lambda o, x, t: f(o, x, t) * np.nan), "NaN or infinity"),
        (lambda: in_torch(lambda o, x, t: f(o, x, t).to("meta")), "returned a tensor on meta"),
        (lambda: in_torch(written), "the field writes into its observations in place"),
        (lambda: in_torch(critic=lambda o, x: (x * 0 * x + x.detach()).sum(1)), "is 0 though its"),
        (lambda: in_torch(critic=lambda o, x: torch.stack([q(o, x)] * 3, 1)), "transpose it"),
        (lambda: in_torch(device="foo"), "device must be one of PyTorch's, got 'foo'"),
        (lambda: in_torch(device="meta"), "device"),
        (lambda: in_torch(torch.nn.Linear(1, 1, device="meta").eval()), "on the meta device"),
        (lambda: in_torch(dtype=torch.int64), "dtype must be one of float32, float64"),
        (lambda: in_torch(dtype="float64"), "given float64, its parameters are float32: see dtype"),
        (lambda: in_jax(lambda o, x, t: x + RNG.standard_normal(3)), "each time it is traced"),
        (lambda: in_jax(lambda o, x, t: x * next(COUNT)), "each time it is traced"),
        (lambda: in_jax(lambda o, x, t: x - x.mean(0)), "where the other rows are others"),
        (lambda: in_jax(lambda o, x, t: g(o, x, t) * np.nan), "NaN or infinity"),
        (lambda: in_jax(lambda o, x, t: x.astype(int)), "real numbers, it returned int"),
        (lambda: in_jax(lambda o, x, t: (x, 1)), "must return an array, it returned tuple"),
        (lambda: in_jax(lambda o, x, t: x[:, :2]), "returned shape"),
        (lambda: in_jax(critic=lambda o, x: jax.lax.stop_gradient(q(o, x))), "is 0 though its"),
        (lambda: in_jax(critic=lambda o, x: jnp.sqrt(x * 0).sum(1)), "gradient is NaN or infinite"),
        (lambda: in_jax(lambda o, x, t: f(o, x, t)), "jit=False"),
    ],
)  # fmt: skip
def test_one_sentence(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_modules_are_found_behind_methods_and_the_widest_parameter_tells_the_dtype() -> None:
    double = torch.nn.Linear(6, 3).double().eval()
    for field in (Policy(double).velocity, Policy(double)):
        assert in_torch(field, None).field.dtype == np.float64

    class Mixed(Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 4).bfloat16()
            self.head = torch.nn.Linear(8, 3)

        def forward(self, o: Any, x: Any, t: Any) -> Any:
            seen = self.first(o.bfloat16()).float()
            return self.head(torch.cat([seen, x, t[:, None]], 1))

    module = Mixed().eval()
    obs, noise = np.ones((4, 2)), np.linspace(-1, 1, 12).reshape(4, 3)
    ours = qgf_ref.sample(
        in_torch(module, None, action_bound=None), obs, estimator="none", noise=noise
    )
    x = torch.tensor(noise, dtype=torch.float32)
    with torch.no_grad():
        for k in range(4):
            x = x + module(torch.ones(4, 2), x, torch.full((4,), k / 4)) / 4
    assert np.abs(ours - x.numpy()).max() < 1e-6  # 6e-4 where x is rounded to the first one's dtype


def test_products_that_fail_say_so() -> None:
    def spoiled(o: Any, x: Any, t: Any) -> Any:
        y = f(o, x, t).exp()
        z = y**2
        y.mul_(2)
        return z

    obs = np.ones((2, 2))
    with pytest.raises(InputError, match="the vjp of the field raised RuntimeError: one of the"):
        qgf_ref.sample(in_torch(spoiled), obs, estimator="qgf_jacobian", weight=1.0, rng=0)

    def looping(o: Any, x: Any, t: Any) -> Any:
        start = jnp.zeros(()), x
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 0.9), start)[1]

    with pytest.raises(InputError, match=r"has no vjp in JAX .*differences=\('vjp',\)"):
        qgf_ref.sample(in_jax(looping), obs, estimator="qgf_jacobian", weight=1.0, rng=0)


def test_jax_without_a_forward_mode_or_without_a_gradient() -> None:
    @jax.custom_vjp
    def own(x: Any) -> Any:
        return jnp.sin(x)

    own.defvjp(lambda x: (own(x), x), lambda x, y_bar: (y_bar * jnp.cos(x),))
    a = np.array([[0.3, -0.2, 1.0]])
    x_dot = np.array([[1.0, 2.0, -1.0]])
    flow = in_jax(lambda o, x, t: own(x), lambda o, x: own(x).sum(1))
    v, cache = flow.field.forward(np.ones((1, 2)), a, 0.5)
    assert np.allclose(flow.field.jvp(x_dot, cache), np.cos(a) * x_dot, atol=1e-6)
    _, at = flow.critic.forward(np.ones((1, 2)), a)
    hvp = flow.critic.hvp(x_dot, np.ones((1, 1)), at)
    assert np.allclose(hvp, -np.sin(a) * x_dot, atol=1e-6)

    def called_back(o: Any, x: Any, t: Any) -> Any:
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    plain = in_jax(called_back, differences=("vjp", "jvp"))
    v, cache = plain.field.forward(np.ones((1, 2)), a, 0.5)
    assert np.allclose(v, np.tanh(a), atol=1e-6)
    assert np.allclose(plain.field.vjp(x_dot, cache), x_dot / np.cosh(a) ** 2, atol=2e-3)


def test_half_precision_of_jax_is_carried_on() -> None:
    half = in_jax(lambda o, x, t: g(o, x, t).astype(jnp.bfloat16))
    noise = np.linspace(-1, 1, 6).reshape(2, 3)
    runs = [
        qgf_ref.sample(flow, np.ones((2, 2)), estimator="qgf_jacobian", weight=0.5, noise=noise)
        for flow in (half, in_jax())
    ]
    assert np.abs(runs[0] - runs[1]).max() < 0.05
    assert half.field.base.precision == "bfloat16"  # type: ignore[attr-defined]


def test_a_callers_inference_mode_does_not_matter() -> None:
    """openpi's and lerobot's policies run under one."""
    flow = in_torch()
    run = lambda: qgf_ref.sample(flow, np.ones((2, 2)), estimator="bptt", weight=1.0, rng=0)  # noqa: E731
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert np.array_equal(run(), run())
            inside = run()
        assert np.array_equal(inside, run())


def test_the_next_observation_compiles_nothing_again() -> None:
    """Another array under the same name of the dict that the adapter was given."""
    traced: list[int] = []

    def field(o: Any, x: Any, t: Any) -> Any:
        traced.append(1)
        return x * 0 + o["state"]

    batch = {"state": np.zeros((1, 3), np.float32)}
    flow = adapters.jax(field, None, action_shape=3, observations=batch, denoise_steps=4)
    row = np.zeros((1, 1))
    qgf_ref.sample(flow, row, estimator="none", rng=0)
    before, noise = len(traced), np.zeros((1, 3))
    for n in range(3):
        batch["state"] = np.full((1, 3), n / 4, np.float32)
        action = qgf_ref.sample(flow, row, estimator="none", noise=noise)
        assert np.allclose(action, n / 4)
    assert len(traced) == before


@pytest.mark.parametrize("build", [in_torch, in_jax])
def test_nothing_is_kept_for_a_vjp_that_is_not_asked_for(build: Callable[..., GuidedFlow]) -> None:
    flow = build()
    kept: list[bool] = []
    function = flow.field.base.function  # type: ignore[attr-defined]
    lean = flow.field.forward_only()  # type: ignore[attr-defined]
    assert lean.base.function is not function
    a, obs = np.linspace(-1, 1, 6).reshape(2, 3), np.ones((2, 2))
    for field in (flow.field, lean):
        _, cache = field.forward(obs, a, 0.5)
        kept.append(cache.pull is not None if build is in_jax else bool(cache.y.requires_grad))
        expected = flow.field.vjp(a, flow.field.forward(obs, a, 0.5)[1])
        assert np.allclose(field.vjp(a, cache), expected, rtol=0, atol=1e-6)
        assert np.allclose(
            field.jvp(a, cache), flow.field.jvp(a, flow.field.forward(obs, a, 0.5)[1])
        )
    assert kept == [True, False]
