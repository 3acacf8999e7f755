"""Which file, or which files, a path means: shards with their index, and directories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from qgf_ref.errors import InputError, listing, reason
from qgf_ref.interop.format import Format
from qgf_ref.interop.formats import recognised, suffixes
from qgf_ref.interop.mapping.modules import network_of
from qgf_ref.interop.native import MODEL
from qgf_ref.interop.orbax_directory import ORBAX, is_orbax, refuse_other_directories
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.interop.real_tensors import TensorFile

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
_BESIDE = re.compile(
    r"(optimi[sz]er|optim|scheduler|sampler|scaler|random_states?|rng_state|training_args"
    r"|trainer_state|replay_buffer|events)([._-].*)?"
)
"""Names of files that lie beside weights: what accelerate and its like save."""


def located(path: Path) -> tuple[Path, Format]:
    """The file that `path` means, and how it is read.

    Raises InputError when there is none, when there are several, and on files and directories of
    something else.
    """
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"no checkpoint at {path}: {error.strerror or error}") from error
    if path.is_dir():
        return _in_directory(path)
    if not path.is_file():
        raise InputError(f"{path} is no regular file")
    if path.name.endswith(INDEX.suffixes):
        return path, INDEX
    part = _PART.search(path.name)
    if part is not None and int(part[2]) > 1:
        raise InputError(
            f"{path} is part {int(part[1])} of {int(part[2])}: give their index "
            "(….index.json), or the directory in which all of them are"
        )
    return path, recognised(path)


def _in_directory(path: Path) -> tuple[Path, Format]:
    if (path / MODEL).exists():
        return path / MODEL, recognised(path / MODEL)
    if is_orbax(path):
        return path, ORBAX
    refuse_other_directories(path)
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    indices = [p for p in files if p.name.endswith(INDEX.suffixes)]
    if indices:
        return indices[0], INDEX  # several are of the same weights, in two formats
    files = [p for p in files if not _BESIDE.fullmatch(p.name.lower())]
    known = [p for p in files if p.name.lower().endswith(suffixes())]
    usual = [p for p in known if re.fullmatch(r"params_.*\.pkl|.*\.safetensors", p.name)]
    chosen = usual or known or [p for p in files if not p.suffix and _readable(p)]
    if len(chosen) > 1 and all(_PART.search(p.name) or network_of(p.stem) for p in chosen):
        return path, Format("several files", (), lambda path: _joined(_by_prefix(chosen)))
    if len(chosen) != 1:
        problem = f"found: {listing(p.name for p in chosen)}{': name one' if chosen else ''}"
        raise InputError(
            f"{path} must hold {MODEL}, an index of shards, or just one file of weights "
            f"({', '.join(suffixes())}); {problem}"
        )
    return chosen[0], recognised(chosen[0])


def _readable(path: Path) -> bool:
    """Whether a file without suffix, such as flax's checkpoint_1000, is one of weights."""
    try:
        form = recognised(path)
        with path.open("rb") as file:
            return form.resembles(file.read(16))
    except InputError:
        return False


def _by_prefix(files: list[Path]) -> dict[Path, str]:
    """Files of one network each, by what their names put before those of their tensors."""
    return {p: "" if _PART.search(p.name) else f"{p.stem}." for p in files}


def _joined(files: Mapping[Path, str]) -> TensorFile:
    """The tensors of several files as of one, each under its prefix."""
    whole = TensorFile({})
    for path, prefix in files.items():
        file = recognised(path).read(path)
        named = {prefix + name: array for name, array in file.tensors.items()}
        twice = named.keys() & whole.tensors.keys()
        if twice:
            raise InputError(f"{path}: {listing(sorted(twice))} are in another file, too")
        whole.tensors.update(named)
        whole.notes.extend(note for note in file.notes if note not in whole.notes)
    return whole


def _read_shards(path: Path) -> TensorFile:
    """The tensors of the shards that an index lists. Raises InputError."""
    try:
        content = json_object(path.read_bytes(), str(path))
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(
            f"{path} is the index of no shards: it has no tensors in a 'weight_map'; get it again, "
            "or give the file of the weights"
        )
    names = {str(file) for file in places.values()}
    odd = [name for name in names if name != Path(name).name]
    absent = sorted(name for name in names - set(odd) if not path.with_name(name).is_file())
    if odd or absent:
        raise InputError(
            f"{path} names the shards {listing(odd or absent)}, which are not beside it: get all "
            "of them"
        )
    file = _joined({path.with_name(name): "" for name in sorted(names)})
    lacking = sorted(places.keys() - file.tensors.keys())
    if lacking:
        raise InputError(f"{path}: its shards lack {listing(lacking)}: get all of them again")
    return file


INDEX = Format("shards", (".index.json",), _read_shards)
