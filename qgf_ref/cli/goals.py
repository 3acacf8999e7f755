"""qgf-ref goals."""

from __future__ import annotations

import argparse
from pathlib import Path

from qgf_ref.cli.arguments import natural, next_command
from qgf_ref.files import page

EXAMPLE = """example:
  qgf-ref goals cube-single-play-oraclerep-v0 --data data     goals: what the tasks ask for
  qgf-ref goals cube-single-play-v0 --data data               goals: whole observations
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "goals",
        help="what is in a goal-conditioned data set, and in a batch of it",
        description="Read a goal-conditioned OGBench data set, draw a batch of states and goals, "
        "and say what is in them: sizes, memory, episodes too short for the horizon, shares of "
        "goals that are reached. Exit code: 0, 2 on bad input.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="e.g. cube-triple-play-oraclerep-v0, or without -oraclerep for whole observations",
    )
    parser.add_argument(
        "--data", metavar="P", help="npz file or directory (default: OGBench's cache, download)"
    )
    parser.add_argument(
        "--horizon", type=int, default=25, metavar="H", help="steps of the backup (default 25)"
    )
    parser.add_argument(
        "--discount",
        type=float,
        default=0.999,
        help="γ (default 0.999, DQC's; train has 0.99)",
    )
    parser.add_argument(
        "--probabilities",
        type=float,
        nargs=3,
        default=(0.2, 0.5, 0.3),
        metavar=("CURRENT", "TRAJECTORY", "RANDOM"),
        help="of the three kinds of goals (default 0.2 0.5 0.3, DQC's)",
    )
    parser.add_argument(
        "--geometric",
        action="store_true",
        help="goals on the trajectory lie geometric(1 − γ) ahead (default: uniform)",
    )
    parser.add_argument(
        "--short-episodes",
        default="refuse",
        metavar="R",
        help="of no more than H transitions: refuse (default) or skip, as the official code does",
    )
    parser.add_argument("--rows", type=int, default=4096, metavar="B", help="of the batch")
    parser.add_argument("--seed", type=natural, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, draw, print."""
    from qgf_ref.data.datasets import find_dataset
    from qgf_ref.data.goals.sampling import GoalLaw, GoalSampling
    from qgf_ref.data.goals.summary import summary
    from qgf_ref.data.tasks import goal_task
    from qgf_ref.errors import InputError

    problem = goal_task(args.name)
    current, trajectory, random = args.probabilities
    law = GoalLaw(current, trajectory, random, args.geometric)
    sampling = GoalSampling(args.horizon, args.discount, law, None)
    if args.rows < 1:
        raise InputError(f"--rows must be at least 1, got {args.rows}")
    place = None if args.data is None else Path(args.data)
    found = find_dataset(problem.dataset, place)
    done = summary(
        problem, found, sampling, short=args.short_episodes, rows=args.rows, seed=args.seed
    )
    args.result = done
    kind = "the oracle representation" if problem.oracle else "whole observations"
    several = f" and {len(done.files) - 1} more" if len(done.files) > 1 else ""
    left_out = f"; {done.short} too short for a window of {args.horizon}" if done.short else ""
    widths, shares = done.widths, done.shares
    for title, text in (
        ("environment", f"{problem.env_id}, {problem.GOALS} goals"),
        ("data", f"{done.files[0]}{several}"),
        ("episodes", f"{done.episodes}, {done.shortest} to {done.longest} transitions{left_out}"),
        ("transitions", f"{done.transitions}; {done.starts} windows of {args.horizon} begin there"),
        ("observations", f"{widths['observations']} wide; actions {widths['actions']}"),
        ("goals", f"{widths['goals']} wide: {kind}"),
        (
            "memory",
            f"{done.memory_bytes / 1e6:.1f} MB, of which only goals need "
            f"{done.goal_bytes / 1e6:.1f}",
        ),
        (
            "batch",
            f"{args.rows} rows; goals: current {current:g}, trajectory {trajectory:g} "
            f"({'geometric' if args.geometric else 'uniform'}), random {random:g}",
        ),
        ("  reached", f"{shares.reached:.1%} within the window, current {shares.current:.1%}"),
        ("  bootstrapped", f"{1 - shares.reached:.1%}"),
        (
            "  same state",
            f"{shares.same_state:.1%} bootstrapped where the state already is the goal",
        ),
    ):
        print(f"{title:15} {text}")
    print(f"what these are: {page('data')}")
    how = {"name": args.name, "agent": "dqc", "backup_horizon": args.horizon}
    train = next_command(args, "train", ("data", "discount"), **how)
    print(f"Next: {train}")
    return 0
