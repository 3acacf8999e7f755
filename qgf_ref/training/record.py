"""train.json: what a run was, and how long each of its sessions took."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_ref.backends.engine import backend_named
from qgf_ref.errors import InputError, reason
from qgf_ref.files import write_json
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.provenance import provenance
from qgf_ref.training.config import TrainConfig

RECORD = "train.json"
_HEAD = 1 << 20


class Record:
    """The contents of train.json. `sessions` has an entry for the start and each resumption."""

    def __init__(self, directory: Path, config: TrainConfig, content: dict[str, Any]) -> None:
        self.path = directory / RECORD
        self.config = config
        self._content = content

    @classmethod
    def create(cls, directory: Path, config: TrainConfig, about: dict[str, Any]) -> Record:
        """A new run's record. `about`: data set and networks."""
        return cls(directory, config, {**about, "sessions": []})

    @classmethod
    def read(cls, directory: Path) -> Record:
        """The record of the run in `directory`; raises InputError when there is none."""
        path = directory / RECORD
        try:
            text = path.read_bytes()
        except (OSError, UnicodeError) as error:
            raise InputError(
                f"{directory} holds no training run: cannot read {path}: {reason(error)}"
            ) from error
        content = json_object(text, str(path))
        settings = content.pop("config", None)
        if isinstance(settings, dict):  # runs from before there was a choice were NumPy's
            settings = {"backend": "numpy", **settings}
        config = TrainConfig.from_json(settings, f"{path}: config")
        if not isinstance(content.get("sessions"), list) or "dataset" not in content:
            raise InputError(f"{path} is not a training record: it lacks sessions or dataset")
        return cls(directory, config, content)

    @property
    def dataset(self) -> Any:
        """The fingerprint of the data set that the run was started on."""
        return self._content["dataset"]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The start and each resumption: provenance, updates, seconds."""
        return list(self._content["sessions"])

    @property
    def last_update(self) -> int:
        """How far the saved state reaches; 0 when nothing was saved."""
        return max((s.get("to_update", 0) for s in self._content["sessions"]), default=0)

    @property
    def identity(self) -> str:
        """When the run was started: what tells it from an earlier one in the same directory."""
        return str(self._content["sessions"][0]["provenance"].get("time"))

    def begin_session(self) -> None:
        """Note versions, machine and commit of the code that now runs."""
        self._content["sessions"].append({"provenance": provenance()})

    def changes(self) -> list[str]:
        """What differs from the first session that can change a result's last bits."""
        first, last = (self._content["sessions"][i]["provenance"] for i in (0, -1))
        versions = first.get("versions", {})
        pairs = {
            "processor": (first.get("processor"), last["processor"]),
            # sorted: the order in which threadpoolctl meets the libraries is not fixed
            "blas": tuple(
                sorted(str(b.get("version")) for b in session.get("blas", []))
                for session in (first, last)
            ),
        }
        for name in dict.fromkeys(("numpy", *backend_named(self.config.backend).packages)):
            if name in versions or name == "numpy":  # what older records lack is not known
                pairs[name] = versions.get(name), last["versions"][name]
        return [f"{name} {was}, now {now}" for name, (was, now) in pairs.items() if was != now]

    def progress(self, first: int, last: int, seconds: float) -> None:
        """How far this session has come."""
        rate = (last - first) / seconds if seconds > 0 else 0.0
        self._content["sessions"][-1] |= {
            "from_update": first,
            "to_update": last,
            "seconds": round(seconds, 1),
            "updates_per_second": round(rate, 1),
        }

    def note(self, **facts: Any) -> None:
        """Add facts about the session that now runs."""
        self._content["sessions"][-1] |= facts

    def write(self) -> None:
        """Write train.json, atomically."""
        write_json(self.path, {"config": self.config.to_json(), **self._content})


def trained_task(directory: Path) -> str | None:
    """The task of the run in `directory`, or None when it holds none."""
    return Record.read(directory).config.task if (directory / RECORD).exists() else None


def fingerprint(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of the first MiB of each file: enough to notice another one."""
    found = []
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_HEAD)).hexdigest()
        found.append({"name": path.name, "bytes": path.stat().st_size, "head_sha256": digest})
    return found
