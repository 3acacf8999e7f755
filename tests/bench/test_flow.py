"""bench of a flow of anybody's networks: our loop beside somebody's own, which must agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qgf_ref.bench.report import write_report
from qgf_ref.bench.run import benchmark
from qgf_ref.bench.settings import BenchSettings, Peer
from qgf_ref.bench.timed_flow import TimedFlow
from qgf_ref.bench.validation import Reference
from qgf_ref.cli.bench import settings_of
from qgf_ref.cli.main import main, parser
from qgf_ref.errors import InputError
from tests.bench.peers import euler, euler_off

BUILD = "tests.crosscheck.closed_flow:flow"


@pytest.mark.slow
def test_a_measurement(tmp_path: Path) -> None:
    peers = tuple(Peer(name, f"tests.bench.peers:{name}") for name in ("euler", "euler_off"))
    content = benchmark(
        BenchSettings(
            flow=BUILD, dtypes=("float64",), batches=(1, 3), threads=(1,), backends=("numpy",),
            peers=peers, rounds=3, turn=0.001, cell=1.0, memory=False,
        )
    )  # fmt: skip
    assert "euler_off does not compute the sampler" in content["refused"]["euler_off"]
    for row, batch in zip(content["rows"], (1, 3), strict=True):
        assert (row["network"], row["batch"], row["dtype"]) == ("flow", batch, "float64")
        assert list(row["contenders"]) == ["numpy", "euler"]
        assert row["counts"] is None and row["weights_bytes"] is None
    write_report(content, tmp_path)
    page = (tmp_path / "bench.md").read_text()
    assert "64 MiB" in page and "bench.png" not in page  # nothing of it is counted
    assert not (tmp_path / "bench.png").exists()


def test_what_is_not_for_a_flow_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["bench", "--flow", BUILD, "--dtype", "float32", "--network", "2x16"]
    assert main([*run, "--out", str(tmp_path / "out")]) == 2
    assert "leave out --network, --dtype" in capsys.readouterr().err
    chosen = settings_of(parser().parse_args(["bench", "--flow", BUILD]))
    assert (chosen.dtypes, chosen.backends, chosen.batches) == (("float64",), ("numpy",), (1, 8))


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
    # other kernels may round otherwise, which a run of the same networks does not show
    assert 1e-8 < reference.rounding["float32"] < 1e-5
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
