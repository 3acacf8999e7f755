"""Checkpoints written for other frameworks: PyTorch `.pt`, flax `.msgpack`, NumPy `.npz`.

Names in a `.pt`, a flat state dict of tensors, (out, in) as torch.nn.Linear has them:

    policy.layers.0.weight   policy.layers.0.bias   policy.norms.0.weight   policy.norms.0.bias
    critic.0.layers.0.weight …                      (member 0; likewise target_critic, value)

which a module loads that is built as

    class MLP(torch.nn.Module):
        def __init__(self, widths, norms):  # e.g. [69, 1024, 1024, 1024, 1024, 25], 3
            super().__init__()
            pairs = list(zip(widths, widths[1:]))
            self.layers = torch.nn.ModuleList(torch.nn.Linear(i, o) for i, o in pairs)
            self.norms = torch.nn.ModuleList(
                torch.nn.LayerNorm(o, eps=1e-6) for _, o in pairs[:norms])

with a critic as ModuleList of its members, all four in a ModuleDict. In a `.msgpack`, the official
code's trees of parameters: policy/MLP_0/Dense_0/kernel, policy/Dense_0/kernel (the output layer),
critic/value_net/Dense_0/kernel with the ensemble axis in front. In an `.npz`, our own names,
policy.layers.0.kernel. Options travel as JSON: in a member of the .pt that torch.load passes over,
and as `options` in the other two.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.files import write_atomically
from qgf_ref.interop.flax_msgpack import msgpack_bytes
from qgf_ref.interop.native import NETWORKS, save_checkpoint
from qgf_ref.interop.torch_file import torch_bytes
from qgf_ref.nets.mlp import MLPParams

FORMATS = {
    "qgf": ".safetensors or a directory",
    "torch": ".pt, .pth",
    "flax": ".msgpack",
    "npz": ".npz",
}
"""What can be written, and the suffixes that ask for it."""
_SUFFIXES = {
    ".safetensors": "qgf", "": "qgf", ".pt": "torch", ".pth": "torch", ".msgpack": "flax",
    ".npz": "npz",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A tensor of a written file: its name there, and the parameter (our name) that it holds."""

    target: str
    name: str
    array: Array


def format_of(path: Path, chosen: str | None = None) -> str:
    """A key of FORMATS for `path`: the chosen one, else by suffix. Raises InputError."""
    if chosen is not None:
        if chosen not in FORMATS:
            raise unknown_name("format", chosen, FORMATS)
        if chosen == "qgf" and path.suffix not in (".safetensors", ""):
            raise InputError(f"{path}: our format is a .safetensors file or a directory")
        return chosen
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        known = "; ".join(f"{name} ({suffixes})" for name, suffixes in FORMATS.items())
        raise InputError(f"{path}: its suffix does not say what to write; formats are {known}")
    return found


def export(checkpoint: Checkpoint, path: Path, form: str) -> list[Written]:
    """Write `checkpoint` to `path` in a format of FORMATS; returns what the file holds, in order.

    Values are not changed, bit for bit. Raises InputError when the place cannot be written.
    """
    written = names_in(checkpoint, form)
    options = json.dumps(checkpoint.options.stated())
    if form == "qgf":
        save_checkpoint(checkpoint, path)
    elif form == "torch":
        write_atomically(path, torch_bytes({w.name: w.array for w in written}, options))
    elif form == "flax":
        tree = _nested({w.name: w.array for w in written})
        write_atomically(path, msgpack_bytes({**tree, "options": options}))
    else:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {w.name: w.array for w in written}
        np.savez(buffer, allow_pickle=False, **arrays, options=np.array(options))
        write_atomically(path, buffer.getvalue())
    return written


def names_in(checkpoint: Checkpoint, form: str) -> list[Written]:
    """The tensors of a file in the format `form`, critics' members apart only in PyTorch's."""
    written: list[Written] = []
    for network in NETWORKS:
        params: MLPParams = getattr(checkpoint, network)
        for own, array in params.named():
            target = f"{network}.{own}"
            if form == "torch":
                written += _for_torch(network, target, own, array, params.ensemble)
            elif form == "flax":
                name = _flax_name(network, own, len(params.layers) - 1)
                written.append(Written(target, name, array))
            else:
                written.append(Written(target, target, array))
    return written


_TORCH = {"kernel": "layers.{}.weight", "bias": "layers.{}.bias"} | {
    "scale": "norms.{}.weight",
    "offset": "norms.{}.bias",
}


def _for_torch(
    network: str, target: str, own: str, array: Array, members: int | None
) -> list[Written]:
    _, layer, part = own.split(".")
    stored = array.swapaxes(-1, -2) if part == "kernel" else array
    name = _TORCH[part].format(layer)
    if members is None:
        return [Written(target, f"{network}.{name}", stored)]
    return [Written(target, f"{network}.{e}.{name}", stored[e]) for e in range(members)]


def _flax_name(network: str, own: str, last: int) -> str:
    _, layer, part = own.split(".")
    module = "LayerNorm" if part in ("scale", "offset") else "Dense"
    leaf = "bias" if part == "offset" else part
    if network != "policy":
        return f"{network}/value_net/{module}_{layer}/{leaf}"
    return (
        f"policy/Dense_0/{leaf}" if int(layer) == last else f"policy/MLP_0/{module}_{layer}/{leaf}"
    )


def _nested(flat: Mapping[str, Array]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree
