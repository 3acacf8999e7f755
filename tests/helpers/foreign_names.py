"""Networks under other frameworks' names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams
from tests.conftest import small_checkpoint

NETWORKS = ("policy", "critic", "target_critic", "value")


Tensors = dict[str, Array]


def tensors_of(
    ck: Checkpoint,
    name: Callable[[str, int, str, int | None], str],
    *,
    transposed: bool,
    apart: bool,
) -> Tensors:
    """A checkpoint's arrays under names (network, layer, part, member) → name."""
    found: Tensors = {}
    for network in NETWORKS:
        params: MLPParams = getattr(ck, network)
        for own, array in params.named():
            _, layer, part = own.split(".")
            stored = array.swapaxes(-1, -2) if transposed and part == "kernel" else array
            if apart and params.ensemble:
                for e, member in enumerate(stored):
                    found[name(network, int(layer), part, e)] = member
            else:
                found[name(network, int(layer), part, None)] = stored
    return found


def put(path: Path, tensors: Tensors) -> Path:
    np.savez(path, **tensors)  # type: ignore[arg-type]
    return path


def torch_leaf(part: str) -> str:
    return "weight" if part in ("kernel", "scale") else "bias"


def is_norm(part: str) -> bool:
    return part in ("scale", "offset")


def members_first(network: str, layer: int, part: str, e: int | None) -> str:
    """critic.0.layers.0, critic.0.norms.0; Target prefixed; camel case."""
    head = {"policy": "PolicyNet", "value": "ValueFunction", "critic": "critic"}.get(network)
    head = head or "target.critic"
    member = "" if e is None else f".{e}"
    module = "norms" if is_norm(part) else "layers"
    return f"{head}{member}.{module}.{layer}.{torch_leaf(part)}"


def damaged(change: Callable[[Tensors], Any], name: Any = members_first) -> Tensors:
    tensors = tensors_of(small_checkpoint(), name, transposed=True, apart=True)
    change(tensors)
    return tensors


def drop(tensors: Tensors, part: str) -> None:
    for name in [n for n in tensors if part in n]:
        del tensors[name]


def odd(network: str, layer: int, part: str, e: int | None) -> str:
    """Names without a word for any network; members from 1."""
    head = {"policy": "alpha", "value": "omega"}.get(network)
    head = head or ("beta" if network == "critic" else "delta") + str((e or 0) + 1)
    return f"{head}-{3 * layer + is_norm(part)}-{torch_leaf(part)}"


def rules_for_odd() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    heads = {"alpha": "policy", "beta{e+1}": "critic", "delta{e+1}": "target_critic"}
    for head, network in {**heads, "omega": "value"}.items():
        member = {"member": "{e}"} if "{e" in head else {}
        for place, leaf, part in (
            ("{i*3}", "weight", "kernel"),
            ("{i*3}", "bias", "bias"),
            ("{i*3+1}", "weight", "scale"),
            ("{i*3+1}", "bias", "offset"),
        ):
            rule = {"from": f"{head}-{place}-{leaf}", "to": f"{network}.layers.{{i}}.{part}"}
            rules.append(rule | member | ({"transpose": True} if part == "kernel" else {}))
    return rules


OURS = small_checkpoint()
WEIGHTS = tensors_of(OURS, members_first, transposed=True, apart=True)
"""OURS in a file of another framework."""
