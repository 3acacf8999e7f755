"""What an adapter costs beside its framework's own loop of the same calls, interleaved.

    python benchmarks/adapter_overhead.py    # two minutes; results/adapter_overhead.{json,md}

A transformer of 4 layers, 128 wide, 16 prefix and 16 chunk tokens, B = 8, T = 5; one thread, and
time of the process, which other processes do not add to, though they take its caches: the least of
all runs is the work itself, the median what it came to beside them. The same calls: a forward of
the field (with what its vjp needs where there is one), the critic's gradient, a vjp of the field,
each compiled by itself in JAX. Beside them what JAX makes of a whole step of `qgf_jacobian` as one
program, which nobody can who is asked for the pieces. Needs PyTorch and JAX (`peers`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import qgf_ref  # noqa: E402
from qgf_ref import adapters  # noqa: E402
from qgf_ref.arrays import Array  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
B, H, A, WIDTH, LAYERS, PREFIX, T, WEIGHT = 8, 16, 8, 128, 4, 16, 5, 0.5
ESTIMATORS = ("none", "qgf", "qgf_jacobian")
FUSED = "qgf_jacobian, each step one program"
PAIRS = 40
Loop = Callable[[str], Array]


class TorchPolicy(torch.nn.Module):
    """Chunk tokens after a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.time = torch.nn.Linear(A, WIDTH), torch.nn.Linear(1, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.outer = torch.nn.Linear(WIDTH, A)

    def forward(self, obs: Any, x: Any, time: Any) -> Any:
        """(B, H, A)."""
        tokens = self.inner(x) + self.time(time[:, None])[:, None]
        return self.outer(self.body(torch.cat([obs["prefix"], tokens], 1))[:, PREFIX:])


class TorchCritic(torch.nn.Module):
    """Two members."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (H * A, 256, 256, 2)
        layers = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
        self.net = torch.nn.Sequential(
            layers[0], torch.nn.SiLU(), layers[1], torch.nn.SiLU(), layers[2]
        )

    def forward(self, obs: Any, x: Any) -> Any:
        """(2, B)."""
        return self.net(x.flatten(1)).T


def noise() -> Array:
    """(B, D)."""
    return np.random.default_rng(0).standard_normal((B, H * A)).astype(np.float32)


def in_torch() -> tuple[Any, Loop]:
    """The adapted flow, and PyTorch's own loop: gradients only where they are needed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy, critic = TorchPolicy().eval(), TorchCritic().eval()
    obs = {"prefix": torch.randn(B, PREFIX, WIDTH)}
    start = torch.tensor(noise()).reshape(B, H, A)

    def loop(estimator: str) -> Array:
        x = start
        for k in range(T):
            time = torch.full((B,), k / T)
            through = estimator == "qgf_jacobian"
            leaf = x.detach().requires_grad_(through)
            with torch.set_grad_enabled(through):
                v = policy(obs, leaf, time)
                at = (leaf + (1 - k / T) * v).clamp(-1, 1)
            g: Any = 0.0
            if estimator != "none":
                at = at if through else at.requires_grad_()
                q = critic(obs, at).amin(0).sum()
                (g,) = torch.autograd.grad(q, leaf if through else at)
            x = x + (v.detach() + WEIGHT * g) / T
        return np.asarray(x.clamp(-1, 1)).reshape(B, -1)

    flow = adapters.torch(policy, critic, action_shape=(H, A), observations=obs, denoise_steps=T)
    return flow, loop


def in_jax() -> tuple[Any, Loop]:
    """The same in JAX, its own loop of jitted calls."""
    keys = iter(jax.random.split(jax.random.key(0), 64))

    def dense(i: int, o: int) -> Any:
        return jax.random.normal(next(keys), (i, o)) / np.sqrt(i)

    inner, clock, outer = dense(A, WIDTH), dense(1, WIDTH), dense(WIDTH, A)
    blocks = [
        (
            dense(WIDTH, 3 * WIDTH),
            dense(WIDTH, WIDTH),
            dense(WIDTH, 4 * WIDTH),
            dense(4 * WIDTH, WIDTH),
        )
        for _ in range(LAYERS)
    ]
    heads = [dense(H * A, 256), dense(256, 256), dense(256, 2)]

    def normed(h: Any) -> Any:
        return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)

    def field(obs: Any, x: Any, time: Any) -> Any:
        h = jnp.concatenate([obs["prefix"], x @ inner + time[:, None, None] * clock], 1)
        for qkv, mix, up, down in blocks:
            parts = (normed(h) @ qkv).reshape(*h.shape[:2], 3, 4, WIDTH // 4)
            query, key, value = (parts[:, :, i].swapaxes(1, 2) for i in range(3))
            weights = jax.nn.softmax(query @ key.swapaxes(2, 3) / np.sqrt(WIDTH // 4))
            h = h + (weights @ value).swapaxes(1, 2).reshape(h.shape) @ mix
            h = h + jax.nn.gelu(normed(h) @ up) @ down
        return h[:, PREFIX:] @ outer

    def critic(obs: Any, x: Any) -> Any:
        h = x.reshape(len(x), -1)
        return (jax.nn.silu(jax.nn.silu(h @ heads[0]) @ heads[1]) @ heads[2]).T

    obs = {"prefix": jax.random.normal(next(keys), (B, PREFIX, WIDTH))}
    start = jnp.asarray(noise()).reshape(B, H, A)

    def value(x: Any) -> Any:
        return critic(obs, x).min(0).sum()

    def through(x: Any, time: Any) -> tuple[Any, Any]:
        def phi(z: Any) -> Any:
            v = field(obs, z, time)
            return value(jnp.clip(z + (1 - time[:, None, None]) * v, -1, 1)), v

        g, v = jax.grad(phi, has_aux=True)(x)
        return v, g

    forward, gradient, fused = (
        jax.jit(lambda x, t: field(obs, x, t)),
        jax.jit(jax.grad(value)),
        jax.jit(through),
    )
    linearised = jax.jit(lambda x, t: jax.vjp(lambda z: field(obs, z, t), x))
    pulled = jax.jit(lambda pull, bar: pull(bar)[0])

    def loop(estimator: str) -> Array:
        x = start
        for k in range(T):
            time = jnp.full((B,), k / T)
            g: Any = 0.0
            if estimator == FUSED:
                v, g = fused(x, time)
            elif estimator == "qgf_jacobian":
                v, pull = linearised(x, time)
                mean = x + (1 - k / T) * v
                bar = jnp.where(jnp.abs(mean) < 1, gradient(jnp.clip(mean, -1, 1)), 0)
                g = bar + pulled(pull, (1 - k / T) * bar)
            else:
                v = forward(x, time)
                if estimator == "qgf":
                    g = gradient(jnp.clip(x + (1 - k / T) * v, -1, 1))
            x = x + (v + WEIGHT * g) / T
        return np.asarray(jnp.clip(x, -1, 1)).reshape(B, -1)

    flow = adapters.jax(field, critic, action_shape=(H, A), observations=obs, denoise_steps=T)
    return flow, loop


def measured(flow: Any, loop: Loop, own_loop: str) -> dict[str, float]:
    """Seconds of a chain: the least of interleaved runs, the median of their ratios, and how far
    the results are apart.
    """
    rows, estimator = adapters.row_numbers(B), own_loop.partition(",")[0]

    def ours() -> Array:
        weight = None if estimator == "none" else WEIGHT
        return qgf_ref.sample(flow, rows, estimator=estimator, weight=weight, noise=noise())

    apart = float(np.abs(ours() - loop(own_loop)).max())
    times: dict[str, list[float]] = {"own": [], "adapter": []}
    contenders: list[tuple[str, Callable[[], Array]]] = [
        ("own", lambda: loop(own_loop)),
        ("adapter", ours),
    ]
    for _ in range(PAIRS):
        contenders.reverse()  # neither always finds what the other left in the caches
        for name, run in contenders:
            begun = time.process_time()
            run()
            times[name].append(time.process_time() - begun)
    own, adapter = (min(times[name]) for name in ("own", "adapter"))
    median = statistics.median(a / o for a, o in zip(times["adapter"], times["own"], strict=True))
    return {
        "own": own, "adapter": adapter, "ratio": adapter / own, "median": median, "apart": apart,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    pairs = {"PyTorch": in_torch(), "JAX": in_jax()}
    loops = {"PyTorch": ESTIMATORS, "JAX": (*ESTIMATORS, FUSED)}
    report = {name: {e: measured(*pairs[name], e) for e in loops[name]} for name in pairs}
    lines = [
        "| | own loop, ms | adapter, ms | ratio | median ratio | more a step, ms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name}, {e} | {1e3 * m['own']:.0f} | {1e3 * m['adapter']:.0f} | {m['ratio']:.2f} | "
        f"{m['median']:.2f} | {1e3 * (m['adapter'] - m['own']) / T:.2f} |"
        for name, by_estimator in report.items()
        for e, m in by_estimator.items()
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    # first, since a table of its own that is new would be a change
    write_json(RESULTS / "adapter_overhead.json", {**report, **provenance()})
    write_atomically(RESULTS / "adapter_overhead.md", text.encode())
    return 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
