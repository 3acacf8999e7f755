"""Our own checkpoint format: safetensors, in one file or in a directory with its JSON.

One file: `NAME.safetensors`, tensors named `policy.layers.0.kernel` …, and in the header's metadata
`format` = "qgf_ref.checkpoint", `version` = "1" and `options` (JSON). A directory holds the same as
`model.safetensors`, and the options as `config.json` as well, for people to read and edit: what it
says wins.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError, listing
from qgf_ref.files import write_atomically
from qgf_ref.interop.checkpoint import Checkpoint, options_from
from qgf_ref.nets.mlp import LayerParams, MLPParams

FORMAT, VERSION = "qgf_ref.checkpoint", "1"
MODEL, CONFIG = "model.safetensors", "config.json"
_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")
NETWORKS = ("policy", "critic", "target_critic", "value")


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `checkpoint` to `path`: one file if it ends in .safetensors, else a directory.

    Written to a temporary name and renamed. Raises InputError when the place cannot be written.
    """
    path = Path(path)
    options = json.dumps(asdict(checkpoint.options), indent=1)
    tensors = {
        # safetensors writes the buffer as it lies in memory
        f"{network}.{name}": np.ascontiguousarray(array)
        for network in NETWORKS
        for name, array in getattr(checkpoint, network).named()
    }
    data = save(tensors, {"format": FORMAT, "version": VERSION, "options": options})
    if path.suffix == ".safetensors":
        write_atomically(path, data)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path}: {error.strerror or error}") from error
    write_atomically(path / MODEL, data)
    write_atomically(path / CONFIG, (options + "\n").encode())


def load_native(path: Path, overrides: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in the .safetensors file `path`; raises InputError if it is not one."""
    tensors: dict[str, Array] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
                tensors[name] = file.get_tensor(name)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is a safetensors file, but not a qgf_ref checkpoint (format: "
            f"{metadata.get('format', 'not stated')!r})"
        )
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path} has format version {metadata.get('version')!r}; this release reads {VERSION!r}"
        )
    stored = _json_object(metadata.get("options", ""), f"{path}: the stored options")
    config = path.with_name(CONFIG)
    if path.name == MODEL and config.exists():
        try:
            text = config.read_text()
        except (OSError, UnicodeError) as error:
            raise InputError(f"cannot read {config}: {error}") from error
        stored |= _json_object(text, str(config))
    chosen = {k: v for k, v in overrides.items() if v is not None}
    options = options_from({**stored, **chosen}, str(path))
    return Checkpoint(options, **_networks(tensors, str(path)), source=str(path))


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{what} is not a JSON object")
    return found


def _networks(tensors: dict[str, Array], source: str) -> dict[str, MLPParams]:
    parts = {f.name for f in fields(LayerParams)}
    layers: dict[str, dict[int, dict[str, Array]]] = {n: defaultdict(dict) for n in NETWORKS}
    for name, array in tensors.items():
        match name.split("."):
            case [network, "layers", index, part] if (
                network in layers and _INDEX.fullmatch(index) and part in parts
            ):
                if array.dtype.kind != "f":
                    raise InputError(f"{source}: {name} must hold floats, not {array.dtype}")
                require_finite(array, f"{source}: {name}", InputError)
                layers[network][int(index)][part] = array
            case _:
                raise InputError(f"{source}: unexpected tensor {listing([name])}")
    networks = {}
    for network, by_index in layers.items():
        for i in range(max(by_index, default=0) + 1):
            layer = by_index.get(i, {})
            lacking = {"kernel", "bias"} - set(layer)
            if ("scale" in layer) != ("offset" in layer):
                lacking |= {"scale", "offset"} - set(layer)
            if lacking:
                absent = " and ".join(sorted(lacking))
                raise InputError(f"{source}: layer {i} of the {network} lacks {absent}")
            if layer["kernel"].ndim not in (2, 3):
                shape = layer["kernel"].shape
                raise InputError(f"{source}: a kernel has 2 or 3 axes, not the shape {shape}")
        networks[network] = MLPParams(
            tuple(LayerParams(**by_index[i]) for i in range(len(by_index)))
        )
    return networks
