"""What the machinery of `qgf-ref sweep` costs: tiny jobs by hand and swept; thousands, stubbed.

    python benchmarks/sweep_cost.py            both parts, a few minutes on an idle machine
    python benchmarks/sweep_cost.py overhead   20 trainings and 4 evaluations, by hand and swept
    python benchmarks/sweep_cost.py scale      2,600 runs whose work is stubbed

By hand: `qgf-ref train` and `qgf-ref evaluate`, one after the other, divided by the workers.
Written to benchmarks/results: sweep_cost.json and .md, each part when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.processes import peak_bytes  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.sweeps import dask_runner  # noqa: E402
from qgf_ref.sweeps.driver import work_off  # noqa: E402
from qgf_ref.sweeps.jobs import SweepJob  # noqa: E402
from qgf_ref.sweeps.perform import Outcome  # noqa: E402
from qgf_ref.sweeps.place import SweepPlace, write_result  # noqa: E402
from qgf_ref.sweeps.report import begin, status, write_tables  # noqa: E402
from qgf_ref.sweeps.spec_file import spec_of  # noqa: E402
from qgf_ref.sweeps.sweep import Sweep  # noqa: E402
from qgf_ref.sweeps.workers import check_workers  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402
from qgf_ref.threads import BLAS_VARIABLES, VARIABLE  # noqa: E402
from qgf_ref.training.record import RECORD  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MAZE = "pointmaze-medium-navigate"
TINY: dict[str, Any] = {
    "tasks": [f"{MAZE}-singletask-task{n}-v0" for n in (1, 2)],
    "seeds": [0, 1, 2, 3, 4],
    "train": {
        "updates": 20, "batch": 16, "hidden": [16, 16], "horizon_length": 20, "log_every": 10,
        "checkpoint_every": 10,
    },
    "evaluate": {"weights": [0.1], "episodes": 1, "envs": 1},
    "agents": {"iql": {"methods": ["bc"]}, "edp": {}},
}  # fmt: skip
_FAMILIES = ("cube-single", "cube-double", "cube-triple", "scene")
LARGE: dict[str, Any] = {
    "tasks": [f"{f}-play-singletask-task{n}-v0" for f in _FAMILIES for n in range(1, 6)],
    "seeds": list(range(10)),
    "collect": {f"{f}-play-v0": 1 for f in _FAMILIES},
    "agents": {
        f"method{i}": {"agent": ("edp", "fql", "qsm")[i % 3]} for i in range(13)
    },
}  # fmt: skip


def write_data(place: Path) -> None:
    """A small random walk in the maze, in OGBench's format."""
    rng = np.random.default_rng(0)
    for name, count in ((f"{MAZE}-v0", 6), (f"{MAZE}-v0-val", 2)):
        walk = rng.uniform(0, 20, (count, 1, 2)) + rng.normal(0, 0.5, (count, 41, 2)).cumsum(1)
        states = walk.reshape(-1, 2).astype(np.float32)
        ends = np.zeros((count, 41), dtype=bool)
        ends[:, -1] = True
        actions = rng.uniform(-1, 1, states.shape).astype(np.float32)
        np.savez(
            place / f"{name}.npz", observations=states, actions=actions, terminals=ends.ravel(),
            qpos=states, qvel=np.zeros_like(states),
        )  # fmt: skip


def by_hand(sweep: Sweep, place: Path) -> float:
    """Seconds of the sweep's jobs as commands, one after the other."""
    place.mkdir()
    environment = {**os.environ, **dict.fromkeys((VARIABLE, *BLAS_VARIABLES), "1")}
    began = time.perf_counter()
    for job in sweep.wanted()[1]:
        if job.kind == "train":
            settings = place / "settings.json"
            settings.write_text(json.dumps(sweep.config(job).to_json()))
            run = place / job.task / job.entry / f"seed{job.seed}"
            words = ["train", "--config", str(settings), "--out", str(run)]
        else:
            base = place / job.task / job.entry
            runs = [str(base / f"seed{seed}") for seed in sweep.spec.seeds]
            methods = sweep.spec.entry(job.entry).methods
            words = ["evaluate", "--checkpoint", *runs, "--methods", *methods, "--envs", "1"]
            words += ["--episodes", "1", "--weights", "0.1", "--out", str(base / "evaluation")]
        subprocess.run(
            [sys.executable, "-m", "qgf_ref", *words], cwd=ROOT, env=environment, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return time.perf_counter() - began


def overhead(workers: int) -> dict[str, Any]:
    """The same jobs by hand and by the command, each from nothing."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_data(place)
        (place / "spec.json").write_text(json.dumps(TINY))
        sweep = begin(spec_of(TINY), SweepPlace(place / "hand"), str(place))
        jobs = len(sweep.wanted()[1])
        alone = by_hand(sweep, place / "runs")
        spec = place / "tiny.toml"
        spec.write_text(toml(TINY))
        words = ["sweep", str(spec), "--data", str(place), "--out", str(place / "sweep")]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "qgf_ref", *words, "--workers", str(workers)],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        swept = time.perf_counter() - began
    share = alone / workers
    return {"jobs": jobs, "workers": workers, "by_hand_seconds": alone, "sweep_seconds": swept,
            "ratio": swept / share}  # fmt: skip


def toml(spec: dict[str, Any]) -> str:
    """What this spec needs of the format: JSON's values are TOML's but for tables."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in spec.items() if not isinstance(v, dict)]
    for key, table in ((k, v) for k, v in spec.items() if isinstance(v, dict) and k != "agents"):
        lines += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    for name, table in spec["agents"].items():
        lines += [f"[agents.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def stubbed(sweep: Sweep, job: SweepJob, threads: int) -> Outcome:
    """The files of a job without its work."""
    if job.kind == "data":
        place = sweep.place.root / "data"
        place.mkdir(exist_ok=True)
        (place / f"{job.task}.npz").touch()
    elif job.kind == "train":
        run, config = sweep.run(job), sweep.config(job)
        run.mkdir(parents=True, exist_ok=True)
        session = {"to_update": config.updates, "seconds": 1.0}
        data = sweep.fingerprint(sweep.spec.problem(sweep.spec.entry(job.entry), job.task).dataset)
        content = {"config": config.to_json(), "dataset": data, "sessions": [session]}
        (run / RECORD).write_text(json.dumps(content))
    else:
        entry = sweep.spec.entry(job.entry)
        rng, count = np.random.default_rng(len(job.name)), sweep.spec.settings(entry).episodes
        seeds = [rng.integers(0, 2, count).tolist() for _ in sweep.spec.seeds]
        cell = {
            "label": entry.name, "method": "bc", "weight": None, "split": "held-out",
            "critic_bias": None, "critic_rank": None,
            "by_seed": [{"wins": w, "returns": [0.0] * count, "lengths": [1] * count}
                        for w in seeds],
        }  # fmt: skip
        costs = {"training_seconds": 1.0, "updates": 1, "machines": [], "playing_seconds": 1.0,
                 "milliseconds_per_chunk": {entry.name: 1.0}}  # fmt: skip
        write_result(
            sweep.place.result(job.task, job.entry),
            {"identity": sweep.identity(job.task, entry), "chosen": "", "tried": [],
             "cells": [cell], "costs": costs, "provenance": {}},
        )  # fmt: skip
    return Outcome(job.name, 0, 0.0, "here")


def scale(workers: int) -> dict[str, Any]:
    """2,600 runs and their evaluations: seconds to expand, to work off, of status and of tables."""
    seconds: dict[str, float] = {}

    def timed(name: str, began: float) -> float:
        seconds[name] = time.perf_counter() - began
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        sweep = begin(spec_of(LARGE), SweepPlace(Path(name)), None)
        every, _ = sweep.wanted()
        began = timed("expand", began)
        with dask_runner.local(workers, 1) as client:
            check_workers(client, sweep.place)
            began = timed("cluster", began)
            report = work_off(sweep, dask_runner.DaskRunner(sweep, client, performs=stubbed))
            began = timed("work", began)
            memory = client.run_on_scheduler(peak_bytes)
        assert len(report.done) == len(every), report.failed
        began = time.perf_counter()
        write_tables(sweep)
        began = timed("table", began)
        status(sweep)
        timed("status", began)
    return {"jobs": len(every), "seconds": seconds, "scheduler_and_client_peak_bytes": memory}


def markdown(content: dict[str, Any]) -> str:
    """The tables of the page."""
    parts = []
    if found := content.get("overhead"):
        row = [
            f"{found['jobs']} tiny jobs, {found['workers']} workers",
            f"{found['by_hand_seconds'] / found['workers']:.1f} s",
            f"{found['sweep_seconds']:.1f} s",
            f"**{found['ratio']:.2f}**",
        ]
        head = ["", "by hand ÷ workers", "as a sweep", "ratio"]
        parts.append(markdown_table(head, [row], rule="|---"))
    if found := content.get("scale"):
        seconds = found["seconds"]
        row = [
            f"{found['jobs']:,} jobs, stubbed",
            *(f"{seconds[name]:.1f} s" for name in ("expand", "work", "table", "status")),
            f"{found['scheduler_and_client_peak_bytes'] / 1e6:.0f} MB",
        ]
        head = ["", "expand", "work off", "`sweep table`", "`sweep status`", "scheduler and client"]
        parts.append(markdown_table(head, [row], rule="|---"))
    return "\n\n".join(parts) + "\n\nMade by `python benchmarks/sweep_cost.py`.\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", nargs="?", choices=("overhead", "scale"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    path = args.results / "sweep_cost.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, part in (("overhead", overhead), ("scale", scale)):
        if args.part in (None, name):
            content |= {name: part(args.workers), **provenance()}
            write_json(path, content)
            write_atomically(path.with_suffix(".md"), markdown(content).encode())
    print(markdown(content))


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
