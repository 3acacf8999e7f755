"""benchmarks/isa.py: what is asked of the libraries, and who is found not to have heeded it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from llvmlite import binding

from benchmarks import isa, speed


def rates(**gflops: float | None) -> dict[str, Any]:
    return {name: {"says": "x", "gflops": rate} for name, rate in gflops.items()}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `ran` find these rates."""

    def find(**gflops: float | None) -> None:
        said = f"a peer's line\n{json.dumps(rates(**gflops))}\n"
        monkeypatch.setattr(
            isa.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said, returncode=0)
        )

    return find


def test_who_ran_wider_vectors(measured: Any) -> None:
    measured(numba=80.0, numpy=72.0, JAX=142.0, PyTorch=103.0, OpenVINO=46.0, other=None)
    found = isa.ran("avx2")
    assert {name for name, each in found.items() if each["wider"]} == {"JAX"}
    assert not any(each["wider"] for each in isa.ran("native").values()), "nothing was asked"
    told = speed.vectors({"asked": "avx2", "ran": found})
    assert "Asked for avx2, JAX multiplied matrices faster than it can" in told
    assert "Asked" not in speed.vectors({"asked": "native", "ran": isa.ran("native")})


def test_flags_of_the_users_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    assert isa.environment("native")["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    held = isa.environment("avx2")
    assert held["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false --xla_cpu_max_isa=AVX2"
    assert {k: held[k] for k in isa.AVX2 if k != "XLA_FLAGS"} == {
        k: v for k, v in isa.AVX2.items() if k != "XLA_FLAGS"
    }


def test_an_unknown_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        isa.main(["sse9"])
    said = capsys.readouterr().err
    assert "invalid choice: 'sse9' (choose from " in said and "avx2" in said


def test_how_steady_the_machine_was() -> None:
    """The worst cell counts."""
    rows = [
        {"gemm_gflops": {"q25": low, "median": middle}, "gemm_peak_gflops": 200.0}
        for low, middle in ((190.0, 198.0), (80.0, 150.0))
    ]
    assert "in no cell below 75% of its fastest (a quarter of the rounds: 40%)" in (
        speed.steadiness(rows)
    )


@pytest.mark.peers
def test_held_to_avx2() -> None:
    """Real libraries: those whose switch is known to work say so, and nobody fails."""
    if not binding.get_host_cpu_features().get("avx2"):
        pytest.skip("needs a processor with AVX2")
    found = isa.ran("avx2")
    assert list(found) == list(isa.CONTENDERS)
    assert found["numba"]["says"] == "32-byte vectors, haswell"
    assert found["numpy"]["says"].endswith("X86_V4 off")
    assert found["PyTorch"]["says"] == "AVX2"
    assert found["OpenVINO"]["says"] == "brgemm_avx2_f32"
    assert all(each["gflops"] > 1 for each in found.values())
    assert not any(found[name]["wider"] for name in isa.HEED)
