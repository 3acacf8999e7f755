"""The records of an evaluation: one line for each finished group of episodes, appended at once.

The first line says what decides an episode's numbers; every other line holds one group. A run that
is stopped loses the groups that were still running, and the next run of the same evaluation in the
same directory goes on from the rest. A line cut short by a kill is dropped.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.checkpoint import digest as digest_of
from qgf_ref.backends.interface import Backend
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.rollouts import Episode, Played
from qgf_ref.files import lock, require_writable, user_path
from qgf_ref.provenance import provenance

FORMAT = 1
FILE = "records.jsonl"
_ASSUMED = {"backend": "numpy"}
"""What held for records from before it was written into them."""


@dataclass(frozen=True)
class Unit:
    """A group of episodes: which checkpoint, how it acts, and the seeds.

    network  digest of the auxiliary network that the method uses, or "": an evaluation can go on
             with more methods when one was trained since, and replays one that was trained anew
    """

    checkpoint: int
    method: Method
    weight: float | None
    split: str
    seeds: tuple[int, ...]
    network: str = ""

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        """What identifies the group in the records. The split is not part of it: seeds are."""
        weight = "" if self.weight is None else f" w={self.weight!r}"
        seeds = f"{self.seeds[0]}+{len(self.seeds)}"
        network = f" [{self.network}]" if self.network else ""
        how = f"{self.method.identity}{network}{weight}"
        return f"checkpoint {self.checkpoint}: {how}, seeds {seeds}"


class RecordsError(InputError):
    """Records that cannot be gone on with. reason: the message but for what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class Records:
    """Finished groups, in memory and, with a `directory`, in its records file.

    configuration  whatever decides an episode's numbers besides its unit; JSON
    overwrite      start anew, dropping what an earlier evaluation left
    Raises RecordsError when the directory holds the records of another configuration or the file
    is damaged, InputError when another process is writing to them.
    """

    def __init__(
        self, directory: Path | None, configuration: dict[str, Any], *, overwrite: bool = False
    ) -> None:
        self._units: dict[str, Played] = {}
        self._file: Any = None
        if directory is None:
            return
        path = user_path(directory) / FILE
        require_writable(path)
        header = {"format": FORMAT, **configuration}
        file = path.open("ab")
        try:
            busy = f"another evaluation is writing to {path}; wait for it or give another --out"
            lock(file, path, busy)
            lines, newline, _ = path.read_bytes().rpartition(b"\n")
            if overwrite or not newline:
                file.truncate(0)
                file.write(_line(header))
                file.flush()
            else:
                self._read(path, lines.split(b"\n"), header)
                file.truncate(len(lines) + 1)
        except BaseException:
            file.close()
            raise
        self._file = file

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, unit: Unit) -> Played | None:
        """The group, if it is finished."""
        return self._units.get(unit.key)

    def add(self, unit: Unit, played: Played) -> None:
        """Keep a finished group; on return it is on the disk."""
        self._units[unit.key] = played
        if self._file is not None:
            self._file.write(_line({"unit": unit.key, **_plain(played)}))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was added stays readable here."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path, lines: list[bytes], header: dict[str, Any]) -> None:
        try:
            found, *units = [json.loads(line) for line in lines]
        except ValueError as error:
            raise RecordsError(
                f"{path} is damaged or no records file ({error})", "give --overwrite to start anew"
            ) from error
        header = {**_ASSUMED, **json.loads(json.dumps(header))}
        if isinstance(found, dict):
            found = {**_ASSUMED, **found}
        if found != header:
            raise RecordsError(
                f"{path.parent} holds an evaluation with {_differing(found, header)}",
                "give another --out, or --overwrite to drop it",
            )
        try:
            self._units = {unit["unit"]: _played(unit) for unit in units}
        except (KeyError, TypeError) as error:
            raise RecordsError(
                f"{path} is damaged (a group lacks {error})", "give --overwrite to start anew"
            ) from error


def digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of everything of a checkpoint that decides its actions and critic values.

    Auxiliary networks are not part of it: units name theirs.
    """
    stated = checkpoint.options.stated() | checkpoint.agent.stated
    options = json.dumps(stated, sort_keys=True)
    acting = [part.name for part in checkpoint.agent.parts if part.acting]
    return digest_of((checkpoint.part(name) for name in acting), options)


def code_versions(methods: Sequence[Method], backend: Backend) -> dict[str, str]:
    """Versions of the packages that decide an episode, and the sources of the user's estimators."""
    versions = provenance()["versions"]
    found = {name: versions[name] for name in ("qgf_ref", "numpy", "ogbench", "mujoco")}
    package = backend.packages[0]
    found[package] = versions[package]
    for method in methods:
        module, colon, _ = method.estimator.partition(":")
        if colon:
            path = importlib.import_module(module).__file__
            source = b"" if path is None else Path(path).read_bytes()
            found[module] = hashlib.sha256(source).hexdigest()
    return found


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"


def _plain(played: Played) -> dict[str, Any]:
    return {
        "episodes": [vars(episode) for episode in played.episodes],
        "sampling_seconds": round(played.sampling_seconds, 4),
        "stepping_seconds": round(played.stepping_seconds, 4),
    }


def _played(plain: dict[str, Any]) -> Played:
    episodes = []
    for each in plain["episodes"]:
        values = {f.name: each[f.name] for f in fields(Episode)}
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        episodes.append(Episode(**{**values, **lists}))
    return Played(tuple(episodes), plain["sampling_seconds"], plain["stepping_seconds"])


def _differing(found: Any, header: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "another format"
    names = [k for k in header if found.get(k) != header[k]] or sorted(set(found) - set(header))
    shown = names[0]
    values = f" ({found.get(shown)} there, {header.get(shown)} here)"
    other = "other" if shown.endswith("s") else "another"
    return f"{other} {shown.replace('_', ' ')}" + (values if len(values) < 90 else "")
