"""What a process is told to have taken of the memory is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qgf_ref import processes
from qgf_ref.processes import peak_bytes, resident

PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
PEAK = "from qgf_ref.processes import peak_bytes; print(peak_bytes())"


@PROC
def test_the_peak_is_not_that_of_who_started_it() -> None:
    ours = bytearray(400_000_000)
    ours[::4096] = b"1" * len(ours[::4096])
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 300e6 < 400e6 < (peak_bytes() or 0)


@PROC
def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = resident("VmRSS")
    block = bytearray(100_000_000)
    block[::4096] = b"1" * len(block[::4096])
    del block
    now, peak = resident("VmRSS"), peak_bytes()
    assert before is not None and now is not None and peak is not None
    assert peak >= now
    assert peak >= before + 90e6


def test_without_proc_it_is_what_the_system_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_STATUS", tmp_path / "nothing")
    assert resident() is None
    assert (peak_bytes() or 0) > 1e6
