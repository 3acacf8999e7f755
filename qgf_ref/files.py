"""Writing files so that a crash or a full disk never leaves half of one under its final name."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing, reason
from qgf_ref.file_kinds import START, odd_kind

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MOST_DEFLATED = 1 << 26
_MOST_RATIO = 32
_LONGEST = 200
_ADDRESS = re.compile(r"(hf|s3|gs|gcs|az|abfs|hdfs|dbfs|ssh|ftp|https?|file|wandb):/+(.+)")


def user_path(path: str | Path) -> Path:
    """A path as a user gave it, by a flag, a variable or an argument: ~ is the home directory.

    Raises InputError where there is no home directory, and on an address (hf://…, s3://…).
    """
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise InputError(f"expected a path, got {type(path).__name__}") from None
    if "\0" in text:
        raise InputError(f"no path holds a NUL character: {text!r}")
    if address := _ADDRESS.match(text):
        scheme, rest = address.groups()
        how = f" (hf download {rest} --local-dir DIR)" if scheme == "hf" else ""
        raise InputError(
            f"{scheme}://{rest} is an address, and files are only read and written here: give the "
            f"path of a copy on this machine{how}"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if not re.match(r"~($|[/\\])", text):  # ~name, of nobody: a file's name, as for a shell
            return Path(text)
        raise InputError(
            f"no home directory is known for the ~ of {text}: give a path without it, or set HOME"
        ) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, then rename.

    Raises InputError on failure, and rather than replace what is no regular file.
    """
    path = user_path(path)
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
        masked = os.umask(0o077)  # to ask for it is to set it
        os.umask(masked)
        Path(temporary).chmod(0o666 & ~masked)  # as any new file of the user's
        Path(temporary).replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise InputError unless `path` can be made or replaced: a regular file in a directory that
    takes new ones. Leaves nothing behind.
    """
    path = user_path(path)
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


def npz_bytes(arrays: Mapping[str, Array], compressed: bool = False) -> bytes:
    """The bytes of an npz of numbers and text. Raises TypeError on an array of Python objects."""
    for name, array in arrays.items():
        # here, since NumPy before 2.2 writes allow_pickle=False as an array of that name
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"{name} holds Python objects, which an npz would have to pickle")
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **dict[str, Any](arrays))
    return buffer.getvalue()


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` as a compressed npz, atomically."""
    write_atomically(path, npz_bytes(arrays, compressed=True))


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV under the union of their columns; what is absent or None stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows that `csv_bytes` wrote: numbers and truth values as such, None where it was empty.

    Raises InputError when the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: _cell(text) for name, text in r.items()} for r in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error


def _cell(text: str | None) -> Any:
    named = {"": None, "True": True, "False": False}
    if text is None or text in named:
        return named[text or ""]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def lock(file: int | IO[Any], path: Path, busy: str) -> None:
    """Lock the open file at `path` until it is closed, or the process ends, however that ends.

    Where nothing can be locked (Windows; NFS and Lustre as they are often mounted), says so on
    stderr and goes on. Raises InputError with the message `busy` when another process holds it.
    """
    try:
        if fcntl is None:
            raise OSError("this system has no flock")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(busy) from None
    except OSError as error:
        print(
            f"{path.absolute().parent} cannot be locked ({reason(error)}): going on without; start "
            "no second process there",
            file=sys.stderr,
        )


_MADE: ContextVar[list[Path]] = ContextVar("_MADE")


def make_directory(path: Path) -> None:
    """Make `path` and what is above it, if need be; see `no_empty_directories`. Raises OSError."""
    new = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    _MADE.get([]).extend(new)


@contextmanager
def no_empty_directories(trace: str | None = None) -> Iterator[None]:
    """When the body raises, what it made with `make_directory` and is empty is removed again.

    trace  name of a file that counts as nothing
    """
    made: list[Path] = []
    outer = _MADE.set(made)
    try:
        yield
    except BaseException:
        for path in sorted(made, key=lambda p: -len(p.parts)):
            with suppress(OSError):
                inside = list(path.iterdir())
                if [p.name for p in inside] == [trace]:
                    inside[0].unlink()
                path.rmdir()
        raise
    finally:
        _MADE.reset(outer)


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
        lock(handle, path, busy)
        yield
    finally:
        os.close(handle)


def most_unpacked(size: int) -> int:
    """Bytes to which an archive of `size` bytes may unpack: 64 MiB, or 32 times its size (floats
    compress little).
    """
    return max(_MOST_DEFLATED, _MOST_RATIO * size)


def require_modest(members: Iterable[zipfile.ZipInfo], most: int, path: Path) -> None:
    """Raise InputError on members of an archive that unpack to more than `most` bytes."""
    members = list(members)
    plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    # of other methods zipfile unpacks more than a member declares
    odd = [m.filename for m in members if m.compress_type not in plain]
    if odd:
        raise InputError(f"{path} is refused: {listing(odd)} is neither stored nor deflated")
    if sum(m.file_size for m in members) > most:
        raise InputError(f"{path} is refused: it unpacks to more than {most} bytes")


def read_npz(
    path: Path, required: tuple[str, ...], only: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """The arrays of an npz (those of them named in `only`, if given), never unpickled.

    Raises InputError naming a key of `required` that is missing, and, before anything is allocated
    for it, on an archive that would unpack to far more than it is large (`most_unpacked`).
    """
    path = user_path(path)
    try:
        with path.open("rb") as raw, warnings.catch_warnings():
            warnings.simplefilter("error")  # of headers that NumPy has to repair
            if (kind := odd_kind(raw.read(START))) is not None:
                raise InputError(f"{path} is not a readable npz: it is {kind}")
            with zipfile.ZipFile(raw) as archive:
                members = {
                    m.filename.removesuffix(".npy"): m for m in archive.infolist() if not m.is_dir()
                }
                held = list(members)
                if only is not None:
                    members = {name: m for name, m in members.items() if name in only}
                require_modest(members.values(), most_unpacked(path.stat().st_size), path)
                arrays = {name: _npy(archive, m) for name, m in members.items()}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy.format each raise their own kinds
        text = str(error)[:_LONGEST]
        detail = text if text.isprintable() else ascii(text)
        raise InputError(f"{path} is not a readable npz: {detail}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        torch = any(name.endswith("/data.pkl") for name in held)
        way = ": a PyTorch file; write numpy.savez(F, **{name: tensor.numpy(), …})" if torch else ""
        raise InputError(f"{path} lacks {', '.join(missing)}; it holds {listing(held)}{way}")
    return arrays


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        if dtype.hasobject:
            raise ValueError(
                f"{member.filename.removesuffix('.npy')} holds Python objects, which are never "
                "unpickled: write numbers (numpy.stack(…)) or text (json.dumps(…))"
            )
        # NumPy allocates what a header declares before it reads
        held = member.file_size - stream.tell()
        if math.prod(shape) * dtype.itemsize != held:
            raise ValueError(f"{member.filename} has shape {shape}, which {held} bytes do not fill")
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def page(room: str) -> Path:
    """The page of a room (qgf_ref/ROOM/README.md), installed beside its code; of "": the index."""
    return Path(__file__).parent / room / "README.md"
