"""A small measurement from end to end: what the rows hold, the report, and the ceilings."""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.bench import run
from qgf_ref.bench.against import against, earlier
from qgf_ref.bench.against import text as against_text
from qgf_ref.bench.report import FILES, number, text, write_report
from qgf_ref.bench.run import benchmark, busy, ceilings
from qgf_ref.bench.settings import BenchSettings, Peer
from qgf_ref.errors import InputError

PLACE = "tests.bench.peers:"
SMALL = BenchSettings(
    networks=("2x16",), batches=(1, 3), threads=(1,), backends=("numpy",), rounds=3, turn=0.001,
    cell=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    peers = tuple(Peer(n, PLACE + n) for n in ("right", "lacking"))
    return benchmark(replace(SMALL, peers=peers, skip=(("right", 2),)))


def test_rows(content: dict[str, Any]) -> None:
    assert [(r["batch"], list(r["contenders"])) for r in content["rows"]] == [
        (1, ["numpy", "right"]),
        (3, ["numpy"]),
    ]
    for row in content["rows"]:
        assert (row["threads"], row["rounds"], row["denoise_steps"]) == (1, 3, 10)
        for entry in row["contenders"].values():
            seconds = entry["seconds"]["median"]
            assert len(entry["seconds_of_each_round"]) == 3
            assert entry["samples_per_second"]["median"] == pytest.approx(row["batch"] / seconds)
            flops = row["counts"]["necessary"]["flops"]
            assert entry["gflops_necessary"] == pytest.approx(flops / seconds / 1e9)
            share = entry["gflops_necessary"] / row["gemm_peak_gflops"]
            assert entry["share_of_gemm_peak"] == pytest.approx(share)
            assert 0 < entry["error"] <= entry["tolerance"]
    first = content["rows"][0]["contenders"]["numpy"]["slower_than_first"]
    assert first["min"] == first["max"] == 1
    assert any("lacking: guidance is for later" in note for note in content["notes"])
    assert any("right is left out" in note for note in content["notes"])
    assert {"commit", "versions", "processor", "time"} <= set(content)


def test_peak_memory(content: dict[str, Any]) -> None:
    found = [r["contenders"]["numpy"]["peak_memory_bytes"] for r in content["rows"]]
    if Path("/proc/self/clear_refs").exists() and None not in found:
        assert all(0 <= peak < 1e9 for peak in found)


def test_report(content: dict[str, Any], tmp_path: Path, draws: None) -> None:
    write_report(content, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == content["rows"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "bench.md").read_text()
    assert page.count("| 2x16 |") == 3
    assert "lacking: guidance is for later" in page
    shown = text(content)
    assert max(map(len, shown.splitlines())) <= 100
    assert "qgf, float32, 1 thread, weight 0.1" in shown


WRONG = {
    "heavier": "heavier does not compute the sampler.* on qgf, 2x16, batch 1",
    "in_its_input": "in_its_input writes into the noise that it is called with",
    "first_answer": r"on qgf, 2x16, batch \d, float32, the last of \d+ calls, each on other inputs",
    "reused_graph": "the last of .* calls",
    "late_failure": "late_failure raised, in a timed call, RuntimeError: out of memory at",
    "narrowed_later": "narrowed_later returned float16",
    "known_arrays": "called with arrays that it knows and other numbers in them, its ",
}


@pytest.mark.slow
def test_a_wrong_peer_costs_the_others_nothing() -> None:
    """Wrong at its first call, or at a later one on other inputs: what is timed is validated."""
    peers = tuple(Peer(name, PLACE + name) for name in ("right", *WRONG))
    content = benchmark(replace(SMALL, peers=peers, memory=False))
    assert [list(row["contenders"]) for row in content["rows"]] == [["numpy", "right"]] * 2
    assert list(content["refused"]) == list(WRONG)
    for name, message in WRONG.items():
        assert re.search(message, content["refused"][name]), content["refused"][name]


def test_a_busy_machine_is_told() -> None:
    cores = os.cpu_count() or 1
    assert busy(None) == busy((0.1, 9.0, 9.0)) == []
    assert busy((18.4, 0.0, 0.0))[0].startswith(f"NOT IDLE: load 18.4 on {cores} cores")


def test_the_load_of_an_earlier_part_is_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.os, "getloadavg", lambda: (9.0, 9.0, 9.0), raising=False)
    monkeypatch.setattr(run, "measure_on", lambda *_: {"rows": [], "notes": [], "refused": {}})
    told = [benchmark(SMALL, first=first)["notes"][:1] for first in (True, False)]
    assert told[0][0].startswith("NOT IDLE") and not str(told[1]).count("NOT IDLE")


def test_against_an_earlier_measurement(content: dict[str, Any], tmp_path: Path) -> None:
    slow = copy.deepcopy(content)
    for row in slow["rows"]:
        entry = row["contenders"]["numpy"]
        entry["seconds_of_each_round"] = [2 * s for s in entry["seconds_of_each_round"]]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    rows = against(slow, earlier(path))
    assert {(r["contender"], round(r["ratio"], 3)) for r in rows} == {("numpy", 2), ("right", 1)}
    shown = against_text(rows, slow, content)
    assert max(map(len, shown.splitlines())) <= 100
    same = against(content, content)
    assert {r["verdict"] for r in same} <= {"not told apart", "slower", "faster"}
    assert all(r["low"] <= r["ratio"] == 1 <= r["high"] for r in same)
    for nonsense in ("[]", "{}", "nonsense", '{"rows": [{}]}'):
        path.write_text(nonsense)
        with pytest.raises(InputError, match=r"is no bench\.json"):
            earlier(path)


def test_the_caller_keeps_its_cores(content: dict[str, Any]) -> None:
    if hasattr(os, "sched_getaffinity"):
        before = os.sched_getaffinity(0)
        with pytest.raises(InputError, match="cannot import"):
            benchmark(replace(SMALL, peers=(Peer("x", "no_such:x"),)))
        assert os.sched_getaffinity(0) == before


def test_a_ceiling_is_the_fastest_of_the_same_kind() -> None:
    def row(dtype: str, gemm: float, size: int, read: float) -> dict[str, Any]:
        entry = {"gflops_necessary": 50.0, "weight_gbytes": 10.0}
        return {
            "dtype": dtype, "threads": 1, "weights_bytes": size, "contenders": {"a": entry},
            "gemm_gflops": {"max": gemm}, "read_gbytes": {"max": read},
        }  # fmt: skip

    rows = [
        row("float32", 90.0, 1, 40.0),
        row("float32", 100.0, 2, 20.0),
        row("float64", 60.0, 2, 30.0),
    ]
    ceilings(rows)
    assert [r["gemm_peak_gflops"] for r in rows] == [100.0, 100.0, 60.0]
    assert [r["read_peak_gbytes"] for r in rows] == [40.0, 20.0, 30.0]
    assert rows[0]["contenders"]["a"]["share_of_gemm_peak"] == 0.5
    assert rows[1]["contenders"]["a"]["share_of_read_peak"] == 0.5


def test_numbers() -> None:
    assert [number(x) for x in (0.01234, 1.0, 99.96, 123.4, 12345.6)] == [
        "0.0123", "1", "100", "123", "12346",
    ]  # fmt: skip
