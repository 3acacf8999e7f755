"""Any safetensors file, read whole."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

from qgf_ref.errors import InputError, listing
from qgf_ref.interop.real_tensors import (
    TensorFile,
    filled,
    from_bfloat16,
    tensor_file,
    with_bfloat16,
)

_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
_MOST = 1 << 44
"""Bytes; a header that speaks of more is damaged itself."""


def read_safetensors(path: Path) -> TensorFile:
    """Any safetensors file; options from `options` of its metadata. Raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        # sorted: their order is another in every process
        entries = sorted(deserialize(data), key=lambda entry: entry[0])
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        detail = _cut_short(data) or listing([f"{type(error).__name__}: {error}"])
        raise InputError(f"{path} is not a readable safetensors file: {detail}") from error
    arrays, bfloat16 = {}, 0
    for name, entry in entries:
        kind = entry["dtype"]
        if kind not in _SAFETENSORS:
            raise InputError(f"{path}: {listing([name])} has dtype {listing([kind])}; use float32")
        dtype = np.dtype(_SAFETENSORS[kind])
        array = filled(entry["data"], dtype, tuple(entry["shape"]))
        arrays[name] = from_bfloat16(array) if kind == "BF16" else array
        bfloat16 += kind == "BF16"
    metadata = header.get("__metadata__") or {}
    file = tensor_file(arrays, metadata.get("options", ""), str(path))
    file.metadata.update(metadata)
    return with_bfloat16(file, bfloat16)


def _cut_short(data: bytes) -> str | None:
    """What to say of a file that ends before its header or its tensors do."""
    end = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] != b"{":
        return None
    with suppress(ValueError, RecursionError, LookupError, TypeError, AttributeError):
        entries = json.loads(data[8:end])
        end += max(e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__")
    if end <= len(data) or end > _MOST:
        return None
    return f"cut short, {len(data)} of {end} bytes: an interrupted download or copy; get it again"
