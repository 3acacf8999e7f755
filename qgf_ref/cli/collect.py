"""qgf-ref collect."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qgf_ref.cli.arguments import natural, next_command
from qgf_ref.threads import available_cores

INTERRUPTED = 130
EXAMPLE = """example:
  qgf-ref collect cube-single-play-v0 --workers 8                      as large as OGBench's
  qgf-ref collect scene-play-v0 --episodes 300 --workers 2 --out data  smaller, elsewhere

Interrupted, even by SIGKILL, it loses only the episodes under way; the same command goes on.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "collect",
        help="make an OGBench data set with OGBench's own scripted oracles",
        description="Make an OGBench data set with OGBench's own scripted oracles, in OGBench's "
        "file format: cube-*, puzzle-* and scene with play or noisy, pointmaze-* with navigate. "
        "The same files serve single tasks and goals. "
        "The files depend on the seed, not on the number of workers. "
        "Exit code: 0 when done, 1 when a worker dies, 2 on bad input, 130 on Ctrl-C.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="data set, e.g. cube-single-play-v0, with or without -oraclerep",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=1000,
        metavar="N",
        help="training episodes (default 1000, as most of OGBench's; the large ones have more)",
    )
    parser.add_argument(
        "--val-episodes", type=int, metavar="N", help="validation episodes (default: a tenth)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="K", help="processes (default: one for each usable core)"
    )
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="writes NAME.npz, NAME-val.npz and NAME.json there (default: ~/.ogbench/data, where "
        "OGBench looks)",
    )
    parser.add_argument(
        "--episode-steps",
        type=int,
        metavar="N",
        help="steps of an episode (default: OGBench's, 1001; pointmaze-giant 2001)",
    )
    parser.add_argument(
        "--slices",
        type=natural,
        default=0,
        metavar="N",
        help="write a directory NAME of N pairs NAME-000.npz, NAME-000-val.npz, … instead",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing data set")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Collect and write; 0, or 130 when interrupted."""
    from qgf_ref.data.collection.collect import DEFAULT_OUT, collect, make_plan
    from qgf_ref.data.collection.parts import kept_episodes

    plan = make_plan(
        args.name,
        episodes=args.episodes,
        val_episodes=args.val_episodes,
        seed=args.seed,
        out=args.out or DEFAULT_OUT,
        episode_steps=args.episode_steps,
        slices=args.slices,
    )
    workers = available_cores() if args.workers is None else args.workers
    resumed = len(kept_episodes(plan.parts))
    print(
        f"{plan.name}: {plan.episodes['train']} training and {plan.episodes['val']} validation "
        f"episodes of {plan.recipe.episode_steps} steps with {workers} workers, seed {plan.seed}"
        + (f"; {resumed} episodes are kept in {plan.parts}" if resumed else ""),
        flush=True,
    )
    try:
        done = collect(plan, workers, overwrite=args.overwrite)
    except KeyboardInterrupt:
        kept = len(kept_episodes(plan.parts) & set(plan.jobs()))
        print(
            f"interrupted; {kept} of {len(plan.jobs())} episodes are kept in {plan.parts}\n"
            "the same command goes on with them",
            file=sys.stderr,
        )
        args.result = {"episodes_kept": kept}
        return INTERRUPTED
    args.result = done
    print(
        f"{done.transitions['train']} training and {done.transitions['val']} validation "
        f"transitions; {done.episodes} episodes simulated in {done.seconds:.0f} s, "
        f"{done.steps_per_second:.0f} steps/s"
    )
    for path in done.files[:1] if plan.slices else done.files:
        print(f"wrote {path}")
    if plan.slices:
        print(f"and {len(done.files) - 1} more files in {done.files[0].parent}")
    left = len(kept_episodes(plan.parts))
    if left:
        print(f"{left} episodes beyond these stay in {plan.parts}")
    print(f"configuration and provenance: {done.report}")
    shown = plan.out / (plan.name if plan.slices else f"{plan.name}.npz")
    stem, version = plan.name.rsplit("-", 1)
    name = f"{stem}-singletask-{version}"
    print(f"Next: {next_command(args, 'train', (), name=name, data=shown)}")
    name = f"{stem}-oraclerep-{version}"
    print(f"  or: {next_command(args, 'train', (), name=name, data=shown, agent='dqc')}")
    print(f"      {next_command(args, 'goals', (), name=name, data=shown)}  (what is in it)")
    return 0
