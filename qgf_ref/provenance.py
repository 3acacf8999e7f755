"""Where a number came from: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "qgf_ref",
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "cupy",
    "safetensors",
    "matplotlib",
    "ogbench",
    "mujoco",
    "gymnasium",
)

_notes: dict[str, str] = {}


def note(name: str, text: str) -> None:
    """State of this process what every result is to say from now on."""
    _notes[name] = text


def notes() -> dict[str, str]:
    """What was noted, by name."""
    return dict(_notes)


def provenance() -> dict[str, Any]:
    """Versions, processor, thread counts, commit and time, to be stored beside every result.

    And what was noted of this process, such as products in TF32.
    """
    return {
        **notes(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "blas": _blas(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "numpy_cpu": np.show_config(mode="dicts")["SIMD Extensions"].get("found", []),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def _blas() -> list[dict[str, Any]]:
    """Each BLAS that is loaded, as threadpoolctl knows it; none without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return []
    return [
        {key: info.get(key) for key in ("internal_api", "version", "num_threads")}
        for info in threadpool_info()
        if info.get("user_api") == "blas"
    ]


def _version(name: str) -> str:
    names = (name, "cupy-cuda13x", "cupy-cuda12x") if name == "cupy" else (name,)
    for distribution in names:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "not installed"


def _commit() -> str:
    """The commit of a checkout, marked when files differ from it; "unknown" where git cannot tell,
    "installed" for an installed package, whose version is beside it.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "installed" if _version("qgf_ref") != "not installed" else "unknown"
    try:
        run = [
            subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True)
            for args in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run[0].stdout.strip() + (" with changes" if run[1].stdout.strip() else "")
