"""How many calls `compare` makes of somebody's network, and what is left where they end early.

Of a network whose call takes 50 ms at B = 8: at most 300 where all agrees, 2,000 for a diagnosis.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison, as_dict, compare
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, with_mistakes
from qgf_ref.crosscheck.sampler.port import reference_port
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.crosscheck.sampler.subject import FlowNetworks
from qgf_ref.files import write_npz
from qgf_ref.flow.convention import convention
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.trace_file import RecordedTrace, recorded_trace
from tests.crosscheck.closed_flow import NOISE, OBS, WEIGHT, Closed, flow

AGREEMENT_CALLS, DIAGNOSIS_CALLS = 300, 2000
"""Measured at T = 10: 171, and 748 to 1,552."""
TEN = 10
"""Steps of openpi and lerobot."""
ROOT = Path(__file__).resolve().parents[2]


def written(*made: Made, steps: int = TEN) -> dict[str, Array]:
    """What a float32 port in openpi's convention writes down."""
    networks = FlowNetworks.of(flow("float32", steps=steps), OBS, 10**9)
    port = with_mistakes(reference_port(networks, qgf_ref.estimator("qgf"), "exact", steps), made)
    run = free_running(port, Inputs(OBS, NOISE, WEIGHT, 1))
    arrays = {name: np.asarray(x, np.float32) for name, x in run.items()}
    return {**convention("openpi").trace_from_core(arrays), "obs": OBS, "noise": NOISE}


def compared(theirs: RecordedTrace, steps: int = TEN, **settings: Any) -> tuple[Comparison, int]:
    """The comparison, and the calls that it made."""
    found = compare(flow(steps=steps), theirs, estimator="qgf", weight=WEIGHT, **settings)
    networks = found.setting.checkpoint
    assert isinstance(networks, FlowNetworks)
    return found, networks.meter.total


def test_ten_steps_that_agree() -> None:
    found, calls = compared(recorded_trace(written()))
    assert found.agrees and calls <= AGREEMENT_CALLS


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        Made("guidance-sign", ""),
        Made("weight-squared", ""),
        Made("grid-reversed", "divided, in the network only"),
    ],
    ids=str,
)
def test_ten_steps_with_a_mistake(made: Made) -> None:
    found, calls = compared(recorded_trace(written(made)))
    assert [e.names for e in found.diagnosis.explanations] == [(made.name,)]
    assert calls <= DIAGNOSIS_CALLS


@pytest.mark.slow
def test_ten_steps_with_what_has_no_name() -> None:
    trace = recorded_trace(written())
    bent = {**trace.stepwise, "g": np.tanh(3 * trace.stepwise["g"])}
    found, calls = compared(replace(trace, stepwise=bent))
    assert found.diagnosis.unknown == "g" and calls <= DIAGNOSIS_CALLS


def test_what_fits_when_the_calls_end_is_named() -> None:
    """Of final actions alone every mistake takes a whole run; conventions are tried first."""
    arrays = written(Made("velocity-sign", ""), steps=4)
    final = recorded_trace({name: arrays[name] for name in ("obs", "noise", "action")})
    found, calls = compared(final, steps=4, budget=400)
    assert [e.names for e in found.diagnosis.explanations] == [("velocity-sign",)]
    assert not found.agrees and calls >= 400
    said = " ".join(text(found).split())
    assert "400 calls are spent before the diagnosis was done" in said
    assert "others may reproduce everything, too" in said
    assert as_dict(found)["known"] == list(found.diagnosis.known)


class Slow(Closed):
    """50 ms a call; says when it has been called often."""

    calls = 0

    def forward(self, *given: Any) -> Any:
        """The base's."""
        time.sleep(0.05)
        Slow.calls += 1
        if Slow.calls == int(os.environ["CALLS"]):
            Path(os.environ["REACHED"]).touch()
        return self._base.forward(*given)


def build() -> GuidedFlow:
    """For the command line."""
    own = flow()
    field: Any = own.field
    return replace(own, field=convention("openpi").to_core(Slow(field.base), own.denoise_steps))


@pytest.mark.slow
def test_ctrl_c_of_a_slow_network(tmp_path: Path) -> None:
    """A signal, as a terminal sends it, in the middle of the diagnosis: of 55 calls of the field it
    begins with number 21.
    """
    write_npz(tmp_path / "theirs.npz", written(Made("weight-squared", ""), steps=4))
    reached = tmp_path / "reached"
    spec = "tests.crosscheck.test_flow_calls:build"
    # a background job's children ignore Ctrl-C, a terminal's do not
    entry = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from qgf_ref.cli.main import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", entry, "compare", "--flow", spec, "--estimator", "qgf",
         "--weight", str(WEIGHT), "--trace", str(tmp_path / "theirs.npz")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "CALLS": "30", "REACHED": str(reached), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        while not reached.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Ctrl-C came before the diagnosis was done" in " ".join(out.split())
    assert "first disagreement: a at step" in out and "teacher-forced" in out
