"""Named groups of MLP parameters in one safetensors file, with a format name and metadata.

Tensors are called GROUP.layers.0.kernel, …; checkpoints and training states are such files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError, listing
from qgf_ref.file_kinds import require_text
from qgf_ref.interop.real_tensors import TensorFile
from qgf_ref.interop.safetensors_file import read_safetensors
from qgf_ref.nets.mlp import LayerParams, MLPParams

_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")


def serialise(groups: Mapping[str, MLPParams], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes."""
    tensors = {
        # safetensors writes the buffer as it lies in memory
        f"{group}.{name}": np.ascontiguousarray(array)
        for group, params in groups.items()
        for name, array in params.named()
    }
    return _with_ordered_header(save(tensors, dict(metadata)))


def _with_ordered_header(data: bytes) -> bytes:
    # the library writes the metadata in the order of a randomly seeded hash map: equal contents
    # must be equal bytes
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def read_tensors(path: Path, kind: str, version: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of `path`; raises InputError if it is no readable `kind` file."""
    return of_kind(read_safetensors(path), path, kind, version)


def of_kind(
    file: TensorFile, path: Path, kind: str, version: str
) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of `file`, read from `path`; raises InputError unless it is a `kind`."""
    metadata = file.metadata
    if metadata.get("format") != kind:
        raise InputError(
            f"{path} is a safetensors file, but not a {kind.replace('.', ' ')} (format: "
            f"{metadata.get('format', 'not stated')!r})"
        )
    if metadata.get("version") != version:
        raise InputError(
            f"{path} has format version {metadata.get('version')!r}; this release reads {version!r}"
        )
    return file.tensors, metadata


def parameter_groups(
    tensors: Mapping[str, Array], names: Sequence[str], source: str
) -> dict[str, MLPParams]:
    """The groups `names`, made of `tensors`; raises InputError on one that is missing or extra."""
    parts = {f.name for f in fields(LayerParams)}
    layers: dict[str, dict[int, dict[str, Array]]] = {n: defaultdict(dict) for n in names}
    tables: dict[str, Array] = {}
    for name, array in tensors.items():
        match name.split("."):
            case [group, "layers", index, part] if (
                group in names and _INDEX.fullmatch(index) and part in parts
            ):
                layers[group][int(index)][part] = array
            case [group, "encoder", "layers", index, part] if (
                group in names and _INDEX.fullmatch(index) and part in parts
            ):
                encoder = layers.setdefault(f"{group}.encoder", defaultdict(dict))
                encoder[int(index)][part] = array
            case [group, "encoder", "table"] if group in names:
                layers.setdefault(f"{group}.encoder", defaultdict(dict))
                tables[f"{group}.encoder"] = array
            case _:
                raise InputError(f"{source}: unexpected tensor {listing([name])}")
        if array.dtype.kind != "f":
            raise InputError(f"{source}: {name} must hold floats, not {array.dtype}")
        require_finite(array, f"{source}: {name}", InputError)
    groups = {}
    for group, by_index in layers.items():
        for i in range(max(by_index, default=0) + 1):
            layer = by_index.get(i, {})
            lacking = {"kernel", "bias"} - set(layer)
            if ("scale" in layer) != ("offset" in layer):
                lacking |= {"scale", "offset"} - set(layer)
            if lacking:
                absent = " and ".join(sorted(lacking))
                raise InputError(f"{source}: layer {i} of the {group} lacks {absent}")
            if layer["kernel"].ndim not in (2, 3):
                shape = layer["kernel"].shape
                raise InputError(f"{source}: a kernel has 2 or 3 axes, not the shape {shape}")
        whole = tuple(LayerParams(**by_index[i]) for i in range(len(by_index)))
        groups[group] = MLPParams(whole, tables.get(group))
    return {n: replace(groups[n], encoder=groups.get(f"{n}.encoder")) for n in names}


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`, or in a file's bytes as any editor saves them (with a mark of
    their order, in UTF-16); raises InputError if it is none.
    """
    if isinstance(text, bytes):
        require_text(text, what)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{what} is not a JSON object")
    return content
