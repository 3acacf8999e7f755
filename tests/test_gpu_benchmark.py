"""benchmarks/gpu.py where there is no GPU: its parts on the stand-in, and what it starts with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_checks, gpu_speed, gpu_timing
from benchmarks.gpu_report import shares, targets
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


@pytest.mark.slow
def test_device_and_sampler(dry: Any, tmp_path: Path) -> None:
    (facts,) = dry("device")
    assert facts["bandwidth"] > 0 and facts["product_rate"] > 0
    rows = dry("sampler")
    assert [row["batch"] for row in rows] == [1, 20]
    for row in rows:
        assert not row["failed"] and row["operations"] > 0 and row["bytes"] > 0
        assert set(row["queued"]) == set(row["events"]) == set(row["seconds"])
        assert set(row["event_ratios"]) == set(row["ratios"]) == set(row["seconds"]) - {"cupy"}
        assert ("cupy, TF32" in row["seconds"]) == (row["batch"] > 16)
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
    """Of one seed: some networks have a covariance whose float32 is 1e-4 off in NumPy, too."""
    rows = dry(part, "--seed", "1")
    if part == "check":
        assert {row["seed"] for row in rows if "estimator" in row} == {1}
        rounded = [row["error"] for row in rows if "tf32" in row]
        assert max(row["error"] for row in rows if "tf32" not in row) < 1e-4
        assert rounded and 1e-6 < max(rounded) < 1e-1
        assert {row["graph"] for row in rows if "graph" in row} == {None, True}
    else:
        assert [row["preset"] for row in rows] == ["paper", "small"]
        assert all("cupy" in row["seconds"] for row in rows)


def test_each_clock_has_its_ratios_and_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of contenders whose streams are out of reach there are no events, and no ratio by them."""
    now = [0.0]
    monkeypatch.setattr(gpu_timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(gpu_timing, "wait", lambda: advance(4e-3))

    def advance(seconds: float) -> None:
        now[0] += seconds

    class Clock:
        def mark(self) -> float:
            return now[0]

        def between(self, first: float, last: float) -> float:
            return last - first

    starts = {"cupy": lambda: advance(1e-3), "JAX": lambda: advance(6e-3)}
    size = gpu_timing.Size(turns=2, seconds=0.0)
    found = gpu_timing.timed(starts, size, clocks={"cupy": Clock()})
    medians = {c: {n: t["median"] for n, t in found[c].items()} for c in gpu_timing.CLOCKS}
    assert medians["seconds"] == pytest.approx({"cupy": 5e-3, "JAX": 1e-2})
    calls = found["seconds"]["cupy"]["calls"]
    assert calls > 1 and medians["queued"]["cupy"] == pytest.approx(1e-3 + 4e-3 / calls)
    assert medians["events"] == pytest.approx({"cupy": 1e-3})
    assert found["ratios"]["JAX"]["median"] == pytest.approx(2.0)
    assert found["event_ratios"] == {} and set(found["queued_ratios"]) == {"JAX"}
    slow = gpu_timing.timed({"cupy": lambda: advance(1.0)}, size, clocks={"cupy": Clock()})
    # one call fills a turn: its clocks run together
    assert slow["events"]["cupy"]["median"] == pytest.approx(1.0)
    assert slow["queued"]["cupy"]["median"] == slow["seconds"]["cupy"]["median"]
    row = {**found, "operations": 6.0, "bytes": 3.0}
    by_host = {"product_rate": 2400.0, "bandwidth": 1200.0}
    assert shares(row, by_host) == pytest.approx((0.5, 0.5))
    by_both = {**by_host, "by_events": {"product_rate": 12000.0, "bandwidth": 6000.0}}
    assert shares(row, by_both) == pytest.approx((0.5, 0.5))


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
