"""Whether a cluster's workers are fit for a sweep: as this process, and seeing its directory."""

from __future__ import annotations

import hashlib
import platform
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError
from qgf_ref.provenance import provenance
from qgf_ref.sweeps.place import SweepPlace

_FIRST_WORKER = 60.0


@cache
def code_digest() -> str:
    """SHA-256 of this package's sources, shortened: two checkouts of one version may differ."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def own_facts() -> dict[str, str]:
    """What must be the same on every worker."""
    versions = provenance()["versions"]
    names = ("qgf_ref", "numpy", "scipy", "numba", "safetensors", "ogbench", "mujoco", "gymnasium")
    about = {"python": platform.python_version(), **{n: versions[n] for n in names}}
    return about | {"source of qgf_ref": code_digest(), "dask": version("dask")}


def facts(token: Path, expected: str) -> dict[str, str]:
    """The same, and whether this worker reads what was written to `token`."""
    seen = ""
    with suppress(OSError):
        seen = token.read_text()
    return {**own_facts(), "sees the directory": "yes" if seen == expected else "no"}


def difference(theirs: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    return "; ".join(f"{k} {theirs.get(k)} there, {v} here" for k, v in here.items()
                     if theirs.get(k) != v)  # fmt: skip


def check_workers(client: Any, place: SweepPlace, wait: float = _FIRST_WORKER) -> int:
    """How many workers there are, after a check that they are fit for the sweep.

    Raises InputError when none comes within `wait` seconds, when one has other versions than this
    process, and when one does not see the sweep's directory.
    """
    try:
        client.wait_for_workers(1, timeout=wait)
    except TimeoutError:
        raise InputError(
            f"no Dask worker has come within {wait:g} s: start some (dask worker ADDRESS), or see "
            "why the queue does not start them"
        ) from None
    token, expected = place.root / "jobs" / f".seen-{secrets.token_hex(8)}", secrets.token_hex(16)
    token.write_text(expected)
    try:
        own = facts(token, expected)
        try:
            answers = client.run(facts, token, expected)
        except Exception as error:
            raise InputError(
                f"a Dask worker cannot run qgf_ref ({type(error).__name__}: {error}): install the "
                f"same version there as here, {own['qgf_ref']}"
            ) from error
    finally:
        token.unlink(missing_ok=True)
    for address, theirs in answers.items():
        if theirs["sees the directory"] != "yes":
            raise InputError(
                f"the worker {address} does not see {place.root}: --out must be on a file system "
                "that this machine and all workers share, under the same path"
            )
        if other := difference(theirs, own):
            raise InputError(
                f"the worker {address} is not as this process ({other}): results would depend on "
                "who does a job. Install the same versions"
            )
    return len(answers)
