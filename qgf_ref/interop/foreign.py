"""Checkpoints whose tensors bear other names: any `.pt`, flax `.msgpack`, safetensors or npz."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import options_from
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.automatic_names import mapping_by_names
from qgf_ref.interop.flax_msgpack import read_msgpack
from qgf_ref.interop.mapping_rules import mapping_by_rules
from qgf_ref.interop.name_mapping import NameMapping, assemble, complete
from qgf_ref.interop.official import read_flags
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.interop.real_tensors import (
    TensorFile,
    flatten,
    read_npz_tensors,
    read_safetensors,
    tensor_file,
)
from qgf_ref.interop.torch_file import LEGACY, read_torch
from qgf_ref.interop.unpickle import read_pickle
from qgf_ref.interop.zip_members import read_members

ORBAX = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", "ocdbt.process_0")
"""What the directories of Orbax hold."""


def read_pickled_tensors(path: Path) -> TensorFile:
    """The arrays of a plain pickle, with dots between the keys. Raises InputError."""
    arrays, strings = flatten(read_pickle(path), str(path))
    return tensor_file(arrays, strings.get("options", ""), str(path))


READERS: dict[str, Callable[[Path], TensorFile]] = {
    "torch": read_torch,
    "msgpack": read_msgpack,
    "safetensors": read_safetensors,
    "npz": read_npz_tensors,
    "pickle": read_pickled_tensors,
}
_SUFFIXES = {
    ".pt": "torch", ".pth": "torch", ".msgpack": "msgpack", ".safetensors": "safetensors",
    ".npz": "npz", ".pkl": "pickle", ".pickle": "pickle",
}  # fmt: skip


def kind_of(path: Path) -> str:
    """A key of READERS, by the file's contents where these are unmistakable, else by its suffix.

    Raises InputError when the file cannot be read. What nothing tells is taken for safetensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(max(16, len(LEGACY)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if start.startswith(b"PK\x03\x04"):
        if by_suffix in ("torch", "npz"):
            return by_suffix
        members, _ = read_members(path, "zip archive", stored=False)
        return "torch" if any(name.endswith("/data.pkl") for name in members) else "npz"
    if start.startswith(LEGACY):
        return "torch"
    if by_suffix is not None:
        return by_suffix
    # PROTO and a protocol number; a safetensors file starts with the length of its header
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if start[8:9] != b"{" and start[:1] and (start[0] in (0xDE, 0xDF) or 0x80 < start[0] < 0x90):
        return "msgpack"
    return "safetensors"


def is_ours(path: Path) -> bool:
    """Whether the safetensors file says that it is of this package, or cannot be read at all."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, TypeError):
        return True  # whose reader says what is wrong
    return str(metadata.get("format", "")).startswith("qgf_ref.")


def load_foreign(
    path: Path,
    kind: str,
    overrides: Mapping[str, Any],
    rules: str | Path | None = None,
    target_critic_from: str | None = None,
) -> tuple[Checkpoint, NameMapping]:
    """(checkpoint, which tensor became which parameter), in the dtypes of the file.

    kind                a key of READERS
    overrides           options that win over a flags.json beside the file, and that over the JSON
                        in its metadata
    rules               a rule file (`mapping_rules.py`); without one, names and shapes decide
    target_critic_from  "critic" where the file has no target critic

    Raises InputError on a file that is refused or damaged, on names that do not tell one mapping,
    and on options that are not given.
    """
    file = READERS[kind](path)
    if rules is None:
        found = mapping_by_names(file.tensors, str(path))
    else:
        found = mapping_by_rules(file.tensors, rules, str(path))
    mapping = complete(found, target_critic_from, str(path))
    mapping.notes.extend(file.notes)
    networks: dict[str, Any] = dict(assemble(file.tensors, mapping, str(path)))
    stored = json_object(file.options, f"{path}: the stored options") if file.options else {}
    flags = path.with_name("flags.json")
    beside = read_flags(flags) if flags.exists() else {}
    chosen = {k: v for k, v in overrides.items() if v is not None}
    options = options_from({**stored, **beside, **chosen}, str(path))
    return Checkpoint(options, **networks, source=str(path)), mapping


def refuse_orbax(directory: Path) -> None:
    """Raise InputError, with the way out, when `directory` is an Orbax checkpoint."""
    found = [name for name in ORBAX if (directory / name).exists()]
    if found:
        raise InputError(
            f"{directory} is an Orbax checkpoint ({listing(found)}): its arrays are compressed "
            "with Zstandard in TensorStore's format, which is not read. Export it where it was "
            "trained: tree = orbax.checkpoint.PyTreeCheckpointer().restore(DIR); "
            "open('x.msgpack', 'wb').write(flax.serialization.msgpack_serialize("
            "jax.tree.map(numpy.asarray, tree))); then give x.msgpack"
        )
