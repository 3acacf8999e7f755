"""Adapters round real PyTorch and JAX functions. Run with `pytest -m peers`.

The networks are those of test_autodiff, written out in each framework in float64; an adapted flow
must give the native one's trace, for every estimator that needs no network of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import adapters
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from tests.conftest import small_checkpoint
from tests.peers.test_autodiff import forward, layers_of

pytestmark = [
    pytest.mark.peers,
    pytest.mark.usefixtures("one_thread", "double_precision", "quick_compilation"),
]
torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

Module: Any = torch.nn.Module
Differentiable: Any = torch.autograd.Function
OWN_NETWORKS = ("oracle", "cfgrl", "robust_q", "qgf_distill", "qgf_jacobian_distill")
ESTIMATORS = [name for name in qgf_ref.estimator_names() if name not in OWN_NETWORKS]
ESTIMATORS += ["qgf+gate=0.3,soft+norm=0.1", "qgf_jacobian+interval=0.3,1+schedule=down+prefix=1/2"]
CHECKPOINT = small_checkpoint(hidden=(8, 7), action_dim=2, steps=3)
AGREEMENT = 1e-9
"""Measured: 2e-12 and less (qgf_covariance, of gradients up to 30), 1e-13 of most."""
FREQUENCIES = 10000 * np.exp(-np.log(10000) * np.arange(8) / 8)


def peer(checkpoint: Checkpoint, lib: Any, convert: Any, concat: Any) -> tuple[Any, Any]:
    """Field and critic of a checkpoint as functions of a framework's arrays."""
    policy = layers_of(checkpoint.policy, convert)
    members = [layers_of(checkpoint.target_critic, convert, e) for e in (0, 1)]
    frequencies = convert(FREQUENCIES)

    def field(obs: Any, a: Any, time: Any) -> Any:
        angle = time[:, None] * frequencies
        x = concat([obs, a, lib.cos(angle), lib.sin(angle)])
        return forward(lib, lib.tanh, policy, x)

    def critic(obs: Any, a: Any) -> Any:
        x = concat([obs, a])
        return lib.stack([forward(lib, lib.tanh, m, x)[:, 0] for m in members])

    return field, critic


def in_torch(checkpoint: Checkpoint) -> GuidedFlow:
    field, critic = peer(checkpoint, torch, torch.tensor, partial(torch.cat, dim=-1))
    return adapters.torch(field, critic, dtype="float64", **described(checkpoint))


def in_jax(checkpoint: Checkpoint) -> GuidedFlow:
    concat = partial(jax.numpy.concatenate, axis=-1)
    field, critic = peer(checkpoint, jax.numpy, jax.numpy.asarray, concat)
    return adapters.jax(field, critic, **described(checkpoint))


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "action_shape": checkpoint.flat_action_dim,
        "obs_dim": checkpoint.obs_dim,
        "denoise_steps": checkpoint.options.denoise_steps,
    }


def inputs(checkpoint: Checkpoint, rows: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    shapes = (rows, checkpoint.obs_dim), (rows, checkpoint.flat_action_dim)
    return rng.standard_normal(shapes[0]), rng.standard_normal(shapes[1])


@pytest.fixture(scope="module", params=["torch", "jax"])
def adapted(request: pytest.FixtureRequest) -> GuidedFlow:
    """Compiled once."""
    jax.config.update("jax_enable_x64", True)
    return {"torch": in_torch, "jax": in_jax}[request.param](CHECKPOINT)


def test_the_trace_is_the_native_networks(adapted: GuidedFlow) -> None:
    obs, noise = inputs(CHECKPOINT)
    for name in ESTIMATORS:
        run = partial(qgf_ref.trace, obs=obs, estimator=name, weight=0.3, noise=noise)
        native, theirs = (run(f).arrays() for f in (CHECKPOINT.flow, adapted))
        for quantity, expected in native.items():
            apart = np.abs(theirs[quantity] - expected).max()
            assert apart <= AGREEMENT, (name, quantity, apart)


def test_products_against_the_native_networks(adapted: GuidedFlow) -> None:
    obs, a = inputs(CHECKPOINT)
    rng = np.random.default_rng(1)
    x, q_bar = rng.standard_normal(a.shape), rng.standard_normal((2, len(a)))
    each = []
    for f in (CHECKPOINT.flow, adapted):
        v, at = f.field.forward(obs, a, 0.4)
        q, there = f.critic.forward(obs, a)
        each.append((
            v, f.field.jvp(x, at), f.field.vjp(x, at), q, f.critic.jvp(x, there),
            f.critic.vjp(q_bar, there), f.critic.hvp(x, q_bar, there), f.critic.vjp(q_bar, there),
        ))  # fmt: skip
    for expected, actual in zip(*each, strict=True):
        assert np.abs(actual - expected).max() <= AGREEMENT


class Attending(Module):
    """A small transformer policy as they are published: tokens of a chunk after a cached prefix,
    the time added to every token, u = noise − action, time 1 is noise.
    """

    def __init__(self, dims: int = 4, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(dims, width)
        self.time = torch.nn.Linear(1, width)
        layer = torch.nn.TransformerEncoderLayer(width, 2, 32, dropout, batch_first=True)
        self.body = torch.nn.TransformerEncoder(layer, 2)
        self.outer = torch.nn.Linear(width, dims)

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        tokens = self.inner(x) + self.time(time.to(x.dtype)[:, None])[:, None]
        seen = self.body(torch.cat([obs["prefix"], tokens], dim=1))
        return self.outer(seen[:, obs["prefix"].shape[1] :])


class Judging(Module):
    """A critic of the three real dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2 + 5 * 3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2)
        )

    def forward(self, obs: Any, x: Any) -> Any:
        return self.net(torch.cat([obs["state"], x.flatten(1)], dim=1)).T


def policy(dtype: Any = torch.float64, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    torch.manual_seed(0)
    obs = {"prefix": torch.randn(6, 3, 16).to(dtype), "state": torch.randn(6, 2).to(dtype)}
    nets = Attending(**options).to(dtype).eval(), Judging().to(dtype).eval()
    return (*nets, obs)


HOW: dict[str, Any] = {
    "action_shape": (5, 4), "real": np.array([True, True, True, False]), "convention": "openpi",
    "denoise_steps": 7,
}  # fmt: skip


def by_hand(field: Any, critic: Any, obs: Any, noise: Any, weight: float, through: bool) -> Any:
    """openpi's loop with guidance added: x += dt·(u − w·∇Q), asked at clip(x − τ·u)."""
    x, dt = noise.clone(), torch.tensor(-1.0 / 7, dtype=torch.float32)
    time = torch.tensor(1.0, dtype=torch.float32)
    while time >= -dt / 2:
        tau = time.to(x.dtype)
        leaf = x.detach().requires_grad_()
        u = field(obs, leaf, tau.expand(len(x)))
        at = (leaf - tau * u).clamp(-1, 1)
        at = at if through else at.detach().requires_grad_()
        q = critic(obs, at[..., :3]).amin(0).sum()
        (g,) = torch.autograd.grad(q, leaf if through else at)
        x = x - (u.detach() - weight * g) / 7
        time = time + dt
    return x.clamp(-1, 1)


@pytest.mark.parametrize("estimator", ["qgf", "qgf_jacobian"])
def test_a_transformer_in_openpis_convention(estimator: str) -> None:
    field, critic, obs = policy()
    flow = adapters.torch(field, critic, observations=obs, **HOW)
    noise = np.random.default_rng(2).standard_normal((6, 20))
    theirs = by_hand(
        field, critic, obs, torch.tensor(noise.reshape(6, 5, 4)), 0.5, estimator != "qgf"
    )
    rows = adapters.row_numbers(6)
    ours = qgf_ref.sample(flow, rows, estimator=estimator, weight=0.5, noise=noise)
    # 1 − t of the core against their float32 τ: 1e-7 of v; measured 4e-8
    assert np.abs(ours - theirs.numpy().reshape(6, 20)).max() < 1e-6
    one = qgf_ref.sample(flow, rows[2:3], estimator=estimator, weight=0.5, noise=noise[2:3])
    assert np.abs(one - ours[2:3]).max() < 1e-12
    for name in ("bptt", "qgf_covariance", "qgf_shifted_taylor"):
        run = qgf_ref.trace(flow, rows, estimator=name, weight=0.1, noise=noise)
        assert np.isfinite(run.action).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_and_half_precision(dtype: Any) -> None:
    noise = np.random.default_rng(3).standard_normal((6, 20))
    runs = []
    for kind in (torch.float64, dtype):
        field, critic, obs = policy(kind)
        flow = adapters.torch(field, critic, observations=obs, check=kind != torch.bfloat16, **HOW)
        rows = adapters.row_numbers(6)
        runs.append(qgf_ref.sample(flow, rows, estimator="qgf", weight=0.5, noise=noise))
    assert runs[1].dtype == np.float32
    # measured 5e-7 and 5e-2
    assert np.abs(runs[1] - runs[0]).max() < (1e-5 if dtype == torch.float32 else 0.3)


def test_differences_on_request() -> None:
    field, critic, obs = policy()
    exact = adapters.torch(field, critic, observations=obs, **HOW)
    differenced = adapters.torch(field, critic, observations=obs, differences=("jvp", "hvp"), **HOW)
    assert differenced.critic.differenced == ("jvp", "hvp")  # type: ignore[attr-defined]
    noise = np.random.default_rng(4).standard_normal((6, 20))
    run = partial(qgf_ref.sample, estimator="qgf_covariance", weight=0.1, noise=noise)
    two = [run(f, adapters.row_numbers(6)) for f in (exact, differenced)]
    assert np.abs(two[0] - two[1]).max() < 1e-6


def called(module: Any, obs: Any, x: Any, time: Any) -> Any:
    return module(obs, x, time)


class Half(Differentiable):
    """2x, whose backward has no backward of its own and no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g


def once(obs: Any, x: Any, time: Any) -> Any:
    return Half.apply(x)


def frozen(obs: Any, x: Any, time: Any) -> Any:
    with torch.no_grad():
        return -x


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f, q, s: f.train(), "the field is in training mode"),
        (lambda f, q, s: partial(called, f.train()), "the field is in training mode"),
        (lambda f, q, s: lambda obs, x, t: x.numpy(), "raised RuntimeError|must return a tensor"),
        (lambda f, q, s: lambda obs, x, t: x + torch.randn_like(x), "when it is called again"),
        (
            lambda f, q, s: lambda obs, x, t: x - x.mean(0),
            "a row other numbers where the other rows",
        ),
        (lambda f, q, s: lambda obs, x, t: x[:, :2], "returned shape"),
    ],
)
def test_bad_input_is_one_clear_sentence(make: Callable[..., Any], says: str) -> None:
    field, critic, obs = policy(dropout=0.5)
    with pytest.raises(InputError, match=says):
        adapters.torch(make(field, critic, obs), critic, observations=obs, **HOW)
    field.eval()


def test_missing_products_say_what_to_do() -> None:
    _, critic, obs = policy()
    noise = np.zeros((6, 20))
    rows = adapters.row_numbers(6)
    run = partial(qgf_ref.sample, obs=rows, weight=0.1, noise=noise)
    flow = adapters.torch(once, critic, observations=obs, dtype="float64", **HOW)
    with pytest.raises(InputError, match=r"has no jvp in PyTorch .*differences=\('jvp',\)"):
        run(flow, estimator="qgf_covariance")
    flow = adapters.torch(frozen, critic, observations=obs, dtype="float64", **HOW)
    assert run(flow, estimator="qgf").shape == (6, 20)
    with pytest.raises(InputError, match="carries no gradient: it runs under"):
        run(flow, estimator="qgf_jacobian")
    with pytest.raises(InputError, match="device"):
        adapters.torch(policy()[0], critic, observations=obs, device="meta", **HOW)


def test_jax_says_what_to_do() -> None:
    def pythonic(obs: Any, x: Any, time: Any) -> Any:
        return x * float(time[0])

    with pytest.raises(InputError, match="jit=False"):
        adapters.jax(pythonic, None, action_shape=3, obs_dim=2)
    flow = adapters.jax(pythonic, None, action_shape=3, obs_dim=2, jit=False)
    assert flow.field.forward(np.zeros((1, 2)), np.ones((1, 3)), 0.5)[0].tolist() == [[0.5] * 3]
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(InputError, match="float64 is off in JAX"):
        adapters.jax(pythonic, None, action_shape=3, obs_dim=2, dtype="float64")


def test_the_page_runs_and_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    jax.config.update("jax_enable_x64", False)
    page = (Path(adapters.__file__).parent / "README.md").read_text()
    scope: dict[str, Any] = {"__name__": "page"}
    for language, block in re.findall(
        r"^```(python|text)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE
    ):
        if language == "python":
            exec(compile(block, "adapters/README.md", "exec"), scope)
        elif not block.startswith("$ "):  # of a command, it is a result
            assert capsys.readouterr().out == block


def test_lerobots_prefix_guidance_leaves_the_jacobian_out() -> None:
    """Its step in its own words of autograd: x requires a gradient only after v was computed.

    On an adapted field it is `qgf` with the prefix critic to 1e-12; with the Jacobian, it is not.
    """
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    net = net.double().eval()

    def field(obs: Any, x: Any, time: Any) -> Any:  # u = noise − action, time 1 is noise
        return net(torch.cat([x, time[:, None]], dim=1))

    T, weights = 6, torch.tensor(qgf_ref.prefix_weights(1, 3, 4))
    rng = np.random.default_rng(0)
    noise, y = rng.standard_normal((2, 3, 4))

    def theirs(late: bool) -> Array:
        x, left = torch.tensor(noise), torch.tensor(y)
        for k in range(T):
            time = torch.tensor(1 - k / T, dtype=torch.float64)
            x = x.clone().detach().requires_grad_(not late)
            u = field(None, x, time.expand(len(x)))
            x.requires_grad_(True)
            ahead = x - time * u
            (correction,) = torch.autograd.grad(ahead, x, ((left - ahead) * weights).detach())
            inverse = (time**2 + (1 - time) ** 2) / time**2
            factor = torch.nan_to_num(time / (1 - time), posinf=10.0) * inverse
            x = x - (u - torch.clamp(factor, max=10.0) * correction) / T
        return np.asarray(x.detach().numpy())

    exact = qgf_ref.Convention("lerobot's, in float64", noise_time=1, velocity_to="noise")
    flow = qgf_ref.prefix_flow(
        adapters.torch(
            field, dtype="float64", action_shape=4, obs_dim=0, denoise_steps=T, convention=exact
        ),
        weights.numpy(),
    )
    for late, how in ((True, "qgf"), (False, "qgf_jacobian_unmasked")):
        ours = qgf_ref.sample(
            flow, y, estimator=f"{how}+schedule=rtc,10", weight=1.0, noise=noise.copy()
        )
        np.testing.assert_allclose(ours, theirs(late), rtol=0, atol=1e-12)
        assert np.abs(ours - theirs(not late)).max() > 1e-2
