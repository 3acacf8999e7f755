"""Files of public repositories at pinned commits, for the time of a run.

They come from raw.githubusercontent.com, or from clones on this machine: QGF_REF_PORTS names a
folder with OWNER/NAME, clones or mirrors that hold the commit. Every file is compared with its
SHA-256 before it is imported, wherever it came from. Nothing is installed, and nothing stays.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CLONES = "QGF_REF_PORTS"
SECONDS = 30


class NoSource(Exception):
    """The files cannot be had here; the message says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """Files of a repository: path below `root` → SHA-256."""

    repository: str
    commit: str
    root: str
    files: Mapping[str, str]

    @property
    def title(self) -> str:
        """As pages show it."""
        link = f"https://github.com/{self.repository}/tree/{self.commit}"
        return f"[{self.repository}]({link}) at `{self.commit[:7]}`"

    def written(self, folder: Path) -> Path:
        """The root, with every file, in a folder of its own. Raises NoSource where there is no way
        to them, and ValueError on bytes that are not the pinned ones.
        """
        into = folder / self.repository.replace("/", "+")
        for path, digest in self.files.items():
            content = self._content(f"{self.root}/{path}")
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(
                    f"{self.repository}: {path} is not the file of commit {self.commit}"
                )
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_bytes(content)
        return into

    def _content(self, path: str) -> bytes:
        clones = os.environ.get(CLONES)
        if clones is None:
            url = f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{path}"
            try:
                with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                    return bytes(answer.read())
            except OSError as error:
                raise NoSource(
                    f"no way to {url} ({error}): set {CLONES} to a folder with clones OWNER/NAME"
                ) from error
        command = ["git", "-C", f"{clones}/{self.repository}", "show", f"{self.commit}:{path}"]
        run = subprocess.run(command, capture_output=True, check=False)
        if run.returncode:
            raise NoSource(f"{' '.join(command)} failed: {run.stderr.decode().strip()}")
        return run.stdout


@contextmanager
def importing(*roots: Path) -> Iterator[None]:
    """Let modules below these folders be imported by their own names, and forget them after.

    They stay usable; their names (`utils`, `model`) are anybody's.
    """
    before, path = dict(sys.modules), list(sys.path)
    sys.path[:0] = map(str, roots)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        new = set(sys.modules) - set(before)
        for name in [name for name in new if _below(sys.modules[name], roots)]:
            del sys.modules[name]


def pinned(repository: str) -> Source:
    """The commit and files of OWNER/NAME in pins.json."""
    pin = json.loads(Path(__file__).with_name("pins.json").read_text())[repository]
    return Source(repository, pin["commit"], pin["root"], pin["sha256"])


def _below(module: ModuleType, roots: tuple[Path, ...]) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(p and Path(p).is_relative_to(root) for p in places for root in roots)
