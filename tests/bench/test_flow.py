"""bench of a flow of anybody's networks: our loop beside somebody's own, which must agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qgf_ref.bench.timed_flow import TimedFlow
from qgf_ref.bench.validation import Reference
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from tests.bench.peers import euler, euler_off

BUILD = "tests.crosscheck.closed_flow:flow"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peers = [f"--peer=tests.bench.peers:{name}" for name in ("euler", "euler_off")]
    run = ["bench", "--flow", BUILD, "--batch", "1", "3", "--rounds", "3", "--threads", "1"]
    assert main([*run, *peers, "--no-memory", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "euler_off does not compute the sampler" in said.err
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert [(r["network"], r["batch"], r["dtype"]) for r in rows] == [
        ("flow", 1, "float64"), ("flow", 3, "float64"),
    ]  # fmt: skip
    for row in rows:
        assert list(row["contenders"]) == ["numpy", "euler"]
        assert row["counts"] is None and row["weights_bytes"] is None
    page = (tmp_path / "out" / "bench.md").read_text()
    assert "64 MiB" in page and "bench.png" not in page + said.out
    assert not (tmp_path / "out" / "bench.png").exists()  # nothing of it is counted
    wrong = [*run, "--dtype", "float32", "--network", "2x16", "--out", str(tmp_path / "b")]
    assert main(wrong) == 2
    assert "leave out --network, --dtype" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_flow_is_its_own_reference_to_what_rounding_explains(dtype: str) -> None:
    timed = TimedFlow.named(BUILD)
    if dtype == "float32":
        from tests.crosscheck.closed_flow import flow

        timed = TimedFlow(flow("float32"), None)
    T = timed.options.denoise_steps
    reference = Reference.of(timed, "qgf", 0.1, T, 0)
    obs, noise = reference.inputs(timed, 16, dtype, 0)
    how = {"estimator": "qgf", "weight": 0.1, "denoise_steps": T}
    reference.require("euler", euler(timed.flow, **how)(obs, noise), "16 rows")
    with pytest.raises(InputError, match="does not compute the sampler"):
        reference.require("off", euler_off(timed.flow, **how)(obs, noise), "16 rows")
    with pytest.raises(InputError, match="was asked for"):
        timed.astype("float32" if dtype == "float64" else "float64")


def test_inputs_are_drawn_of_the_flows_observations() -> None:
    own = np.arange(3.0)[:, None] * np.ones((3, 5))
    timed = TimedFlow(TimedFlow.named(BUILD).flow, own)
    drawn = timed.draw(np.random.default_rng(0), 50)
    assert set(drawn[:, 0]) == {0.0, 1.0, 2.0} and (drawn == drawn[:, :1]).all()
