"""What `qgf-ref trace` writes, `qgf-ref compare` finds right, however it was computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, Mistakes
from qgf_ref.errors import InputError
from qgf_ref.files import write_npz
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.ops.time_embedding import PRECISIONS
from tests.crosscheck.ports import inputs, lively, port_run, setting
from tests.helpers.agents import variant
from tests.helpers.some import some

CHECKPOINT = lively()
HOW = [
    ["--dtype", dtype, "--time-embedding", embedding, "--backend", backend]
    for dtype in ("float32", "float64")
    for embedding in PRECISIONS
    for backend in ("numpy", "numba")
]
GUIDED = ("--weight", "0.3", "--estimator")


def written(place: Path, networks: Any, *flags: str) -> Path:
    """A trace of `networks`."""
    given = inputs(networks)
    save_checkpoint(networks, place / "m.safetensors")
    write_npz(place / "in.npz", {"obs": given.obs, "noise": given.noise})
    out = place / "out.npz"
    where = ["--checkpoint", str(place / "m.safetensors"), "--input", str(place / "in.npz")]
    assert main(["trace", *where, "--out", str(out), *flags]) == 0
    return out


def compared(out: Path) -> int:
    """What `compare` says of it."""
    return main(["compare", "--checkpoint", str(out.parent / "m.safetensors"), "--trace", str(out)])


@pytest.mark.parametrize("how", HOW, ids="-".join)
@pytest.mark.parametrize("name", some(["qgf", "none", "bptt", "qgf_covariance", "qgf+norm=2"], 2))
def test_ours_agrees(tmp_path: Path, how: list[str], name: str) -> None:
    out = written(tmp_path, CHECKPOINT, *how, *GUIDED, name)
    assert compared(out) == 0


@pytest.mark.parametrize("name", some(["dac", "fql", "qsm", "edp", "qam", "dqc"], 3))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_ours_of_other_agents_agrees(tmp_path: Path, name: str, dtype: str, backend: str) -> None:
    guided = (*GUIDED, "qgf") if name == "dqc" else ()
    flags = ["--dtype", dtype, "--backend", backend]
    assert compared(written(tmp_path, variant(name), *flags, *guided)) == 0


def in_float32(made: Mistakes = (), **metadata: Any) -> Comparison:
    """A float32 port with exact times and a mistake, and what it says of itself."""
    chosen = replace(setting(CHECKPOINT), time_precision="exact", wide_times=True)
    given = inputs(CHECKPOINT)
    arrays = {**port_run(chosen, made, given), "obs": given.obs, "noise": given.noise}
    known = {"estimator": "qgf", "weight": float(given.weight), **metadata}
    return compare(CHECKPOINT, recorded_trace(arrays, known))


def test_what_it_says_of_its_times_is_believed_and_told() -> None:
    found = in_float32(time_embedding="exact")
    assert found.agrees and found.setting.wide_times
    assert any("times embedded in float64, as its metadata say" in note for note in found.notes)
    # the same numbers of a port that says nothing are the mistake that they are
    found = in_float32()
    assert [e.names for e in found.diagnosis.explanations] == [("time-float64",)]


def test_another_mistake_beside_exact_times_is_named_alone() -> None:
    found = in_float32((Made("gradient-negated", ""),), time_embedding="exact")
    assert [e.names for e in found.diagnosis.explanations] == [("gradient-negated",)]


def test_a_time_embedding_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="time_embedding 'half'; the valid ones are: exact, float"):
        in_float32(time_embedding="half")


def test_metadata_say_how_times_were_embedded(tmp_path: Path) -> None:
    out = written(tmp_path, CHECKPOINT, *HOW[0], *GUIDED, "qgf")
    with np.load(out) as arrays:
        known = json.loads(str(arrays["metadata"]))
    assert (known["dtype"], known["time_embedding"]) == ("float32", "exact")
