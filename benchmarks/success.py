"""How much does guidance lift success? Train, evaluate, tabulate: one command a suite.

    python benchmarks/success.py cube-single --data ../shared/data
    python benchmarks/success.py scene       # after: qgf-ref collect scene-play-v0 --episodes 300
    python benchmarks/success.py pointmaze   # after: qgf-ref collect pointmaze-medium-navigate-v0
    python benchmarks/success.py embedded --data ../shared/data     (the package's own checkpoint)

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qgf_ref import load
from qgf_ref.data.datasets import find_dataset
from qgf_ref.data.tasks import task
from qgf_ref.evaluation.critic_error import chunks, critic_error
from qgf_ref.evaluation.plots import calibration_figure, success_figure, weights_figure
from qgf_ref.evaluation.protocol import Cell, Evaluation, evaluate
from qgf_ref.evaluation.report import summary, write_report
from qgf_ref.evaluation.settings import Settings
from qgf_ref.files import write_atomically, write_json
from qgf_ref.plotting import png
from qgf_ref.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Suite:
    """Tasks that share a data set, the length of their runs, weights to choose from (their range
    depends on the scale of the rewards), training seeds, further settings.
    """

    tasks: tuple[str, ...]
    updates: int
    weights: tuple[float, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[str, ...] = ()


SUITES = {
    "cube-single": Suite(
        tuple(f"cube-single-play-singletask-task{n}-v0" for n in range(1, 6)),
        10_000,
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    "scene": Suite(("scene-play-singletask-task1-v0",), 10_000, (0.003, 0.01, 0.03, 0.1, 0.3)),
    "pointmaze": Suite(
        ("pointmaze-medium-navigate-singletask-task1-v0",), 10_000, (0.1, 0.3, 1.0, 3.0, 10.0)
    ),
    # three layers of 192, so that it stays under 3 MB
    "embedded": Suite(
        ("cube-single-play-singletask-task1-v0",),
        30_000,
        (0.01, 0.03, 0.1, 0.3, 1.0),
        (0,),
        ("--hidden", "192", "192", "192"),
    ),
}


def train(suite: Suite, place: Path, args: argparse.Namespace) -> dict[str, list[Path]]:
    """The directories of all runs, by task, trained as far as the suite asks."""
    seeds = args.seeds or suite.seeds
    runs = {name: [place / name / f"seed{s}" for s in seeds] for name in suite.tasks}
    jobs = []
    for index, seed in enumerate(seeds):
        for name in suite.tasks:
            run = runs[name][index]
            command = ["--updates", str(args.updates or suite.updates)]
            if (run / "train.json").exists():
                command += ["--resume", str(run)]
            else:
                command += [name, "--seed", str(seed), "--out", str(run), *suite.settings]
                command += [] if args.data is None else ["--data", str(args.data)]
            jobs.append((run, command))

    def train_one(job: tuple[Path, list[str]]) -> None:
        run, command = job
        log = run.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = subprocess.run(
                [sys.executable, "-m", "qgf_ref", "train", *command],
                stdout=output, stderr=output, check=False,
            ).returncode  # fmt: skip
        if code != 0:
            raise SystemExit(f"training {run} failed ({code}): see {log}")

    with (
        ThreadPoolExecutor(args.workers) as pool,
        tqdm(total=len(jobs), unit="run", desc="training", disable=None) as bar,
    ):
        for _ in pool.map(train_one, jobs):
            bar.update()
    return runs


def pooled(evaluations: Sequence[Evaluation], name: str) -> Evaluation:
    """All tasks' episodes as those of one evaluation; held-out cells lose their weights, which may
    differ from task to task.
    """
    first = evaluations[0]

    def join(cells: Sequence[Cell], weight: float | None) -> Cell:
        return replace(
            cells[0],
            weight=weight,
            by_checkpoint=tuple(each for cell in cells for each in cell.by_checkpoint),
        )

    return replace(
        first,
        task=name,
        checkpoints=tuple(c for e in evaluations for c in e.checkpoints),
        selection=tuple(
            join([e.selection[i] for e in evaluations], cell.weight)
            for i, cell in enumerate(first.selection)
        ),
        held_out=tuple(
            join(
                [e.held_out[i] for e in evaluations], cell.weight if len(evaluations) == 1 else None
            )
            for i, cell in enumerate(first.held_out)
        ),
    )


def seed_range(cells: Sequence[Cell]) -> tuple[float, float]:
    """Lowest and highest success over training seeds, each averaged over the tasks."""
    rates = [sum(each) / len(cells) for each in zip(*(c.rates for c in cells), strict=True)]
    return min(rates), max(rates)


def table(evaluations: Sequence[Evaluation], whole: Evaluation) -> list[dict[str, Any]]:
    """One row a method: success by task and over all, the optimistic number, the critic's error."""
    rows = []
    for i, cell in enumerate(whole.held_out):
        own = [e.held_out[i] for e in evaluations]
        optimistic = [e.optimistic(cell.method) for e in evaluations]
        error = critic_error(chunks(cell))
        low, high = seed_range(own)
        rows.append(
            {
                "method": cell.method.label,
                "success": cell.success.value,
                "low": cell.success.low,
                "high": cell.success.high,
                "episodes": len(cell.episodes),
                "seed_low": low,
                "seed_high": high,
                "by_task": [c.success.value for c in own],
                "weights": [c.weight for c in own],
                "optimistic": None
                if None in optimistic
                else sum(o for o in optimistic if o is not None) / len(optimistic),
                "critic_bias": None if error is None else error.bias.value,
                "critic_rank": None if error is None else error.rank,
                "milliseconds_per_chunk": 1e3
                * cell.sampling_seconds
                / sum(len(e.steps) for e in cell.episodes),
            }
        )
    return rows


def markdown(suite: Suite, rows: Sequence[dict[str, Any]]) -> str:
    """The table for the README."""
    several = len(suite.tasks) > 1
    tasks = [f"task {n}" for n in range(1, len(suite.tasks) + 1)] if several else []
    header = ["method", "success", "95%", "seeds", *tasks, "w", "optimistic", "Q − return"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        weights = sorted({w for w in row["weights"] if w is not None})
        optimistic = "" if row["optimistic"] is None else f"{row['optimistic']:.2f}"
        bias = "" if row["critic_bias"] is None else f"{row['critic_bias']:+.1f}"
        cells = [
            f"`{row['method']}`",
            f"**{row['success']:.2f}**",
            f"{row['low']:.2f}–{row['high']:.2f}",
            f"{row['seed_low']:.2f}–{row['seed_high']:.2f}",
            *([f"{s:.2f}" for s in row["by_task"]] if several else []),
            " ".join(f"{w:g}" for w in weights),
            optimistic,
            bias,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", type=Path, help="as of qgf-ref train")
    parser.add_argument("--runs", type=Path, default=Path("qgf_runs"), help="where the runs are")
    parser.add_argument("--seeds", type=int, nargs="+", help="of training (default: the suite's)")
    parser.add_argument("--updates", type=int, help="of every run (default: the suite's)")
    parser.add_argument("--selection-episodes", type=int, default=12, help="per run and weight")
    parser.add_argument("--episodes", type=int, default=30, help="held out, per run and method")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    suite = SUITES[args.suite]
    origin = provenance()
    find_dataset(task(suite.tasks[0]).dataset, args.data)  # fails now rather than in every run
    runs = train(suite, args.runs / args.suite, args)
    settings = Settings(
        weights=suite.weights,
        selection_episodes=args.selection_episodes,
        episodes=args.episodes,
        workers=args.workers,
    )
    evaluations = []
    for name in suite.tasks:
        print(name)
        place = args.runs / args.suite / name / "evaluation"
        place.mkdir(exist_ok=True)
        checkpoints = [load(run, dtype="float32") for run in runs[name]]
        evaluations.append(evaluate(checkpoints, name, settings, directory=place))
        write_report(evaluations[-1], place)
    whole = pooled(
        evaluations,
        f"{args.suite}: {len(suite.tasks)} tasks" if len(suite.tasks) > 1 else suite.tasks[0],
    )
    rows = table(evaluations, whole)
    records = {
        name: [json.loads((run / "train.json").read_text()) for run in runs[name]] for name in runs
    }
    write_json(
        args.results / f"success_{args.suite}.json",
        {
            "suite": args.suite,
            "rows": rows,
            "tasks": [summary(e) for e in evaluations],
            "training": records,
            **origin,
        },
    )
    figures = {
        "success": success_figure(replace(whole, selection=()) if len(suite.tasks) > 1 else whole),
        "weights": weights_figure(whole),
        "calibration": calibration_figure(whole),
    }
    for name, figure in figures.items():
        if figure is not None:
            write_atomically(args.results / f"{name}_{args.suite}.png", png(figure))
    text = markdown(suite, rows)
    write_atomically(args.results / f"success_{args.suite}.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
