"""Every result of benchmarks/results: the commands that make it, in order, and what it measures."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qgf_ref.errors import unknown_name  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DATA = " --data DIR"
"""Stands in a command that reads an OGBench data set, and goes unless `--data` is given."""
CORE = ("ops", "nets", "flow", "guidance", "agents", "denoising.py", "sampling.py")
PLAYED = (*CORE, "backends", "losses", "training", "data", "evaluation")
CUBE = "qgf_runs/cube-single/runs/cube-single-play-singletask-task1-v0/iql/seed"
RUNS = " --checkpoint " + " ".join(f"{CUBE}{seed}" for seed in range(3))


@dataclass(frozen=True)
class Result:
    """One result: results/NAME.json and its tables, made by `commands` one after another.

    measures  the rooms of qgf_ref whose changes make it old
    minutes   on two cores, where its JSON does not tell
    swept     of a sweep, whose tables are in results/NAME/: one of its result files
    """

    name: str
    commands: tuple[str, ...]
    measures: tuple[str, ...]
    minutes: float | None = None
    swept: str = ""

    @property
    def file(self) -> str:
        """Its JSON, in results/."""
        return f"{self.name}/{self.swept}" if self.swept else f"{self.name}.json"

    @property
    def content(self) -> dict[str, Any]:
        """What is in it."""
        content: dict[str, Any] = json.loads((RESULTS / self.file).read_text())
        return content

    @property
    def origin(self) -> dict[str, Any]:
        """Versions, machine, commit and time of its making."""
        content = self.content
        origin: dict[str, Any] = content.get("provenance", content)
        return origin

    @property
    def commits(self) -> list[str]:
        """The commits that made it: several where its rows were made one after another."""
        rows = self.content.get("rows", ())
        timed = rows if isinstance(rows, list) else ()
        each = [row["commit"].split()[0] for row in timed if "commit" in row]
        return list(dict.fromkeys([*each, self.origin["commit"].split()[0]]))


def _suite(name: str, data: str = "") -> Result:
    command = f"python benchmarks/success.py {name}{data}"
    return Result(f"success_{name}", (command,), PLAYED)


def _study(name: str, *rooms: str, on: str = "") -> Result:
    title = name.replace("-", "_")
    command = f"qgf-ref study {name} --out benchmarks/results --overwrite{on}"
    return Result(f"study_{title}", (command,), (*CORE, *rooms, f"studies/{title}"))


TRAINED = RUNS + DATA
RESULTS_IN_ORDER = (
    Result("verification", ("python benchmarks/verify.py",), (*CORE, "losses")),
    _suite("cube-single", DATA),
    _suite("scene"),
    _suite("pointmaze"),
    *(_suite(name, DATA) for name in ("embedded", "corrections", "methods")),
    *(_suite(name, DATA) for name in ("goals", "goals-probability", "goals-target")),
    Result(
        "fig5",
        (f"qgf-ref sweep benchmarks/sweeps/fig5.toml --out fig5{DATA}",),
        (*PLAYED, "sweeps"),
        60,
        "results/cube-single-play-singletask-task1-v0/iql.json",
    ),
    Result(
        "fig5_longer",
        (f"qgf-ref sweep benchmarks/sweeps/fig5_longer.toml --out fig5_longer{DATA}",),
        (*PLAYED, "sweeps"),
        90,
        "results/cube-single-play-singletask-task1-v0/iql.json",
    ),
    Result(
        "fig10",
        (f"qgf-ref sweep benchmarks/sweeps/fig10.toml --out fig10{DATA}",),
        (*PLAYED, "sweeps"),
        90,
        "results/cube-single-play-singletask-task1-v0/iql-0.9-min.json",
    ),
    Result(
        "fig5_actions", (f"python benchmarks/fig5_actions.py fig5{DATA}",), (*PLAYED, "sweeps"), 1
    ),
    Result("sweep_cost", ("python benchmarks/sweep_cost.py",), ("sweeps",), 3),
    _study("didactic"),
    _study("bias-variance"),
    _study("correction"),
    _study("prefix"),
    _study("noise", on=TRAINED),
    _study("ood-distance", "data", on=TRAINED),
    _study("weights", "backends", "evaluation", on=TRAINED),
    _study("q-optimizer", "backends", "evaluation", on=TRAINED),
    _study("compute", "backends", "evaluation", on=TRAINED),
    _study("ablation", "backends", "evaluation", on=TRAINED),
    _study("scaling", *PLAYED[len(CORE) :], "sweeps", on=DATA),
    Result("startup", ("python benchmarks/startup.py",), ("backends", "sampling.py"), 5),
    *(
        Result(name, ("python benchmarks/speed.py",), (*CORE, "backends", "bench"))
        for name in ("speed", "speed_epyc")
    ),
    Result(
        "train_speed",
        ("python benchmarks/train_speed.py",),
        ("ops", "nets", "losses", "agents", "backends", "training"),
        10,
    ),
    Result(
        "agents_speed",
        ("python benchmarks/agents_speed.py",),
        ("ops", "nets", "losses", "agents", "flow", "backends", "training"),
        6,
    ),
    Result(
        "jobs",
        ("python benchmarks/jobs.py jobs --only compare check --against 747f7da --rounds 1",),
        (*CORE, "backends", "crosscheck"),
        6,
    ),
    Result(
        "crosscheck",
        ("python benchmarks/crosscheck.py", "python benchmarks/crosscheck.py --example"),
        (*CORE, "crosscheck"),
        25,
    ),
    Result(
        "crosscheck_training",
        ("python benchmarks/crosscheck_training.py",),
        ("ops", "nets", "losses", "agents", "crosscheck"),
        40,
    ),
    Result(
        "crosscheck_samplers",
        ("python benchmarks/crosscheck_samplers.py",),
        ("ops", "nets", "flow", "agents", "crosscheck"),
        6,
    ),
    Result(
        "crosscheck_flow",
        ("python benchmarks/crosscheck_flow.py",),
        (*CORE, "adapters", "crosscheck"),
        7,
    ),
    Result(
        "adapter_overhead",
        ("python benchmarks/adapter_overhead.py",),
        ("adapters", "denoising.py"),
        1,
    ),
    Result(
        "flow_audit",
        ("python benchmarks/flow_audit.py",),
        ("adapters", "audit", "guidance", "flow", "denoising.py"),
    ),
    Result(
        "third_party",
        ("python benchmarks/third_party.py",),
        ("adapters", "audit", "crosscheck", "guidance", "flow", "denoising.py"),
    ),
    Result("goal_batches", ("python benchmarks/goal_batches.py",), ("data/goals",)),
    Result("audit", ("python benchmarks/readme.py",), (*CORE, "audit", "checks.py")),
)


def result(name: str) -> Result:
    """The result of this name; raises InputError, listing the names, when there is none."""
    for entry in RESULTS_IN_ORDER:
        if entry.name == name:
            return entry
    raise unknown_name("result", name, [entry.name for entry in RESULTS_IN_ORDER])
