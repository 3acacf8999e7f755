"""Every file format of checkpoints: the one table that reading, writing and help go by.

A format of one's own is a file that defines a `Format`, and a line here.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from qgf_ref.errors import InputError, listing, unknown_name
from qgf_ref.file_kinds import START, odd_kind
from qgf_ref.interop import flax_msgpack, native, npz_file, official, torch_file
from qgf_ref.interop.format import Format
from qgf_ref.interop.zip_members import ZIP

FORMATS: tuple[Format, ...] = (
    native.OURS,
    torch_file.TORCH,
    flax_msgpack.FLAX,
    npz_file.NPZ,
    official.PICKLE,
)
"""Our own first: what nothing tells is taken for it."""


def suffixes() -> tuple[str, ...]:
    """The suffixes of all formats."""
    return tuple(s for form in FORMATS for s in (*form.suffixes, *form.other_suffixes))


def written_formats() -> dict[str, Format]:
    """{name: format} of those that are written."""
    return {form.name: form for form in FORMATS if form.write is not None}


def recognised(path: Path) -> Format:
    """The format of a file, by its contents where these are unmistakable, else by its suffix.

    Raises InputError when the file cannot be read, and when its first bytes say that it is
    something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    by_suffix = _by_suffix(path)
    certain = [form for form in FORMATS if form.begins and start.startswith(form.begins)]
    if start.startswith(ZIP):
        return _archive(path, certain, by_suffix)
    if certain:
        return certain[0]
    likely = [form for form in FORMATS if form.resembles(start)]
    if not likely and (kind := odd_kind(start)) is not None:
        raise InputError(f"{path} is no readable checkpoint: it is {kind}")
    if not likely and by_suffix is None:
        raise InputError(
            f"{path} is no readable checkpoint: its first bytes, {start[:8].hex(' ')}, are of no "
            f"format that is read: {', '.join(suffixes())}"
        )
    if by_suffix in (FORMATS[0], *likely) or not likely:
        return by_suffix or FORMATS[0]
    return likely[0]


def _archive(path: Path, certain: list[Format], by_suffix: Format | None) -> Format:
    """The format of a zip archive, by the names of its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return by_suffix or certain[-1]  # its reader says what is wrong
    held = next((form for form in certain if form.holds(members)), by_suffix)
    if held is None:
        raise InputError(
            f"{path} is no readable checkpoint: it is a zip archive of {listing(members, most=6)}: "
            "unpack it, and give the file of the weights"
        )
    return held


def to_write(path: Path, name: str | None = None) -> Format:
    """The format in which `path` is written: the named one, else by suffix. Raises InputError."""
    known = written_formats()
    if name is not None:
        if name not in known:
            raise unknown_name("format", name, known)
        if known[name] is FORMATS[0] and path.suffix not in (*FORMATS[0].suffixes, ""):
            raise InputError(f"{path}: our format is a .safetensors file or a directory")
        return known[name]
    form = FORMATS[0] if not path.suffix else _by_suffix(path)
    if form is None or form.write is None or path.suffix.lower() in form.other_suffixes:
        listed = "; ".join(f"{f.name} ({', '.join(f.suffixes)})" for f in known.values())
        raise InputError(
            f"{path}: its suffix does not say what to write; formats are {listed}, and a name "
            "without suffix makes a directory of ours"
        )
    return form


def _by_suffix(path: Path) -> Format | None:
    name = path.name.lower()
    return next(
        (form for form in FORMATS if name.endswith((*form.suffixes, *form.other_suffixes))), None
    )
