"""Which simulator an episode is played in, and whether its data set was recorded in the same one.

MuJoCo 3.5 corrected the implicit integrators for actuators at their force limit: OGBench's arm
moves otherwise from there on (`findings/mujoco_actuators_at_their_limit.sh`), and the data sets
that OGBench publishes were recorded before.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from qgf_ref.data.datasets import CACHE
from qgf_ref.errors import InputError
from qgf_ref.files import user_path

CORRECTED = (3, 5)
UNKNOWN = "unknown"
ARMS = ("cube", "puzzle", "scene")
"""The families of environments with an arm whose actuators reach their limit."""


def simulator(task: Any, data: str | None, trained: bool) -> dict[str, Any]:
    """`mujoco`, the version here; `data`, that of the data set, or what is known of it; `note`, a
    sentence where an arm's episodes and data are of different sides of MuJoCo 3.5.

    task  with the name of its `dataset`, if it is OGBench's
    data  where the data set of the run is: a file, a directory, None for OGBench's cache
    trained  whether there is a run that says so
    """
    try:
        here = version("mujoco")
    except PackageNotFoundError:
        here = "not installed"
    dataset = getattr(task, "dataset", None)
    recorded = recorded_with(dataset, data) if dataset and trained else None
    about: dict[str, Any] = {"mujoco": here, "data": recorded, "note": None}
    if not (dataset or "").startswith(ARMS) or _corrected(here) is None:
        return about
    if recorded is None or (recorded != UNKNOWN and _corrected(recorded) == _corrected(here)):
        return about
    said = f"{dataset} was recorded with MuJoCo {recorded}"
    if recorded == UNKNOWN:
        said = f"nothing says with which MuJoCo {dataset} was recorded (OGBench's own: before 3.5)"
    about["note"] = (
        f"{said}, and this is {here}: since 3.5 an actuator at its force limit, and with it "
        "OGBench's arm, moves otherwise"
    )
    return about


def recorded_with(dataset: str, data: str | None) -> str | None:
    """MuJoCo's version by what `qgf-ref collect` wrote beside the data set; `UNKNOWN` where nothing
    is written, as beside OGBench's own; None where there is no such data set.
    """
    with suppress(InputError):
        place = user_path(data if data is not None else CACHE)
        inside = place / f"{dataset}.npz"
        path = inside if inside.exists() else place
        if not path.exists():
            return None
        for report in (path.with_suffix(".json"), path.parent / f"{dataset}.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                content = json.loads(report.read_bytes())
                return str(content["configuration"]["versions"]["mujoco"])
        return UNKNOWN
    return None


def _corrected(text: str) -> bool | None:
    """Whether a version has the correction; None where it is none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return None if match is None else (int(match[1]), int(match[2])) >= CORRECTED
