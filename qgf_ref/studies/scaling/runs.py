"""Training and playing what the study `scaling` compares: a sweep in the study's directory."""

from __future__ import annotations

from qgf_ref.data.datasets import find_dataset, has_dataset
from qgf_ref.data.tasks import task
from qgf_ref.errors import InputError, QGFError
from qgf_ref.files import sole_use, user_path
from qgf_ref.progress import progress
from qgf_ref.studies.base import StudySettings
from qgf_ref.studies.scaling.measures import held_out
from qgf_ref.sweeps.driver import Report, goes_on, on_this_machine, work_off
from qgf_ref.sweeps.place import SweepPlace, make_directories
from qgf_ref.sweeps.report import begin, continued
from qgf_ref.sweeps.spec import SweepSpec
from qgf_ref.sweeps.sweep import Sweep


def worked_off(spec: SweepSpec, settings: StudySettings) -> Sweep:
    """The sweep of `spec` in settings.records, with everything done: what is there stays, so that
    a study that was stopped goes on.

    Raises InputError without a directory, on one of another sweep or that another process works
    in, on data that are not there or have no held-out part; QGFError when a job failed, after all
    others are done.
    """
    if settings.records is None:
        raise InputError("the study trains networks: it needs a directory for them (records)")
    root = user_path(settings.records).resolve()
    root = root / "quick" if settings.quick else root  # another sweep: the whole may follow in it
    data = None if settings.data is None else str(user_path(settings.data).resolve())
    place = SweepPlace(root)
    sweep, _ = continued(spec, place, data)  # refused before anything is made
    name = task(spec.tasks[0]).dataset
    if sweep.data is not None or has_dataset(name, None):
        held_out(name, find_dataset(name, sweep.data))
    make_directories(root)
    busy = f"another process works off the study's sweep in {root}: qgf-ref sweep status {root}"
    with sole_use(root / ".lock", busy):
        sweep = begin(spec, place, data)
        _, wanted = sweep.wanted()
        at_once = min(settings.workers, len(wanted))
        with (
            on_this_machine(sweep, at_once) as runner,
            progress(len(wanted), "job") as job,
            goes_on(root),
        ):
            report = work_off(sweep, runner, progress=job)
    _require_all(report, sweep)
    return sweep


def _require_all(report: Report, sweep: Sweep) -> None:
    if report.failed:
        name, why = next(iter(report.failed.items()))
        others = len(report.failed) + len(report.blocked) - 1
        more = f" ({others} more failed or wait for it)" if others else ""
        raise QGFError(
            f"{name} failed{more}: {why}. Its log: {sweep.place.log(name)}. What is done is kept: "
            "the same command goes on"
        )
