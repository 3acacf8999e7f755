"""Writing files so that a crash or a full disk never leaves half of one under its final name."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes out of one directory there
    fcntl = None  # type: ignore[assignment]


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
            file.flush()
            os.fsync(file.fileno())
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


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV under the union of their columns; what is absent or None stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def lock(file: int | IO[Any], busy: str) -> None:
    """Lock an open file until it is closed, or the process ends, however that ends.

    Raises InputError with the message `busy` when another process holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(busy) from None


@contextmanager
def sole_use(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, made if need be. Raises InputError as `lock` does, and when the
    file cannot be made.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        lock(handle, busy)
        yield
    finally:
        os.close(handle)


def read_npz(
    path: Path, required: tuple[str, ...], only: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """The arrays of an npz (those of them named in `only`, if given), never unpickled.

    Raises InputError naming a key of `required` that is missing.
    """
    try:
        # opened here, because np.load leaves the file of a damaged archive open
        with path.open("rb") as raw:
            loaded = np.load(raw, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single .npy array; expected an .npz")
            with loaded:
                names = [n for n in loaded.files if only is None or n in only]
                arrays = {name: loaded[name] for name in names}
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
