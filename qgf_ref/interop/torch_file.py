"""PyTorch's `.pt` files, read and written without PyTorch: tensors in dicts, and nothing else.

Such a file is an uncompressed zip archive: `ROOT/data.pkl` is a pickle (protocol 2) in which every
tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage, offset, shape and strides; a
storage is a persistent id that names a type, and the member `ROOT/data/KEY` with its raw bytes;
`ROOT/byteorder` says how these lie. Nothing in a stream is executed (`unpickle.py`). Known files:
PyTorch 1.6 to 2.13.

A `.pt` that is written here holds a flat state dict, (out, in) as torch.nn.Linear has it:

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

with a critic as ModuleList of its members, all networks in a ModuleDict.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.files import write_atomically
from qgf_ref.interop.format import Format, Written, stated
from qgf_ref.interop.real_tensors import (
    TensorFile,
    flatten,
    tensor_file,
    with_bfloat16,
)
from qgf_ref.interop.torch_stream import Storages, dialect
from qgf_ref.interop.unpickle import parse_pickle
from qgf_ref.interop.zip_members import ZIP, read_members
from qgf_ref.nets.mlp import MLPParams

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of PyTorch before 1.6 begin: a pickle of a magic number."""
OPTIONS = "qgf_ref/options.json"
"""The member in which we keep a checkpoint's options; torch.load passes over it."""

_ALIGNMENT = 64


def read_torch(path: Path) -> TensorFile:
    """The tensors in what torch.save was given, nested dicts and lists with joined names.

    Options come from the member of our own files, else from a string `options` at the top. Raises
    InputError on a file that is damaged, in the format before PyTorch 1.6, TorchScript, or that
    contains anything but tensors, numbers and strings (naming it). Nothing in it is executed.
    """
    require_zip(path)
    members, size = read_members(path, "PyTorch file", stored=True)
    roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
    if any(name.endswith("/archive_format") for name in members):
        raise InputError(
            f"{path} is a program of torch.export; save its tensors alone: "
            "torch.save(torch.export.load(F).state_dict, G)"
        )
    if len(roots) != 1:
        raise InputError(
            f"{path} is no PyTorch file: a zip archive without a data.pkl (it holds: "
            f"{listing(members)})"
        )
    root = roots[0]
    if f"{root}constants.pkl" in members:
        raise InputError(
            f"{path} is TorchScript, a program; save its tensors alone: "
            "torch.save(torch.jit.load(F).state_dict(), G)"
        )
    order = members.get(f"{root}byteorder", b"little")
    if order not in (b"little", b"big"):
        raise InputError(f"{path} is no readable PyTorch file: byte order {order[:20]!r}")
    storages = Storages(members, root, "<" if order == b"little" else ">")
    stream = members[f"{root}data.pkl"]
    tree = parse_pickle(stream, str(path), 2 * size, dialect(storages))
    arrays, strings = flatten(tree, str(path))
    ours = members.get(root + OPTIONS, b"").decode(errors="replace")
    file = tensor_file(arrays, ours or strings.get("options", ""), str(path))
    return with_bfloat16(file, sum(k == "torch.BFloat16Storage" for k, _ in storages.known))


def require_zip(path: Path) -> None:
    """Raise InputError, with the way out, when `path` is in PyTorch's format before zip."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if start == LEGACY:
        raise InputError(
            f"{path} is in PyTorch's format before 1.6, which is not read; save it again with "
            "PyTorch ≥ 1.6: torch.save(torch.load(F, map_location='cpu', weights_only=True), G)"
        )


def torch_bytes(tensors: Mapping[str, Array], options: str) -> bytes:
    """A `.pt` file with the state dict `tensors` (float32 or float64), for torch.load.

    options  JSON, kept in a member of its own, so that the state dict holds tensors only
    """
    root, buffer = "qgf_ref", io.BytesIO()
    contiguous = {
        name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in tensors.items()
    }
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, f"{root}/data.pkl", _pickle(contiguous))
        _add(archive, f"{root}/byteorder", b"little")
        for i, array in enumerate(contiguous.values()):
            _add(archive, f"{root}/data/{i}", array.tobytes())
        _add(archive, f"{root}/{OPTIONS}", options.encode())
        _add(archive, f"{root}/version", b"3\n")
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name)
    # PyTorch's own padding: contents begin at multiples of 64 bytes, so that they can be mapped
    begin = archive.fp.tell() + 30 + len(name) + 4  # type: ignore[union-attr]
    padding = -begin % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, data)


_KINDS = {"float32": b"FloatStorage", "float64": b"DoubleStorage"}


def _pickle(tensors: Mapping[str, Array]) -> bytes:
    items = b"".join(_text(n) + _call(i, a) for i, (n, a) in enumerate(tensors.items()))
    return b"\x80\x02}(" + items + b"u."


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"


def _call(key: int, array: Array) -> bytes:
    kind = _KINDS.get(array.dtype.name)
    if kind is None:
        raise InputError(f"a PyTorch file is written of float32 or float64, not {array.dtype}")
    storage = b"".join(
        (b"(", _text("storage"), b"ctorch\n" + kind + b"\n", _text(str(key)), _text("cpu"))
    )
    strides = tuple(s // array.itemsize for s in array.strides)
    return b"".join(
        (
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            storage + _int(array.size) + b"tQ",
            _int(0) + _ints(array.shape) + _ints(strides),
            b"\x89ccollections\nOrderedDict\n)Rt",
            b"R",
        )
    )


_PARTS = {
    "kernel": "layers.{}.weight",
    "bias": "layers.{}.bias",
    "scale": "norms.{}.weight",
    "offset": "norms.{}.bias",
}


def _names(network: str, params: MLPParams) -> Iterator[Written]:
    for own, array in params.named():
        *outer, layer, part = own.split(".")
        stored = array.swapaxes(-1, -2) if part == "kernel" else array
        within = "encoder." if outer[:1] == ["encoder"] or layer == "encoder" else ""
        name = within + (part if layer == "encoder" else _PARTS[part].format(layer))
        target = f"{network}.{own}"
        if params.ensemble is None:
            yield Written(target, f"{network}.{name}", stored)
        for e in range(params.ensemble or 0):
            yield Written(target, f"{network}.{e}.{name}", stored[e])


def _write(path: Path, tensors: Sequence[Written], checkpoint: Checkpoint) -> None:
    options = stated(checkpoint)
    write_atomically(path, torch_bytes({w.name: w.array for w in tensors}, options))


TORCH = Format(
    "torch",
    (".pt", ".pth"),
    read_torch,
    begins=(ZIP, LEGACY),
    holds=lambda members: any(name.endswith("/data.pkl") for name in members),
    names=_names,
    write=_write,
    other_suffixes=(".ckpt", ".bin", ".pth.tar"),
    next_step="next: torch.load({path!r}, weights_only=True) gives a state dict\n"
    "LayerNorm needs eps={eps}, gelu approximate='tanh' (PyTorch's defaults differ)",
)
