"""How much does guidance lift success? A sweep's spec worked off, and its one table of all tasks.

    python benchmarks/success.py cube-single --data data
    python benchmarks/success.py scene                    (its data set, and pointmaze's, are made)
    python benchmarks/success.py corrections --data data  (on cube-single's runs; so are methods;
                                                           goals-probability, goals-target: goals')
    python benchmarks/success.py my.toml --results here   (a spec of your own, of one agent)
    python benchmarks/success.py cube-single --redraw figures   (seconds: success and weights from
                                                        success_cube-single.json, into figures/)

The spec is benchmarks/sweeps/NAME.toml, or a file of one agent: what is trained and how it is
played, by `qgf-ref sweep SPEC --out qgf_runs/NAME`, which goes on where it was stopped. Its records
are then pooled over the tasks. Written to benchmarks/results: success_NAME.json (everything, with
versions and commits), success_NAME.md (the table) and success_NAME.png, weights_NAME.png,
calibration_NAME.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_ref.agents.registry import agent_named
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.evaluation.plots import calibration_figure, success_figure, weights_figure
from qgf_ref.evaluation.protocol import Evaluation, evaluate
from qgf_ref.evaluation.report import summary, write_report
from qgf_ref.evaluation.suite import (
    pooled,
    suite_markdown,
    suite_rows,
    suite_summary,
    weights_by_goal,
)
from qgf_ref.files import make_directory, write_atomically, write_json
from qgf_ref.plotting import png
from qgf_ref.provenance import provenance
from qgf_ref.sweeps.loading import checkpoints
from qgf_ref.sweeps.report import opened
from qgf_ref.sweeps.spec import SweepSpec
from qgf_ref.sweeps.spec_file import read_spec
from qgf_ref.sweeps.sweep import Sweep
from qgf_ref.training.record import RECORD

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.command import code_of, positive  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SPECS = ROOT / "benchmarks" / "sweeps"
RUNS_OF = {
    "corrections": "cube-single", "methods": "cube-single",
    "goals-probability": "goals", "goals-target": "goals",
}  # fmt: skip
"""Specs that play another one's runs, in another way: they differ in no setting of a run."""
OWN_RUNS = ("cube-single", "scene", "pointmaze", "embedded", "goals")


def spec_file(name: str) -> Path:
    """The spec that a name or a path stands for. Raises InputError."""
    if name in (*OWN_RUNS, *RUNS_OF):
        return SPECS / f"{name}.toml"
    if not name.endswith(".toml"):
        raise unknown_name("spec", name, (*OWN_RUNS, *RUNS_OF))
    return Path(name)


def share_runs(place: Path, name: str) -> None:
    """Let a sweep in place/NAME have the runs of the one that it shares them with."""
    base = RUNS_OF.get(name)
    own = place / name / "runs"
    if base is None or own.is_symlink():
        return
    if own.exists():
        raise InputError(f"{own} has runs of its own: it shows those of {base}; move it away")
    theirs = place / base / "runs"
    for path in (theirs, own.parent):
        make_directory(path)
    own.symlink_to(theirs.resolve(), target_is_directory=True)


def played(sweep: Sweep, name: str) -> Evaluation:
    """A task's evaluation, from the records that the sweep made; its report is written."""
    (entry,) = sweep.spec.entries
    settings, out = sweep.spec.settings(entry), sweep.place.records(name, entry.name)
    found = evaluate(
        checkpoints(sweep, name, entry, "", sweep.spec.seeds), name, settings, directory=out
    )
    write_report(found, out)
    return found


def markdown(spec: SweepSpec, name: str, table: Sequence[dict[str, Any]]) -> str:
    """The table for the README; specs on another's runs are compared with qgf."""
    (entry,) = spec.entries
    made = f"{spec.train['updates']:,} updates", f"`python benchmarks/success.py {name}`"
    settings, seeds = spec.settings(entry), len(spec.seeds)
    return suite_markdown(table, settings, made, seeds, paired=name in RUNS_OF)


def title(suite: str, tasks: Sequence[str]) -> str:
    """What figures call the suite."""
    return f"{suite}: {len(tasks)} tasks" if len(tasks) > 1 else tasks[0]


def draw(content: dict[str, Any], place: Path) -> None:
    """success_SUITE.png and weights_SUITE.png of what success_SUITE.json holds."""
    suite, tasks = content["suite"], content["tasks"]
    about = suite_summary(title(suite, [t["task"] for t in tasks]), content["rows"], tasks)
    # a weight chosen for each task has no one maximum beside it
    held_out = {**about, "selection": []} if len(tasks) > 1 else about
    for name, figure in (("success", success_figure(held_out)), ("weights", weights_figure(about))):
        if figure is not None:
            write_atomically(place / f"{name}_{suite}.png", png(figure))


def main() -> int:
    """Parse the command line, train, evaluate, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("spec", help=f"{', '.join((*OWN_RUNS, *RUNS_OF))}, or a file")
    parser.add_argument("--data", type=Path, help="as of qgf-ref sweep")
    parser.add_argument("--runs", type=Path, default=Path("qgf_runs"), help="where the sweeps are")
    parser.add_argument("--workers", type=positive, help="as of qgf-ref sweep")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--redraw", type=Path, metavar="DIR", help="only draw again, into DIR")
    args = parser.parse_args()
    path = spec_file(args.spec)
    name = path.stem
    if args.redraw is not None:
        draw(json.loads((args.results / f"success_{name}.json").read_text()), args.redraw)
        return 0
    spec = read_spec(path)
    if len(spec.entries) > 1 or spec.entries[0].tried or "updates" not in spec.train:
        raise InputError(f"{path}: for one table it must have one agent, without try, and updates")
    origin, place = provenance(), args.runs / name
    share_runs(args.runs, name)
    words = ["sweep", str(path), "--out", str(place)]
    words += [] if args.data is None else ["--data", str(args.data)]
    words += [] if args.workers is None else ["--workers", str(args.workers)]
    if code := code_of([sys.executable, "-m", "qgf_ref", *words], Path.cwd()):
        return code
    sweep = opened(place)
    write_tables(sweep, name, args.results, origin)
    return 0


def write_tables(sweep: Sweep, name: str, results: Path, origin: dict[str, Any]) -> None:
    """success_NAME.json, .md and the figures, of a sweep that is done."""
    spec, (entry,) = sweep.spec, sweep.spec.entries
    evaluations = [played(sweep, task) for task in spec.tasks]
    whole = pooled(evaluations, title(name, spec.tasks))
    table = suite_rows(evaluations, whole)
    made = [sweep.result(task, entry) or {} for task in spec.tasks]
    runs = [sweep.place.run(task, entry.name, "", s) for s in spec.seeds for task in spec.tasks]
    content = {
        "suite": name,
        "rows": table,
        "tasks": [
            {**summary(e), "seconds": result["costs"]["playing_seconds"]}
            for e, result in zip(evaluations, made, strict=True)
        ],
        "training": [json.loads((run / RECORD).read_text()) for run in runs],
        **origin,
    }
    write_json(results / f"success_{name}.json", content)
    draw(content, results)
    figure = calibration_figure(whole)
    if figure is not None:
        write_atomically(results / f"calibration_{name}.png", png(figure))
    text = markdown(spec, name, table)
    if agent_named(entry.agent).of_goals:
        text += f"\n`qgf` on the selection episodes:\n\n{weights_by_goal(whole, 'qgf')}\n"
    write_atomically(results / f"success_{name}.md", text.encode())
    print(text)


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
