"""Finished episodes on disk, one file each, until they are merged into a data set.

One file an episode, written once: nothing grows, and a killed run loses only the episodes that
were being simulated.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.collection.episode import SPLITS, Episode
from qgf_ref.errors import InputError
from qgf_ref.files import sole_use, write_json, write_npz

_NAME = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-(?P<index>[0-9]{{6,}})\.npz")
_CONFIGURATION = "configuration.json"
_LOCK = ".lock"
_ARRAYS = ("observations", "actions", "terminals", "qpos", "qvel")


def part_path(directory: Path, split: str, index: int) -> Path:
    """Where episode `index` of `split` is kept."""
    return directory / f"{split}-{index:06d}.npz"


def write_part(directory: Path, split: str, index: int, episode: Episode) -> None:
    """Keep one finished episode, atomically."""
    write_npz(part_path(directory, split, index), episode)


def kept_episodes(directory: Path) -> set[tuple[str, int]]:
    """The (split, index) of every episode kept in `directory`; empty when there is none."""
    if not directory.is_dir():
        return set()
    found = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return {(match["split"], int(match["index"])) for match in found if match}


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Make `directory` and hold its lock, which ends with the process, however that ends.

    Raises InputError when another process holds it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {directory}: {error.strerror or error}") from error
    busy = (
        f"another process is collecting into {directory}; wait for it, stop it, or give "
        "another --out"
    )
    with sole_use(directory / _LOCK, busy):
        yield


def take_over(directory: Path, configuration: dict[str, Any], overwrite: bool) -> int:
    """Keep the episodes in `directory` if they are of `configuration`, which is stored there.

    Episodes of another one are discarded when `overwrite`, else InputError names what differs.
    Unreadable files (a machine that went down while writing) are removed, so that those episodes
    are collected again; returns how many.
    """
    kept = kept_episodes(directory)
    different = _differences(directory, configuration) if kept else ""
    if different and not overwrite:
        raise InputError(
            f"{directory} keeps {len(kept)} episodes of an interrupted collection with other "
            f"settings: {different}. Repeat those settings to resume it, or give --overwrite to "
            "discard it"
        )
    damaged = [key for key in kept if different or not _readable(part_path(directory, *key))]
    for key in damaged:
        part_path(directory, *key).unlink()
    write_json(directory / _CONFIGURATION, configuration)
    return 0 if different else len(damaged)


def array_names(part: Path) -> list[str]:
    """The arrays of one episode. Raises InputError when the file cannot be read."""
    with _opened(part) as file:
        return list(file.files)


def merge(parts: Sequence[Path], target: Path, advance: Callable[[int], object]) -> int:
    """Write the episodes in `parts`, one after the other, as one npz; returns the transitions.

    Array by array and part by part, so that memory does not grow with the data set. The bytes
    depend on the episodes alone: members carry no time of day. Not atomic: give a temporary name.
    `advance` is called with 1 for every array of every part that is done. Raises InputError when
    a part is damaged or does not fit the first.
    """
    lengths = [len(_array(part, "terminals")) for part in parts]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name in array_names(parts[0]):
            first = _array(parts[0], name)
            header = np.lib.format.header_data_from_array_1_0(first)
            header["shape"] = (sum(lengths), *first.shape[1:])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part, length in zip(parts, lengths):
                    array = _array(part, name)
                    if (array.dtype, array.shape) != (first.dtype, (length, *first.shape[1:])):
                        raise _damaged(part, f"its {name} does not fit {parts[0].name}")
                    member.write(np.ascontiguousarray(array).tobytes())
                    advance(1)
    return sum(lengths)


def _array(part: Path, name: str) -> Array:
    with _opened(part) as file:
        if name not in file:
            raise _damaged(part, f"no {name}")
        return file[name]


@contextmanager
def _opened(part: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        # np.load leaves the file open when it turns out not to be a zip archive
        with part.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(part, error) from error


def _damaged(part: Path, why: object) -> InputError:
    return InputError(f"{part} is damaged: {why}. Delete it: the same command collects it again")


def _differences(directory: Path, configuration: dict[str, Any]) -> str:
    try:
        stored = json.loads((directory / _CONFIGURATION).read_bytes())
    except (OSError, ValueError):
        return f"its {_CONFIGURATION} is missing or unreadable"
    wanted = json.loads(json.dumps(configuration))
    names = sorted({*stored, *wanted})
    return ", ".join(
        f"{name} was {stored.get(name)}, is now {wanted.get(name)}"
        for name in names
        if stored.get(name) != wanted.get(name)
    )


def _readable(part: Path) -> bool:
    try:
        return set(_ARRAYS) <= set(array_names(part))
    except InputError:
        return False
