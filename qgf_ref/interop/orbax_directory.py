"""Orbax's checkpoints, read by TensorStore without JAX; and what other directories are.

An item (a tree of arrays) is a directory of Zarr arrays, each called by its keys with dots between
them: as files, or inside an OCDBT database (`manifest.ocdbt`). Managers put items into directories
of their own within one for each step. Known: orbax-checkpoint 0.5 to 0.12.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.errors import InputError, listing
from qgf_ref.files import most_unpacked
from qgf_ref.interop.format import Format
from qgf_ref.interop.real_tensors import TensorFile, tensor_file, with_bfloat16

_MARKS = ("_METADATA", "manifest.ocdbt", "ocdbt.process_0")
_OF_MANAGERS = "_CHECKPOINT_METADATA"
_ARRAYS = {"/.zarray": "zarr", "/zarr.json": "zarr3"}
_OTHERS = {
    ".metadata": "a distributed checkpoint of PyTorch: join it with python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch DIR agent.pt",
    "zero_to_fp32.py": "a checkpoint of DeepSpeed: join it with python zero_to_fp32.py . OUT",
    "saved_model.pb": "a SavedModel of TensorFlow: save its weights with numpy.savez",
}


def is_orbax(path: Path) -> bool:
    """Whether the directory is a checkpoint of Orbax, or of one of its managers."""
    return bool(_marks(path) or _items(path))


def refuse_other_directories(path: Path) -> None:
    """Raise InputError, with the way out, on directories of other libraries."""
    for name, kind in _OTHERS.items():
        if (path / name).exists():
            raise InputError(f"{path} is {kind}")


def _marks(path: Path) -> list[str]:
    return [name for name in (*_MARKS, _OF_MANAGERS) if (path / name).exists()]


def _items(path: Path) -> list[Path]:
    """The directories of items at `path`, in it, or one deeper."""
    for pattern in ("", "*", "*/*"):
        places = sorted(path.glob(pattern)) if pattern else [path]
        items = [p for p in places if any((p / mark).exists() for mark in _MARKS)]
        if items:
            return items
    return []


def _read(path: Path) -> TensorFile:
    """The arrays of the one item in a directory; bfloat16 as float32. Raises InputError."""
    items = _items(path)
    if len(items) > 1:
        names = listing(str(item.relative_to(path)) for item in items)
        raise InputError(f"{path} is an Orbax directory of several items: name one of {names}")
    if find_spec("tensorstore") is None:
        raise InputError(
            f"{path} is an Orbax checkpoint ({listing(_marks(path))}), which TensorStore reads: "
            'pip install "qgf_ref[orbax]". Or export it where it was trained: tree = '
            "orbax.checkpoint.PyTreeCheckpointer().restore(DIR); open('x.msgpack', 'wb').write("
            "flax.serialization.msgpack_serialize(jax.tree.map(numpy.asarray, tree)))"
        )
    item = items[0] if items else path
    try:
        arrays = _arrays(item.resolve())
    except InputError:
        raise
    except Exception as error:  # TensorStore's are ValueError, RuntimeError and others
        detail = listing([f"{type(error).__name__}: {error}"])
        raise InputError(
            f"{item} is no readable Orbax checkpoint: incomplete or damaged ({detail}); get all of "
            "its files again"
        ) from error
    bfloat16 = [name for name, array in arrays.items() if array.dtype.name == "bfloat16"]
    arrays |= {name: arrays[name].astype(np.float32) for name in bfloat16}
    return with_bfloat16(tensor_file(arrays, "", str(path)), len(bfloat16))


def _arrays(item: Path) -> dict[str, Any]:
    tensorstore = import_module("tensorstore")
    store: dict[str, Any] = {"driver": "file", "path": f"{item}/"}
    if (item / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": store}
    keys = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
    size = sum(file.stat().st_size for file in item.rglob("*") if file.is_file())
    left = most_unpacked(size)
    arrays = {}
    for key in sorted(keys):
        for mark, driver in _ARRAYS.items():
            if not key.endswith(mark):
                continue
            name = key.removesuffix(mark)
            place = {**store, "path": f"{store.get('path', '')}{name}/"}
            array = tensorstore.open({"driver": driver, "kvstore": place}, read=True).result()
            left -= math.prod(array.shape) * array.dtype.numpy_dtype.itemsize
            if left < 0:
                raise InputError(f"{item} is refused: it unpacks to more than it may")
            arrays[name] = array.read().result()
    if not arrays:
        raise InputError(
            f"{item} is an Orbax checkpoint without arrays: get all of its files again"
        )
    return arrays


ORBAX = Format("orbax", (), _read)
