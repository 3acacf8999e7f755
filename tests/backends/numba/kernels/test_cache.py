"""Machine code on disk: kept, said, never stale."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qgf_ref.backends.numba.kernels import cache

SMALL = """
import numpy as np
from qgf_ref.backends.numba.kernels.cache import compiling
from qgf_ref.backends.numba.kernels.updates import moving_average
out = np.empty(3)
with compiling("a small kernel"):
    moving_average(np.arange(3.0), np.ones(3), 0.1, out)
print(out.tobytes().hex())
"""
SAMPLER = """
import qgf_ref
flow = qgf_ref.load(dtype="float32").flow
obs = qgf_ref.embedded_observations()[:3]
print(qgf_ref.sample(flow, obs, weight=0.1, rng=0, backend="numba").tobytes().hex())
"""


def run(directory: Path | str, child: str = SMALL) -> tuple[str, str]:
    environment = {**os.environ, "QGF_REF_CACHE_DIR": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", child], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("child", "what"),
    [
        (SMALL, "a small kernel"),
        pytest.param(SAMPLER, "the sampler's kernels for float32", marks=pytest.mark.slow),
    ],
)
def test_compiled_once_and_said_so(tmp_path: Path, child: str, what: str) -> None:
    first, said = run(tmp_path, child)
    assert f"compiling {what}: " in said and str(tmp_path) in said
    again, silent = run(tmp_path, child)
    assert silent == ""
    assert first == again
    assert list(tmp_path.rglob("*.nbc"))


def test_other_sources_have_another_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QGF_REF_CACHE_DIR", str(tmp_path))
    cache.directory.cache_clear()
    try:
        here = cache.directory()
        monkeypatch.setattr(cache, "_version", lambda: "another")
        cache.directory.cache_clear()
        assert here != cache.directory() == tmp_path / "another"
    finally:
        monkeypatch.undo()
        cache.directory.cache_clear()


def test_every_compiled_module_counts() -> None:
    named = {path.name for path in cache.sources()}
    assert {"simd.py", "gemm.py", "rows.py", "interpreter.py", "barrier.py"} <= named


def test_what_compiled_modules_import_counts_or_is_never_compiled_in() -> None:
    """Constants and functions of other modules would go into machine code unseen."""
    root = cache.PACKAGE
    counted = {str(path.relative_to(root)) for path in cache.sources()}
    imported = set()
    for path in cache.sources():
        text = path.read_text()
        if not re.search(r"kernels\.cache import .*\b(inner|summing|kernel)\b", text):
            continue  # nothing is compiled there
        for module, first in re.findall(r"^from qgf_ref\.([\w.]+) import (\w*)", text, flags=re.M):
            place = module.replace(".", "/")
            imported.add(f"{place}/{first}.py" if (root / place).is_dir() else f"{place}.py")
    assert imported - counted <= {"arrays.py", "errors.py"}


def test_one_byte_of_source_makes_another_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "source.py"
    monkeypatch.setattr(cache, "sources", lambda: [source])
    source.write_text("a = 1")
    first = cache._version.__wrapped__()
    source.write_text("a = 2")
    second = cache._version.__wrapped__()
    monkeypatch.setattr(cache.numba, "__version__", "0")
    assert len({first, second, cache._version.__wrapped__()}) == 3


def test_a_damaged_file_is_compiled_anew(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    for path in (*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again, _ = run(tmp_path)
    assert again == first
    assert run(tmp_path)[0] == first


def test_without_a_place_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("QGF_REF_CACHE_DIR", str(blocked))
    cache.directory.cache_clear()
    try:
        assert cache.directory() is None
        with cache.compiling("a test's kernels"):
            pass
        assert "kept nowhere" in capsys.readouterr().err
        with cache.compiling("a test's kernels"):
            pass
        assert capsys.readouterr().err == ""
    finally:
        monkeypatch.undo()
        cache.directory.cache_clear()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_costs_no_result(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def full(*_: object) -> Iterator[None]:
        raise OSError(number, os.strerror(number))
        yield

    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    monkeypatch.setattr(cache.IndexDataCacheFile, "_open_for_write", full)
    cache._say_not_kept.cache_clear()
    twice, thrice = cache.kernel(lambda x: 2 * x), cache.kernel(lambda x: 3 * x)
    assert (twice(2), thrice(2)) == (4, 6)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot be kept in {tmp_path} ({os.strerror(number)}): going on without" in said


def test_numbas_switch_for_debugging_is_not_for_our_code() -> None:
    place = "qgf_ref.backends.numba.kernels.cache"
    code = f"from {place} import inner; print(inner(lambda x: -x).signatures)"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
