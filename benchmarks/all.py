"""Every result in benchmarks/results: the command that makes it, its minutes, and its age.

    python benchmarks/all.py                          the list, in the order in which to make them
    python benchmarks/all.py --run startup speed      make these again
    python benchmarks/all.py --run all --data DIR     everything, about seven hours
    python benchmarks/all.py --age                    commits and changed lines since each was made

A result's age counts the lines, added and removed, of the modules that it measures, between the
commit that made it and now. benchmarks/README.md holds the list and the ages at a commit it states.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.suites import SUITES  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DATA = " --data DIR"
"""Stands in a command that reads an OGBench data set, and goes unless `--data` is given."""
CORE = ("ops", "nets", "flow", "guidance", "agents", "denoising.py", "sampling.py")
PLAYED = (*CORE, "backends", "losses", "training", "data", "evaluation")
CUBE = "qgf_runs/cube-single/cube-single-play-singletask-task1-v0/seed"
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


def _suite(name: str, *before: str, data: str = "") -> Result:
    command = f"python benchmarks/success.py {name}{data}"
    return Result(f"success_{name}", (*before, command), PLAYED)


def _study(name: str, *rooms: str, on: str = "") -> Result:
    title = name.replace("-", "_")
    command = f"qgf-ref study {name} --out benchmarks/results --overwrite{on}"
    return Result(f"study_{title}", (command,), (*CORE, *rooms, f"studies/{title}"))


TRAINED = RUNS + DATA
RESULTS_IN_ORDER = (
    Result("verification", ("python benchmarks/verify.py",), (*CORE, "losses")),
    _suite("cube-single", data=DATA),
    _suite("scene", "qgf-ref collect scene-play-v0 --episodes 200"),
    _suite("pointmaze", "qgf-ref collect pointmaze-medium-navigate-v0 --episodes 500"),
    _suite("embedded", data=DATA),
    _suite("corrections", data=DATA),
    _suite("methods", data=DATA),
    *(_suite(name, data=DATA) for name in ("goals", "goals-probability", "goals-target")),
    Result(
        "fig5",
        (f"qgf-ref sweep benchmarks/sweeps/fig5.toml --out fig5{DATA}",),
        (*PLAYED, "sweeps"),
        60,
        "results/cube-single-play-singletask-task1-v0/iql.json",
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
    Result("startup", ("python benchmarks/startup.py",), ("backends", "sampling.py"), 5),
    Result("speed", ("python benchmarks/speed.py",), (*CORE, "backends", "bench")),
    Result(
        "train_speed",
        ("python benchmarks/train_speed.py",),
        ("ops", "nets", "losses", "agents", "backends", "training"),
        10,
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
    """The result of this name; raises SystemExit, listing the names, when there is none."""
    for entry in RESULTS_IN_ORDER:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in RESULTS_IN_ORDER)
    raise SystemExit(f"no result {name!r}; expected one of {names}")


def shown(command: str) -> str:
    """A command as pages show it: without what only this repository's runs need."""
    return (
        command.replace(DATA, "")
        .replace(RUNS, "")
        .replace(" --out benchmarks/results --overwrite", "")
    )


def minutes(entry: Result) -> str:
    """How long it took: training and evaluation of a suite together; +: at least."""
    content, more = entry.content, ""
    seconds = content.get("seconds", 0.0) or 60 * (entry.minutes or 0)
    if "tasks" in content:
        seconds = sum(task["seconds"] for task in content["tasks"])
        more = "+" if seconds < 60 else ""  # episodes taken from the records of an earlier session
        if SUITES[content["suite"]].runs_of is None:
            sessions = (s for run in content["training"] for s in run["sessions"])
            seconds += sum(session["seconds"] for session in sessions)
    return f"{max(1, round(seconds / 60))}{more}" if seconds else "?"


def made(entry: Result) -> str:
    """The commits that made it, when, and where."""
    origin = entry.origin
    commits = " and ".join(f"`{commit}`" for commit in entry.commits)
    changes = " with changes" if " " in origin["commit"] else ""
    machine = f"{origin['processor']}, {origin['cores']} cores"
    return f"{commits}{changes}, {origin['time'][:10]}, {machine}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def head() -> str:
    """The newest commit of this branch that main has, since others may be rebased away."""
    newest = _git("merge-base", "HEAD", "main") if known("main") else _git("rev-parse", "HEAD")
    return newest[:7]


def known(commit: str) -> bool:
    """Whether this repository's history holds the commit."""
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@functools.cache
def _changes(since: str, until: str) -> tuple[tuple[str, int], ...]:
    """Lines added and removed between two commits, by the file's present path."""
    fields = _git(
        "diff", "--numstat", "-z", "-M50%", "-l0", "--diff-algorithm=myers", "--no-ext-diff",
        since, until, "--", "qgf_ref",
    ).split("\0")  # fmt: skip
    lines, at = [], 0
    while at < len(fields) - 1:
        added, removed, path = fields[at].split("\t")
        if not path:  # a file that moved: its old path and its new one follow
            path, at = fields[at + 2], at + 2
        if path.endswith(".py") and added != "-":
            lines.append((path, int(added) + int(removed)))
        at += 1
    return tuple(lines)


def age(entry: Result, until: str) -> tuple[int, int]:
    """Commits, and changed lines of what it measures, from its (oldest) making to `until`."""
    rooms = tuple(f"qgf_ref/{room}" for room in entry.measures)
    counted = [
        (
            int(_git("rev-list", "--count", f"{since}..{until}")),
            sum(
                n
                for path, n in _changes(since, until)
                if any(path == room or path.startswith(f"{room}/") for room in rooms)
            ),
        )
        for since in entry.commits
    ]
    return max(counted)


def age_text(entry: Result, until: str) -> str:
    """The same in words; also where this history does not hold a commit that made it."""
    if not all(map(known, entry.commits)):
        return "not in this history"
    commits, changed = age(entry, until)
    return f"{commits}, {changed}"


def index(until: str) -> str:
    """The table of benchmarks/README.md: every result, and its age at commit `until`."""
    rows = []
    for entry in RESULTS_IN_ORDER:
        commands = "; ".join(f"`{shown(command)}`" for command in entry.commands)
        shown_file = f"{entry.name}/table.md" if entry.swept else entry.file
        link = f"[{entry.name}](results/{shown_file})"
        rows.append([link, commands, minutes(entry), made(entry), age_text(entry, until)])
    header = ["result", "made by", "minutes", "commit, day, machine", "since: commits, lines"]
    return f"{markdown_table(header, rows)}\n\nSince: until commit `{until}`.\n"


def run(names: list[str], data: str | None) -> None:
    """Make these results again, in their order; stops at the first command that fails."""
    chosen = set(names) if names != ["all"] else {entry.name for entry in RESULTS_IN_ORDER}
    for name in chosen:
        result(name)
    programs = {"python": [sys.executable], "qgf-ref": [sys.executable, "-m", "qgf_ref"]}
    for entry in (entry for entry in RESULTS_IN_ORDER if entry.name in chosen):
        for command in entry.commands:
            command = command.replace(DATA, "" if data is None else f" --data {shlex.quote(data)}")
            print(f"\n$ {command}    (about {minutes(entry)} minutes)", flush=True)
            program, *arguments = shlex.split(command)
            subprocess.run([*programs[program], *arguments], cwd=ROOT, check=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = top.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="the default")
    what.add_argument("--run", nargs="+", metavar="NAME", help="names of the list, or all")
    what.add_argument("--age", action="store_true", help="commits and changed lines since")
    top.add_argument("--data", help="OGBench data sets (default: OGBench's cache)")
    return top


def main() -> None:
    """List the results, say how old they are, or make them."""
    args = parser().parse_args()
    if args.run:
        run(args.run, args.data)
        return
    for entry in RESULTS_IN_ORDER:
        if args.age:
            print(f"{entry.name:22} {age_text(entry, 'HEAD'):>20} since {made(entry)}")
        else:
            commands = "; ".join(map(shown, entry.commands))
            print(f"{entry.name:22} {minutes(entry):>4} min  {commands}")


if __name__ == "__main__":
    main()
