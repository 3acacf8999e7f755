"""Checkpoints as the official code pickles them, and as an attacker does."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.nets.mlp import MLPParams

OPTIONS: dict[str, Any] = {
    "activation": "gelu",
    "q_aggregation": "min",
    "denoise_steps": 6,
    "horizon_length": 1,
    "action_chunking": True,
    "discount": 0.9,
    "expectile": 0.8,
}


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def flax_tree(params: MLPParams, network: str) -> dict[str, Any]:
    layers = [({"kernel": x.kernel, "bias": x.bias}, x.scale, x.offset) for x in params.layers]
    trunk: dict[str, Any] = {}
    for i, (dense, scale, offset) in enumerate(layers):
        trunk[f"Dense_{i}"] = dense
        if scale is not None:
            trunk[f"LayerNorm_{i}"] = {"scale": scale, "bias": offset}
    if network != "policy":
        return {"value_net": trunk}
    head = trunk.pop(f"Dense_{len(layers) - 1}")
    return {"MLP_0": trunk, "Dense_0": head}


def official_tree(ck: Checkpoint) -> dict[str, Any]:
    agent: dict[str, Any] = {"rng": np.zeros(2, np.uint32)}
    for network in ("policy", "critic", "target_critic", "value"):
        tree = flax_tree(getattr(ck, network), network)
        agent[network] = {"step": 1, "params": tree, "opt_state": None}
    return {"agent": agent}


def write(path: Path, tree: Any, flags: dict[str, Any] | None = None, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    if flags is not None:
        path.with_name("flags.json").write_text(json.dumps({"agent": flags}))
    return path


def same(a: Checkpoint, b: Checkpoint) -> None:
    for network in ("policy", "critic", "target_critic", "value"):
        x, y = getattr(a, network), getattr(b, network)
        assert [n for n, _ in x.named()] == [n for n, _ in y.named()]
        for p, q in zip(x.arrays(), y.arrays(), strict=True):
            np.testing.assert_array_equal(p, q)
    assert a.options == b.options
