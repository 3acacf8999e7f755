"""benchmarks/gpu.py where there is no GPU: its parts on the stand-in, and what it starts with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_checks, gpu_speed
from benchmarks.gpu_report import targets
from tests.helpers.gpu.on_cpu import require_compiler

ROOT = Path(__file__).resolve().parents[1]
THERE = {"numpy", "scipy", "safetensors", "numba", "llvmlite", "jax", "jaxlib", "torch"}
"""What a lent machine has besides CuPy."""


def test_it_fits_into_ten_minutes() -> None:
    """With a little left for starting it and for the picture."""
    assert sum(gpu.PARTS.values()) <= 585
    assert gpu.PARTS["sanitizer"] > gpu_checks.SANITIZER_SECONDS


def test_it_starts_with_what_a_lent_machine_has() -> None:
    """Neither pytest nor OGBench nor matplotlib, nor flax until JAX is asked."""
    lines = f"""
import sys
from importlib.metadata import packages_distributions

OTHERS = set(packages_distributions()) - {THERE!r} - {{"qgf_ref", "benchmarks", "tests"}}

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS and not name.startswith("_"):
            raise ImportError(f"no {{name}} here")

sys.meta_path.insert(0, Without())
from benchmarks import gpu
for part in (*gpu.PARTS, "short"):
    gpu.work(part)
from benchmarks.gpu_report import write_figure
row = {{"network": "1x1", "batch": 1, "operations": 1.0, "seconds": {{"cupy": {{"median": 1.0}}}}}}
write_figure({{"parts": {{"sampler": {{"rows": [row]}}}}}}, None)
"""
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no matplotlib here")


@pytest.fixture
def dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a part on the stand-in; gives its rows."""
    require_compiler()
    monkeypatch.delenv("OUT", raising=False)
    monkeypatch.setattr(gpu_speed, "contenders", lambda size, name, state: {})

    def run(part: str, *more: str) -> list[dict[str, Any]]:
        assert gpu.main(["--dry", "--part", part, "--out", str(tmp_path), *more]) == 0
        content = json.loads((tmp_path / "gpu_dry.json").read_text())
        return list(content["parts"][part]["rows"])

    return run


def test_device_and_sampler(dry: Any, tmp_path: Path) -> None:
    (facts,) = dry("device")
    assert facts["bandwidth"] > 0 and facts["product_rate"] > 0
    rows = dry("sampler")
    assert [row["batch"] for row in rows] == [1, 20]
    for row in rows:
        assert not row["failed"] and row["operations"] > 0 and row["bytes"] > 0
    again = dry("sampler", "--only", "2x6")
    assert [row["network"] for row in again] == ["2x8", "2x8", "2x6", "2x6"]
    text = (tmp_path / "gpu_dry.md").read_text()
    assert text.startswith("# Not on a GPU") and "## device" in text


def test_a_contender_that_is_not_there_is_told(dry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("no flax here")

    monkeypatch.setattr(gpu_speed, "contenders", lambda size, name, state: {"JAX": missing})
    rows = dry("gradients", "--only", "1x4")
    assert {row["estimator"] for row in rows} == {"qgf_jacobian", "bptt"}
    assert all(row["failed"] == {"JAX": "ImportError: no flax here"} for row in rows)


def test_without_the_sanitizer(dry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks.shutil, "which", lambda name: "/nowhere/compute-sanitizer")
    rows = dry("sanitizer")
    assert [(row["tool"], row["clean"]) for row in rows] == [(t, None) for t in gpu_checks.TOOLS]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["check", "training"])
def test_the_other_parts(dry: Any, part: str) -> None:
    rows = dry(part)
    if part == "check":
        assert max(row["error"] for row in rows) < 1e-4
        assert {row["graph"] for row in rows if "graph" in row} == {None, True}
    else:
        assert [row["preset"] for row in rows] == ["paper", "small"]
        assert all("cupy" in row["seconds"] for row in rows)


def test_results_that_came_back_are_merged(tmp_path: Path) -> None:
    """Of the same cell the later run's; what one has and the other has not stays."""

    def cell(network: str, takes: float) -> dict[str, Any]:
        seconds = {"median": 1e-3, "low": 1e-3, "high": 1e-3}
        ratio = dict.fromkeys(seconds, takes)
        return {
            "estimator": "qgf", "network": network, "batch": 1, "seconds": {"cupy": seconds},
            "ratios": {"JAX": ratio}, "failed": {}, "operations": 1e9, "bytes": 1e6, "commit": "a",
        }  # fmt: skip

    paths = []
    made = {"commit": "a", "time": "then"}
    for n, rows in enumerate(([cell("3x256", 2.0), cell("4x512", 4.0)], [cell("3x256", 5.0)])):
        paths.append(tmp_path / f"{n}.json")
        content = {"parts": {"sampler": {"rows": rows, "provenance": made}}}
        paths[-1].write_text(json.dumps(content))
    merged = gpu.merge(paths, tmp_path / "all")
    assert [row["ratios"]["JAX"]["median"] for row in merged["parts"]["sampler"]["rows"]] == [5, 4]
    told = targets(merged)
    assert told.count("reached") == 2 and "MISSED" not in told
    worse = gpu.merge(paths[:1], tmp_path / "first")
    assert targets(worse).count("MISSED") == 1
