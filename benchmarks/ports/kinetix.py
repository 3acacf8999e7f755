"""Physical Intelligence's real-time chunking on Kinetix: an MLP-mixer policy in JAX (flax.nnx)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np

import qgf_ref
from benchmarks.ports.sources import NoSource, importing, pinned
from benchmarks.ports.trials import ROWS, STEPS, Trial
from qgf_ref import adapters
from qgf_ref.arrays import Array

KINETIX = pinned("Physical-Intelligence/real-time-chunking-kinetix")
H, A, OBS = 4, 3, 5
MOST, DELAY, EXECUTED = 5.0, 1, 3
CHUNKING = f"+schedule=rtc,{MOST:g}"


def policy(folder: Path) -> tuple[Any, Any]:
    """Their module, and a small random policy. Raises NoSource without einops, which it imports."""
    try:
        import_module("einops")
    except ImportError as error:
        raise NoSource(f"{KINETIX.repository} needs einops: pip install einops") from error
    with importing(KINETIX.written(folder)):
        model = import_module("model")

    class Marked(model.FlowPolicy):  # type: ignore[name-defined]
        """Flax 0.12 refuses a list of modules as it stands in their `__init__`."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, nnx.List(value) if type(value) is list else value)

    net = Marked(
        obs_dim=OBS, action_dim=A, config=model.ModelConfig(16, 32, 8, 1, H), rngs=nnx.Rngs(0)
    )
    # its gates begin at 0, and would let nothing through
    leaves, tree = jax.tree.flatten(nnx.state(net, nnx.Param))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    nnx.update(net, jax.tree.unflatten(tree, moved))
    return model, net


def injected(noise: Array, call: Callable[[Any], Any]) -> Array:
    """The answer of a method of theirs, that draws its own noise, begun at this one (B, H·A)."""
    own, jax.random.normal = jax.random.normal, lambda key, shape: jnp.reshape(noise, shape)
    try:
        return np.asarray(call(jax.random.key(0))).reshape(noise.shape)
    finally:
        jax.random.normal = own


def trials(folder: Path) -> list[Trial]:
    """Of everything here. Raises NoSource."""
    model, net = policy(folder)
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((ROWS, OBS)).astype(np.float32)
    left = rng.standard_normal((ROWS, H, A)).astype(np.float32)
    share = model.get_prefix_weights(DELAY, EXECUTED, H, "exp")[:, None]
    flow = adapters.jax(
        lambda held, x, t: net(held["obs"], x, t),
        lambda held, x: -0.5 * jnp.sum(share * (held["left"] - x) ** 2, axis=(1, 2)),
        action_shape=(H, A), observations={"obs": obs, "left": left}, denoise_steps=STEPS,
        action_bound=None, convention=qgf_ref.Convention("kinetix", grid="accumulated"),
    )  # fmt: skip

    def plain(rows: Array, noise: Array, _: float) -> Array:
        seen = obs[rows[:, 0].astype(int)]
        return injected(noise, lambda key: net.action(key, seen, STEPS))

    def chunked(_: Array, noise: Array, __: float) -> Array:
        return injected(
            noise,
            lambda key: net.realtime_action(key, obs, STEPS, left, DELAY, EXECUTED, "exp", MOST),
        )

    numbers = adapters.row_numbers(ROWS)
    chunk = Trial(
        KINETIX, "`FlowPolicy.realtime_action`", flow, numbers, chunked, f"qgf_jacobian{CHUNKING}",
        weighted=False,
    )  # fmt: skip
    return [
        Trial(KINETIX, "`FlowPolicy.action`", flow, numbers, plain, "none"),
        chunk,
        replace(chunk, estimator=f"qgf{CHUNKING}", expected=("unknown",)),
    ]
