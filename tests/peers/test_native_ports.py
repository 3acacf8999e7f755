"""Agents as public PyTorch ports write them, saved as a state dict and loaded as our own networks.

The oracle is PyTorch: its modules' forward, and a sampler of its own autodiff round them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.audit.run import audit
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import estimator

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
nn = torch.nn

O, D, T, HIDDEN = 4, 3, 5, (9, 9, 9)
SAMPLER: dict[str, Any] = {
    "q_aggregation": "min", "denoise_steps": T, "horizon_length": 1, "action_chunking": True,
}  # fmt: skip
FORWARD = {torch.float64: 1e-12, torch.float32: 2e-5}
SAMPLES = {torch.float64: 1e-12, torch.float32: 1e-4}
"""Of the first network that is compared, 1e-15 and 7e-7 are measured; samples add up T steps."""


def sequential(inputs: int, outputs: int, order: str, activation: Callable[[], Any]) -> Any:
    """Linear, then what `order` says: a the activation, n a LayerNorm (1e-5, PyTorch's own)."""
    layers: list[Any] = []
    for width in HIDDEN:
        layers.append(nn.Linear(inputs, width))
        layers += [activation() if kind == "a" else nn.LayerNorm(width) for kind in order]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Residual(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """Linear to the hidden width, then h + mish(norm(linear(h))), then linear."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = HIDDEN[0]
        self.inner = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width))
        self.residual_blocks = nn.ModuleList(
            nn.ModuleDict({"linear": nn.Linear(width, width), "norm": nn.LayerNorm(width)})
            for _ in range(2)
        )
        self.outer = nn.Linear(width, outputs)

    def forward(self, x: Any) -> Any:
        h = nn.functional.mish(self.inner(x))
        for block in self.residual_blocks:
            h = h + nn.functional.mish(block["norm"](block["linear"](h)))
        return self.outer(h)


class Ensemble(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """Members apart, on [s, a]."""

    def __init__(self, order: str, activation: Callable[[], Any]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(sequential(O + D, 1, order, activation) for _ in range(2))

    def forward(self, x: Any) -> Any:
        return torch.stack([net(x)[:, 0] for net in self.nets])


@dataclass
class Port:
    """policy reads the columns that `joined` makes of s, a and t; options: what its file lacks."""

    policy: Callable[[], Any]
    critic: Callable[[], Any]
    options: dict[str, Any]
    joined: Callable[..., tuple[Any, ...]] = lambda s, a, t: (s, a, t)
    names: tuple[str, str, str] = ("actor", "critic", "target_critic")
    value: Callable[[], Any] | None = None
    wrong: tuple[dict[str, Any], ...] = ()
    refused: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict)

    def modules(self, seed: int = 0) -> Any:
        """The agent; LayerNorms and biases not at their initial values."""
        torch.manual_seed(seed)
        made = {
            name: make()
            for name, make in zip(
                (*self.names, "value"), (self.policy, self.critic, self.critic, self.value)
            )
            if make is not None
        }
        modules = nn.ModuleDict(made)
        with torch.no_grad():
            for parameter in modules.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return modules


PORTS = {
    # flow Q-learning ports: one column of time, GELU with erf, LayerNorm behind it, in critics only
    "fql": Port(
        lambda: sequential(O + D + 1, D, "a", nn.GELU),
        lambda: Ensemble("an", nn.GELU),
        {"activation": "gelu_erf", "layer_norm_eps": 1e-5, "policy_inputs": "obs,action,raw_time",
         "norm_after_activation": "critic"},
        names=("actor_bc_flow", "critic", "critic_target"),
        wrong=({"layer_norm_eps": None}, {"activation": "gelu"},
               {"policy_inputs": "action,obs,raw_time"}),
        refused={
            "the order is seen": (
                {"norm_after_activation": None},
                r"the critic: .*between critic\.nets\.0\.0 and .*--norm-after-activation critic ",
            ),
            "the width is seen": (
                {"policy_inputs": None},
                r"That fits a time that is one column: --policy-inputs obs,action,raw_time",
            ),
            "no LayerNorm": (
                {"norm_after_activation": "critic,policy"}, "policy, but the policy has no LayerN",
            ),
        },
    ),
    # a critic of another activation, LayerNorm on every hidden layer of the policy
    "iql": Port(
        lambda: sequential(O + D + 1, D, "na", nn.SiLU),
        lambda: Ensemble("a", nn.ReLU),
        {"activation": "silu,critic=relu,value=relu", "layer_norm_eps": 1e-5,
         "policy_inputs": "action,raw_time,obs"},
        joined=lambda s, a, t: (a, t, s),
        value=lambda: sequential(O, 1, "a", nn.ReLU),
        wrong=({"activation": "silu"}, {"layer_norm_eps": 1e-6}, {"residual": "policy"},
               {"policy_inputs": "obs,action,raw_time"}),
        refused={
            "the order is seen": (
                {"norm_after_activation": "all"},
                r"the policy: .*where nothing follows a LayerNorm with norm_after_activation",
            ),
        },
    ),
    # residual blocks beside a plain critic
    "residual": Port(
        lambda: Residual(O + D + 1, D),
        lambda: Ensemble("na", nn.ELU),
        {"activation": "mish,critic=elu", "layer_norm_eps": 1e-5, "residual": "policy",
         "policy_inputs": "obs,action,raw_time"},
        wrong=({"residual": "none"}, {"residual": "all"}, {"norm_after_activation": "policy"}),
        refused={
            "asked": (
                {"residual": None},
                r"residual blocks by its names \(actor\.residual_blocks\.0\).*--residual policy",
            ),
        },
    ),
}  # fmt: skip


def saved(port: Port, path: Path) -> tuple[Any, Path]:
    """The port's modules, and the file of their state."""
    modules = port.modules()
    torch.save(modules.state_dict(), path)
    return modules, path


def theirs(port: Port, modules: Any, obs: Array, noise: Array, weight: float, dtype: Any) -> Array:
    """Algorithm 1 of the paper as a PyTorch user writes it."""
    modules = modules.to(dtype)
    policy, _, critic = (modules[name] for name in port.names)
    s, a = torch.as_tensor(obs, dtype=dtype), torch.as_tensor(noise, dtype=dtype)
    for k in range(T):
        t = torch.full((len(s), 1), k / T, dtype=dtype)
        v = policy(torch.cat(port.joined(s, a, t), -1)).detach()
        query = (a + (1 - t) * v).clamp(-1, 1).requires_grad_()
        q = critic(torch.cat([s, query], -1)).min(0).values
        a = a + (v + weight * torch.autograd.grad(q.sum(), query)[0]) / T
    return np.asarray(a.clamp(-1, 1).detach())


def states(dtype: Any = torch.float64) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    real = np.float32 if dtype == torch.float32 else np.float64
    return rng.standard_normal((6, O)).astype(real), rng.standard_normal((6, D)).astype(real)


def forwards(port: Port, modules: Any, ck: Checkpoint, dtype: Any) -> list[tuple[Array, Array]]:
    """(theirs, ours) of every network."""
    modules, (obs, a), time = modules.to(dtype), states(dtype), 0.6
    s, x = torch.as_tensor(obs), torch.as_tensor(a)
    t = torch.full((len(s), 1), time, dtype=dtype)
    policy, *critics = (modules[name] for name in port.names)
    pairs = [(policy(torch.cat(port.joined(s, x, t), -1)), ck.flow.field.forward(obs, a, time)[0])]
    for module, name in zip(critics, ("critic", "target_critic")):
        pairs.append((module(torch.cat([s, x], -1)), ck.network(name).forward(obs, a)[0]))
    if port.value is not None:
        pairs.append((modules["value"](s)[:, 0], ck.network("value").forward(obs)[0]))
    return [(np.asarray(their.detach()), our) for their, our in pairs]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", PORTS)
def test_a_port_is_our_own_network(name: str, dtype: Any, tmp_path: Path) -> None:
    port = PORTS[name]
    modules, path = saved(port, tmp_path / "agent.pt")
    ck = qgf_ref.load(path, dtype=str(dtype).removeprefix("torch."), **port.options, **SAMPLER)
    for expected, actual in forwards(port, modules, ck, dtype):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=FORWARD[dtype])
    obs, noise = states(dtype)
    for weight in (0.0, 0.3):
        expected = theirs(port, modules, obs, noise, weight, dtype)
        for backend in ("numpy", "numba"):
            actual = qgf_ref.sample(
                ck.flow, obs, noise=noise, estimator="qgf", weight=weight, backend=backend
            )
            np.testing.assert_allclose(actual, expected, rtol=0, atol=SAMPLES[dtype])


@pytest.mark.parametrize("name", PORTS)
def test_wrong_options_are_refused_or_differ(name: str, tmp_path: Path) -> None:
    port = PORTS[name]
    modules, path = saved(port, tmp_path / "agent.pt")
    obs, noise = states()
    expected = theirs(port, modules, obs, noise, 0.3, torch.float64)
    for wrong in port.wrong:
        ck = qgf_ref.load(path, **{**port.options, **SAMPLER, **wrong})
        actual = qgf_ref.sample(ck.flow, obs, noise=noise, estimator="qgf", weight=0.3)
        assert np.abs(actual - expected).max() > 1e-7, wrong
    for given, message in port.refused.values():
        with pytest.raises(InputError, match=message):
            qgf_ref.load(path, **{**port.options, **SAMPLER, **given})


@pytest.mark.parametrize("name", PORTS)
def test_conversion_keeps_all_of_it(name: str, tmp_path: Path) -> None:
    """To every format and back, from the command line; the audit of what comes out passes."""
    port = PORTS[name]
    _, path = saved(port, tmp_path / "agent.pt")
    options = {**port.options, **SAMPLER, "action_chunking": None}
    words = [w for n, v in options.items() if v for w in (f"--{n.replace('_', '-')}", str(v))]
    first = qgf_ref.load(path, **port.options, **SAMPLER)
    source, flags = path, [*words, "--action-chunking"]
    for target in ("a.safetensors", "d", "a.npz", "a.msgpack", "b.pt", "z.safetensors"):
        assert main(["convert", str(source), str(tmp_path / target), *flags]) == 0
        source, flags = tmp_path / target, []
        ck = qgf_ref.load(source)
        assert ck.options == first.options and ck.describe() | {"source": ""} == (
            first.describe() | {"source": ""}
        )
        for part, params in first.params.items():
            for ours, again in zip(params.arrays(), ck.params[part].arrays(), strict=True):
                np.testing.assert_array_equal(ours, again)
    obs = np.random.default_rng(0).standard_normal((8, O))
    report = audit(ck, obs, [estimator("qgf")], rows=4, backend="numpy")
    assert report.passed
