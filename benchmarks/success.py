"""How much does guidance lift success? Train, evaluate, tabulate: one command a suite.

    python benchmarks/success.py cube-single --data data
    python benchmarks/success.py scene        (first: qgf-ref collect scene-play-v0 --episodes 200)
    python benchmarks/success.py pointmaze    (first: qgf-ref collect pointmaze-medium-navigate-v0
                                               --episodes 500)
    python benchmarks/success.py embedded --data data     (the package's own checkpoint)
    python benchmarks/success.py corrections --data data  (on cube-single's runs: the
                                                        corrected estimators beside qgf)
    python benchmarks/success.py methods --data data      (on its first task's: all test-
                                                        time methods, their networks trained first)
    python benchmarks/success.py goals --data data        (all five goals, DQC's critic; then
                                                        goals-probability, goals-target)
    python benchmarks/success.py cube-single --redraw figures   (seconds: success and weights from
                                                        success_cube-single.json, into figures/)

For every task of the suite, `qgf-ref train` makes one run for each training seed (runs that are
finished are taken as they are, interrupted ones are resumed), then the protocol of
`qgf-ref evaluate` chooses each method's weight on the selection episodes of all runs together and
reports on held-out ones. Written to benchmarks/results: success_SUITE.json (everything, with
versions and commits), success_SUITE.md (the table) and success_SUITE.png, weights_SUITE.png,
calibration_SUITE.png. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qgf_ref import load
from qgf_ref.data.datasets import find_dataset
from qgf_ref.data.tasks import goal_task, task
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import parse_methods
from qgf_ref.evaluation.plots import calibration_figure, success_figure, weights_figure
from qgf_ref.evaluation.protocol import evaluate
from qgf_ref.evaluation.report import summary, write_report
from qgf_ref.evaluation.settings import Settings
from qgf_ref.evaluation.suite import (
    pooled,
    suite_markdown,
    suite_rows,
    suite_summary,
    weights_by_goal,
)
from qgf_ref.files import write_atomically, write_json
from qgf_ref.plotting import png
from qgf_ref.provenance import provenance
from qgf_ref.sweeps.sweep import train_command
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.record import RECORD

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.suites import SUITES, Suite  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
EXTRA_UPDATES = 10_000
COMMAND = (sys.executable, "-m", "qgf_ref")


def configurations(suite: Suite, args: argparse.Namespace) -> list[TrainConfig]:
    """One run for every task and training seed, the seeds' first tasks first."""
    return [
        TrainConfig(
            task=name,
            seed=seed,
            updates=args.updates or suite.updates,
            data=None if args.data is None else str(args.data),
            **suite.settings,
        )
        for seed in args.seeds or suite.seeds
        for name in suite.tasks
    ]


def directory(place: Path, config: TrainConfig) -> Path:
    """Where the run of a configuration is kept."""
    return place / config.task / f"seed{config.seed}"


def command(config: TrainConfig, run: Path) -> list[str] | None:
    """The arguments of `qgf-ref train` that make or finish `run`; None when it is finished.

    Exits when what is there is another run: with other settings than the suite's.
    """
    try:
        what = train_command(config, run)
    except InputError as error:
        raise SystemExit(str(error)) from error
    if what == "start":
        settings = run.with_suffix(".json")
        settings.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings, config.to_json())
        return ["--config", str(settings), "--out", str(run)]
    return None if what is None else ["--resume", str(run), "--updates", str(config.updates)]


def train(configs: Sequence[TrainConfig], place: Path, workers: int) -> None:
    """Make every run that is not finished, `workers` at a time."""

    def train_one(config: TrainConfig) -> None:
        run = directory(place, config)
        arguments = command(config, run)
        if arguments is None:
            return
        with run.with_suffix(".log").open("ab") as output:
            code = subprocess.run(
                [*COMMAND, "train", *arguments],
                stdout=output, stderr=output, check=False,
            ).returncode  # fmt: skip
        if code != 0:
            raise SystemExit(f"training {run} failed ({code}): see {run.with_suffix('.log')}")

    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(configs), unit="run", desc="training", disable=None) as bar,
    ):
        for _ in pool.map(train_one, configs):
            bar.update()


def train_extra(suite: Suite, runs: Sequence[Path], data: Path | None) -> None:
    """Train the suite's auxiliary networks in every run that lacks them (the command resumes).

    One that is finished is taken as it is: `load` refuses it if it is of other networks.
    """
    updates = ("--updates", str(EXTRA_UPDATES))
    given = [] if data is None else ["--data", str(data)]
    for run in tqdm(runs, unit="run", desc="auxiliary networks", disable=None):
        for name in suite.extra:
            made = run / f"{name}.json"
            if made.exists() and json.loads(made.read_text())["update"] >= EXTRA_UPDATES:
                continue
            with run.with_suffix(".log").open("ab") as output:
                code = subprocess.run(
                    [*COMMAND, "train-extra", name, "--run", str(run), *updates, *given],
                    stdout=output, stderr=output, check=False,
                ).returncode  # fmt: skip
            if code != 0:
                raise SystemExit(f"{name} of {run} failed ({code}): see {run.with_suffix('.log')}")


def markdown(suite: Suite, settings: Settings, seeds: int, table: Sequence[dict[str, Any]]) -> str:
    """The table for the README; suites on another's runs are compared with qgf."""
    made = f"{suite.updates:,} updates", f"`python benchmarks/success.py {suite.name}`"
    return suite_markdown(table, settings, made, seeds, paired=suite.runs_of is not None)


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


def main() -> None:
    """Parse the command line, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", type=Path, help="as of qgf-ref train")
    parser.add_argument("--runs", type=Path, default=Path("qgf_runs"), help="where the runs are")
    parser.add_argument("--seeds", type=int, nargs="+", help="of training (default: the suite's)")
    parser.add_argument("--updates", type=int, help="of every run (default: the suite's)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--redraw", type=Path, metavar="DIR", help="only draw again, into DIR")
    args = parser.parse_args()
    suite = SUITES[args.suite]
    if args.redraw is not None:
        draw(json.loads((args.results / f"success_{suite.name}.json").read_text()), args.redraw)
        return
    origin = provenance()
    configs, place = configurations(suite, args), args.runs / (suite.runs_of or suite.name)
    goals = configs[0].trained_agent().of_goals
    problem = goal_task(suite.tasks[0]) if goals else task(suite.tasks[0])
    find_dataset(problem.dataset, args.data)  # fails now rather than in every run
    train(configs, place, args.workers)
    train_extra(suite, [directory(place, c) for c in configs], args.data)
    settings = Settings(
        methods=parse_methods(suite.methods),
        backend=suite.backend,
        weights=suite.weights,
        selection_episodes=suite.selection_episodes,
        episodes=suite.episodes,
        workers=args.workers,
    )
    evaluations = []
    for name in suite.tasks:
        print(name)
        out = place / name / ("evaluation" if suite.runs_of is None else suite.name)
        out.mkdir(exist_ok=True)
        runs = [directory(place, c) for c in configs if c.task == name]
        checkpoints = [load(run, dtype="float32", settings=suite.acting) for run in runs]
        evaluations.append(evaluate(checkpoints, name, settings, directory=out))
        write_report(evaluations[-1], out)
    whole = pooled(evaluations, title(suite.name, suite.tasks))
    table = suite_rows(evaluations, whole)
    content = {
        "suite": suite.name,
        "rows": table,
        "tasks": [summary(e) for e in evaluations],
        "training": [json.loads((directory(place, c) / RECORD).read_text()) for c in configs],
        **origin,
    }
    write_json(args.results / f"success_{suite.name}.json", content)
    draw(content, args.results)
    figure = calibration_figure(whole)
    if figure is not None:
        write_atomically(args.results / f"calibration_{suite.name}.png", png(figure))
    text = markdown(suite, settings, len({c.seed for c in configs}), table)
    if goals:
        text += f"\n`qgf` on the selection episodes:\n\n{weights_by_goal(whole, 'qgf')}\n"
    write_atomically(args.results / f"success_{suite.name}.md", text.encode())
    print(text)


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
