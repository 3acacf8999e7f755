"""Writing files so that a crash or a full disk never leaves half of one under its final name."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, then rename.

    Raises InputError on failure, and rather than replace what is no regular file.
    """
    require_writable(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise InputError unless `path` can be made or replaced: a regular file in a directory that
    takes new ones. Leaves nothing behind.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise InputError(f"cannot write {path}: it is {kind}")
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no directory {path.parent}")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_npz(path: Path, arrays: dict[str, Array]) -> None:
    """Write `arrays` as a compressed npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def read_npz(path: Path, required: tuple[str, ...]) -> dict[str, Array]:
    """All arrays of an npz, never unpickled. Raises InputError naming a key that is missing."""
    try:
        # opened here, because np.load leaves the file of a damaged archive open
        with path.open("rb") as raw:
            loaded = np.load(raw, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single .npy array; expected an .npz")
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy.format each raise their own kinds
        raise InputError(f"{path} is not a readable npz: {error}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}"
        )
    return arrays
