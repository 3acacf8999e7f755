"""Every file format of checkpoints: the one table that reading, writing and help go by.

A format of one's own is a file that defines a `Format`, and a line here.
"""

from __future__ import annotations

from pathlib import Path

from qgf_ref.errors import InputError, unknown_name
from qgf_ref.interop import flax_msgpack, native, npz_file, official, torch_file
from qgf_ref.interop.format import Format
from qgf_ref.interop.zip_members import read_members

FORMATS: tuple[Format, ...] = (
    native.OURS,
    torch_file.TORCH,
    flax_msgpack.FLAX,
    npz_file.NPZ,
    official.PICKLE,
)
"""Our own first: what nothing tells is taken for it."""
_START = 64


def suffixes() -> tuple[str, ...]:
    """The suffixes of all formats."""
    return tuple(suffix for form in FORMATS for suffix in form.suffixes)


def written_formats() -> dict[str, Format]:
    """{name: format} of those that are written."""
    return {form.name: form for form in FORMATS if form.write is not None}


def recognised(path: Path) -> Format:
    """The format of a file, by its contents where these are unmistakable, else by its suffix.

    Raises InputError when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    by_suffix = _by_suffix(path)
    certain = [form for form in FORMATS if form.begins and start.startswith(form.begins)]
    if by_suffix in certain or (by_suffix and not certain):
        return by_suffix
    if len(certain) > 1:
        members, _ = read_members(path, "zip archive", stored=False)
        return next((form for form in certain if form.holds(list(members))), certain[-1])
    return next((form for form in (*certain, *FORMATS) if form in certain or form.resembles(start)),
                FORMATS[0])  # fmt: skip


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
    if form is None or form.write is None:
        listed = "; ".join(f"{f.name} ({', '.join(f.suffixes)})" for f in known.values())
        raise InputError(
            f"{path}: its suffix does not say what to write; formats are {listed}, and a name "
            "without suffix makes a directory of ours"
        )
    return form


def _by_suffix(path: Path) -> Format | None:
    return next((form for form in FORMATS if path.suffix.lower() in form.suffixes), None)
