"""A queueing system, by a stand-in for its commands: what dask-jobqueue submits is run here."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qgf_ref.errors import InputError
from qgf_ref.sweeps import dask_runner
from qgf_ref.sweeps.driver import work_off
from qgf_ref.sweeps.workers import check_workers
from tests.sweeps import stub
from tests.sweeps.conftest import swept

SBATCH = """#!/bin/sh
# runs the job's script at once, in the background, and says its number as SLURM does
cp "$1" "$SLURM_STAND_IN/script-$$"
sh "$SLURM_STAND_IN/script-$$" > "$SLURM_STAND_IN/log-$$" 2>&1 &
echo $! > "$SLURM_STAND_IN/pid-$$"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
pkill -P "$1" 2>/dev/null; kill "$1" 2>/dev/null; exit 0
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (place / name).write_text(text)
        (place / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(place))
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_on_a_queue(slurm: Path, tmp_path: Path) -> None:
    sweep = swept(tmp_path / "sweep")
    asked = {"queue": "long", "walltime": "00:10:00", "memory": "1GB"}
    with dask_runner.queued("slurm", 2, 1, asked) as client:
        assert check_workers(client, sweep.place) >= 1
        report = work_off(sweep, dask_runner.DaskRunner(sweep, client, performs=stub.perform))
    assert not report.failed
    assert len(report.done) == 12
    script = next(slurm.glob("script-*")).read_text()
    for line in ("#SBATCH -p long", "#SBATCH -t 00:10:00", "--nthreads 1"):
        assert line in script


def test_ctrl_c_stays_ours() -> None:
    """In a process that has not imported dask-jobqueue yet."""
    code = (
        "import signal\n"
        "from qgf_ref.sweeps import dask_runner\n"
        "own = signal.getsignal(signal.SIGINT)\n"
        "assert dask_runner._jobqueue().SLURMCluster\n"
        "assert signal.getsignal(signal.SIGINT) is own\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.filterwarnings("ignore")
def test_what_a_queue_is_not_asked(slurm: Path) -> None:
    said = r"cluster: SLURMCluster of dask-jobqueue says: .*colour"
    asked = {"colour": "blue"}
    with pytest.raises(InputError, match=said), dask_runner.queued("slurm", 1, 1, asked):
        pass


def test_a_queue_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found out after a minute, by an assertion of Dask's."""
    monkeypatch.setenv("PATH", "")
    for kind, command in (("slurm", "sbatch"), ("pbs", "qsub"), ("htcondor", "condor_submit")):
        said = f"--{kind} starts workers by {command}, which is not on this machine's PATH: begin"
        with pytest.raises(InputError, match=said), dask_runner.queued(kind, 1, 1, {}):
            pass


@pytest.mark.filterwarnings("ignore")
def test_a_queue_that_takes_no_job(slurm: Path, tmp_path: Path) -> None:
    """What we say of it is not hidden by what Dask says when it closes."""
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'Invalid account' >&2\nexit 1\n")
    sweep = swept(tmp_path / "sweep")
    said = "no Dask worker has come within 0.5 s: .* see why the queue does not start them"
    with (
        pytest.raises(InputError, match=said),
        dask_runner.queued("slurm", 1, 1, {"memory": "1GB"}) as client,
    ):
        check_workers(client, sweep.place, wait=0.5)
