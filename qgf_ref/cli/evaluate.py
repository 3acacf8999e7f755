"""qgf-ref evaluate."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qgf_ref.cli.arguments import (
    EMBEDDED_TASK,
    add_checkpoint_arguments,
    load_checkpoints,
    natural,
    next_command,
    output_directory,
    output_file,
    task_name,
)
from qgf_ref.cli.parser import add_track
from qgf_ref.errors import InputError

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint
    from qgf_ref.evaluation.methods import Method
    from qgf_ref.evaluation.protocol import Evaluation

EXAMPLE = """methods:
  bc, gradstep, an estimator of `qgf-ref estimators`, your.module:function; best of N with bfn-N
  (of behaviour cloning) or X+bfn-N. robust_q, cfgrl, qgf_distill and qgf_jacobian_distill need a
  network that `qgf-ref train-extra` trains beside a run's own

example:
  qgf-ref evaluate --methods bc qgf --episodes 10     the checkpoint inside the package
  qgf-ref evaluate --checkpoint seed_1.safetensors seed_2.safetensors \\
      --task cube-single-play-singletask-task2-v0 --workers 8 --out task2
  qgf-ref evaluate --estimators qgf ood --best-of 4 --weights 0.01 0.03 0.1

A run that is stopped goes on where it was when the same command is given again.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "evaluate",
        help="success rates in OGBench, and the critic's error on guided actions",
        description="Roll out in OGBench. The guidance weight is chosen on one set of episode "
        "seeds and reported on another, beside the optimistic number of the official protocol. "
        "Predicted Q is compared with the return that really followed. Exit code: 0, 1 when a "
        "worker fails, 2 on bad input.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument(
        "--task",
        metavar="NAME",
        help=f"default: what the run was trained for, or {EMBEDDED_TASK} (the embedded one)",
    )
    what = parser.add_argument_group("what to compare")
    what.add_argument("--methods", nargs="+", metavar="M", help="see below (default: nine)")
    what.add_argument("--estimators", nargs="+", metavar="E", help="instead: estimators, and")
    what.add_argument("--best-of", type=int, metavar="N", help="best of N for each of them")
    what.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="default 0.003 0.01 0.03 0.1 0.3 1; not of cfgrl, which is tried at 1 2 3 5 10 15",
    )
    what.add_argument("--gradient-steps", type=int, default=3, help="of gradstep (default 3)")
    what.add_argument(
        "--gradient-step-size", type=float, default=0.01, help="of gradstep (default 0.01)"
    )
    how = parser.add_argument_group("episodes")
    how.add_argument(
        "--selection-episodes",
        type=int,
        default=20,
        metavar="M0",
        help="for each checkpoint and weight, to choose the weight on (default 20)",
    )
    how.add_argument(
        "--episodes",
        type=int,
        default=50,
        metavar="M",
        help="for each checkpoint, to report (default 50)",
    )
    how.add_argument("--seed", type=natural, default=0, help="another one: other episodes")
    how.add_argument("--workers", type=int, default=1, metavar="K", help="processes (default 1)")
    how.add_argument(
        "--envs", type=int, default=8, metavar="G", help="environments stepped together (default 8)"
    )
    how.add_argument(
        "--backend",
        default="numpy",
        metavar="B",
        help="numpy, the reference (default); numba, compiled; cupy, on a GPU; cupy:tf32, rounded",
    )
    how.add_argument(
        "--threads", type=int, metavar="N", help="of numba (default: all cores; 1 if K workers > 1)"
    )
    parser.add_argument("--out", type=Path, default=Path("qgf_evaluation"), metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="drop what --out holds")
    add_track(parser)
    parser.add_argument("--gif", type=Path, metavar="F.gif", help="render one held-out episode")
    parser.add_argument(
        "--gif-method", metavar="M", help="of this method (default: the most successful)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play, print, write; 0."""
    from qgf_ref.denoising import GradientSteps
    from qgf_ref.evaluation import goals
    from qgf_ref.evaluation.goal_report import goal_table
    from qgf_ref.evaluation.methods import parse_methods
    from qgf_ref.evaluation.protocol import evaluate
    from qgf_ref.evaluation.report import (
        FILES,
        SUCCESS_NOTE,
        critic_note,
        critic_table,
        send,
        success_table,
        summary,
        write_report,
    )
    from qgf_ref.evaluation.settings import DEFAULT_WEIGHTS, Settings
    from qgf_ref.evaluation.simulator import simulator
    from qgf_ref.tables import text_table
    from qgf_ref.tracking import Start, Tracking

    climb = GradientSteps(args.gradient_steps, args.gradient_step_size)
    settings = Settings(
        methods=parse_methods(_method_names(args), climb),
        weights=tuple(args.weights or DEFAULT_WEIGHTS),
        selection_episodes=args.selection_episodes,
        episodes=args.episodes,
        seed=args.seed,
        envs=args.envs,
        workers=args.workers,
        backend=args.backend,
        threads=args.threads,
    )
    filmed, tracking = _filmed(args, settings.methods, climb), Tracking(args.track)
    checkpoints = load_checkpoints(args, "float32")
    chosen = goals.problem_of(task_name(args.task, checkpoints), checkpoints[0])
    if isinstance(chosen, goals.Goals) and not args.weights:
        settings = replace(settings, weights=goals.WEIGHTS)
    out = output_directory(args.out, FILES)
    if args.gif is not None:
        output_file(args.gif, args.checkpoint)
    for checkpoint in checkpoints:
        print(f"checkpoint {checkpoint.source}")
    about = simulator(chosen, *_data_of(checkpoints))
    print(f"task {chosen.name}, MuJoCo {about['mujoco']}")
    if about["note"]:
        print(textwrap.fill(f"note: {about['note']}", 98))
    print()
    # opened first: a tracker that cannot start is told of before the episodes are played
    with tracking.run(out, settings.describe(), Start(str(time.time()))):
        try:
            evaluation = evaluate(
                checkpoints, chosen, settings, directory=out, overwrite=args.overwrite
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"stopped; finished groups are kept in {out}: give the same command to go on"
            ) from error
        evaluation.provenance["simulator"] = about
        write_report(evaluation, out)
        send(evaluation, out, tracking)
    print(text_table(*success_table(evaluation)))
    print(textwrap.fill(SUCCESS_NOTE, 98))
    if isinstance(chosen, goals.Goals):
        print(f"\nby goal, held out:\n{text_table(*goal_table(evaluation))}")
    print("\nthe critic on the chunks that were executed:")
    print(text_table(*critic_table(evaluation)))
    print(textwrap.fill(critic_note(evaluation), 98))
    drawn = [n for n in ("success", "weights", "calibration") if (out / f"{n}.png").exists()]
    print(f"\n{evaluation.seconds:.0f} s. {out / 'evaluation.html'}; figures: {', '.join(drawn)}")
    if args.gif is not None:
        _render(args.gif, checkpoints[0], evaluation, filmed)
    print(_next(args, evaluation, out))
    args.result = summary(evaluation)
    return 0


def _data_of(checkpoints: Sequence[Checkpoint]) -> tuple[str | None, bool]:
    """Where the data set of the first checkpoint's run is, and whether there is such a run."""
    from qgf_ref.training.record import RECORD, Record

    directory = Path(checkpoints[0].source).parent
    trained = (directory / RECORD).exists()
    return (Record.read(directory).config.data if trained else None), trained


def _method_names(args: argparse.Namespace) -> list[str]:
    from qgf_ref.evaluation.methods import DEFAULT_METHODS

    if args.estimators is None:
        if args.best_of is not None:
            raise InputError("--best-of goes with --estimators; in --methods write X+bfn-N")
        return list(DEFAULT_METHODS) if args.methods is None else args.methods
    if args.methods is not None:
        raise InputError("give either --methods, or --estimators with --best-of")
    if args.best_of is None or args.best_of == 1:
        return args.estimators
    return [f"{name}+bfn-{args.best_of}" for name in args.estimators]


def _filmed(args: argparse.Namespace, methods: tuple[Method, ...], climb: object) -> Method | None:
    """The method of --gif-method."""
    from qgf_ref.evaluation.methods import parse_method

    if args.gif_method is None:
        return None
    if args.gif is None:
        raise InputError("--gif-method goes with --gif F.gif")
    known = {method.label: method for method in methods}
    label = parse_method(args.gif_method).label
    if label not in known:
        raise InputError(f"--gif-method must be one of those evaluated: {', '.join(known)}")
    return known[label]


def _render(
    path: Path, checkpoint: Checkpoint, evaluation: Evaluation, method: Method | None
) -> None:
    """Write the GIF, or say why there is none: the evaluation stands either way."""
    from qgf_ref.evaluation.goals import problem_of
    from qgf_ref.evaluation.protocol import best
    from qgf_ref.evaluation.rendering import RenderingError, render
    from qgf_ref.evaluation.settings import HELD_OUT

    cells = {cell.method: cell for cell in evaluation.held_out}
    cell = best(cells.values()) if method is None else cells[method]
    seed = evaluation.settings.seeds(HELD_OUT)[0]
    try:
        film = render(
            checkpoint, problem_of(evaluation.task, checkpoint), cell.method, cell.weight, path,
            seed=seed, sampler=evaluation.settings.backend, show=True,
        )  # fmt: skip
    except RenderingError as error:
        print(textwrap.fill(str(error), 98, break_on_hyphens=False))
        return
    outcome = "success" if film.success else "no success"
    print(f"{path}: {cell.method.label}, seed {seed}, {outcome} after {film.length} steps")


def _next(args: argparse.Namespace, evaluation: Evaluation, out: Path) -> str:
    """What to do now, as the numbers suggest."""
    unguided = [c.success.value for c in evaluation.held_out if not c.method.weighted]
    guided = [c.success.value for c in evaluation.held_out if c.method.weighted]
    if unguided and guided and max(guided) <= min(unguided):
        return (
            "Next: no weight helped: try other --weights, or train longer. The critic's error:\n"
            f"{out / 'calibration.png'}"
        )
    for cell in evaluation.held_out:
        if cell.weight is None or not evaluation.curve(cell.method):
            continue
        if cell.method.own_weights is not None:
            continue  # --weights are not its
        weights = evaluation.settings.weights
        if cell.weight in (min(weights), max(weights)):
            beyond = cell.weight / 3 if cell.weight == min(weights) else cell.weight * 3
            wider = [f"{w:.3g}" for w in sorted({*weights, beyond})]
            return (
                f"{cell.method.label}'s chosen weight {cell.weight:g} is at the end of those "
                f"tried; extend them:\nNext: {next_command(args, 'evaluate', weights=wider)}"
            )
    more = next_command(args, "evaluate", episodes=2 * evaluation.settings.episodes)
    return f"Next: look at {out / 'success.png'}; this reuses its episodes and plays more:\n{more}"
