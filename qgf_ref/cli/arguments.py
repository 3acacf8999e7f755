"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array, matrix
from qgf_ref.cli.checkpoint_options import add_option_arguments, given_options, path_or_name
from qgf_ref.cli.output import laid_out
from qgf_ref.errors import InputError
from qgf_ref.files import make_directory, read_npz, require_writable, user_path
from qgf_ref.interop.auxiliary_file import with_auxiliary
from qgf_ref.interop.load import (
    EMBEDDED,
    critic_as_stored,
    embedded_observations,
    is_embedded,
    load,
    load_as_stored,
)
from qgf_ref.interop.mapping.mapping import NameMapping

EMBEDDED_TASK = "cube-single-play-singletask-task1-v0"
"""What the checkpoint inside the package was trained for."""
NORMAL_ROWS = 256
"""Rows of --obs normal, as many as the embedded observations have."""


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """--checkpoint, and one flag for every option that a checkpoint may not tell."""
    text = "params_N.pkl of the official code, .safetensors, .pt, .msgpack, .npz, or a directory"
    default = "(default: the checkpoint inside the package)"
    if several:
        parser.add_argument(
            "--checkpoint",
            nargs="+",
            type=path_or_name,
            default=[EMBEDDED],
            metavar="P",
            help=f"{text}; or several: training seeds of the same task {default}",
        )
    else:
        parser.add_argument(
            "--checkpoint",
            type=path_or_name,
            default=EMBEDDED,
            metavar="P",
            help=f"{text} {default}",
        )
    parser.add_argument(
        "--critic",
        type=path_or_name,
        metavar="P",
        help="another checkpoint, whose critic guides and ranks instead: q_aggregation, discount, "
        "expectile and, if it is DQC's, the settings are its file's, all else --checkpoint's",
    )
    add_option_arguments(parser)


def load_checkpoint(args: argparse.Namespace, dtype: str = "float64") -> Checkpoint:
    """The checkpoint that the arguments name; what was assumed of its names goes to stderr."""
    options = given_options(args)
    settings = options.pop("settings", None)
    chosen = [options.pop(name, None) for name in ("rules", "target_critic_from")]
    checkpoint = _told(*load_as_stored(args.checkpoint, options, *chosen))
    critic: Checkpoint | None = None
    if getattr(args, "critic", None) is not None:
        critic = _told(*critic_as_stored(args.critic, options))
    return load(policy=checkpoint, dtype=dtype, critic=critic, settings=settings)


def _told(checkpoint: Checkpoint, mapping: NameMapping | None) -> Checkpoint:
    """The checkpoint with its auxiliary networks, its notes on stderr."""
    for note in mapping.notes if mapping else ():
        print(laid_out("note", note), file=sys.stderr)
    return with_auxiliary(checkpoint)


def load_checkpoints(args: argparse.Namespace, dtype: str) -> list[Checkpoint]:
    """Every checkpoint of --checkpoint (`add_checkpoint_arguments` with several)."""
    return [
        load_checkpoint(argparse.Namespace(**{**vars(args), "checkpoint": path}), dtype)
        for path in args.checkpoint
    ]


def task_name(given: str | None, checkpoints: Sequence[Checkpoint]) -> str:
    """--task, or the task that the checkpoints were trained for.

    Raises InputError when that is not known, or not the same for all.
    """
    from qgf_ref.training.record import trained_task

    if given is not None:
        return given
    if all(is_embedded(checkpoint) for checkpoint in checkpoints):
        return EMBEDDED_TASK
    trained = {trained_task(Path(checkpoint.source).parent) for checkpoint in checkpoints}
    if len(trained) > 1:
        named = ", ".join(sorted(name or "one unknown" for name in trained))
        raise InputError(f"the checkpoints were trained for different tasks ({named}): give --task")
    name = trained.pop()
    if name is None:
        raise InputError(f"give --task, the task of the checkpoint, e.g. --task {EMBEDDED_TASK}")
    return name


def observations(spec: str | None, checkpoint: Checkpoint, seed: int) -> Array:
    """Observations of --obs: an npz with `obs`, or `observations` as OGBench has them; "normal";
    or (embedded checkpoint only) ours.
    """
    if spec == "normal":
        return np.random.default_rng(seed).standard_normal((NORMAL_ROWS, checkpoint.obs_dim))
    if spec is not None:
        arrays = read_npz(Path(spec), (), only=("obs", "observations"))
        obs = arrays.get("obs", arrays.get("observations"))
        if obs is None:
            obs = read_npz(Path(spec), ("obs",))["obs"]  # says what it holds instead
        return matrix(obs, "obs", columns=checkpoint.obs_dim)
    if is_embedded(checkpoint):
        return embedded_observations()
    raise InputError(
        f"give --obs F.npz with an array 'obs' of shape (N, {checkpoint.obs_dim})"
        f"{', [s, g] each,' if checkpoint.agent.of_goals else ''} or --obs normal "
        "for standard normal observations (fine for derivatives, not representative for profiles)"
    )


def natural(text: str) -> int:
    """An integer ≥ 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be ≥ 0, got {value}")
    return value


NOT_CARRIED = ("help", "out", "overwrite", "json", "config", "resume")
"""What one command's "Next:" line does not take over from another command."""


def next_command(
    args: argparse.Namespace, command: str, carry: Collection[str] | None = None, **changes: Any
) -> str:
    """A command line to paste: `command`, with what was typed of the options that it shares.

    carry    the only ones that are taken over (their `dest`); None: all, but for `NOT_CARRIED`
             where it is another command
    changes  by `dest`: a value instead of what was typed; None or False to leave the option out
    """
    first: list[str] = []
    carried: list[tuple[int, list[str]]] = []
    changed: list[str] = []
    words_typed = getattr(args, "words", [])
    for action in _parser_of(command)._actions:
        name = action.dest
        shared = command == getattr(args, "command", command) or name not in NOT_CARRIED
        if name in changes:
            value = None if changes[name] is False else changes[name]
        elif name in vars(args) and shared and (carry is None or name in carry):
            value = getattr(args, name)
            value = None if _values(value) == _values(action.default) else value
        else:
            continue
        words = [] if value is None else _words(action, value)
        if not action.option_strings:
            first += words
        elif name in changes:
            changed += words
        elif words:
            typed = [i for i, word in enumerate(words_typed) if word.startswith(words[0])]
            carried.append((min(typed, default=len(words_typed)), words))
    flags = [word for _, words in sorted(carried, key=lambda c: c[0]) for word in words]
    return shlex.join(["qgf-ref", command, *first, *flags, *changed])


def _parser_of(command: str) -> argparse.ArgumentParser:
    from qgf_ref.cli.main import parser

    (sub,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = sub.choices[command]
    return chosen


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _words(action: argparse.Action, value: Any) -> list[str]:
    """How an argument with this value is written."""
    values, names = _values(value), action.option_strings
    if action.nargs == 0:  # a switch; the last of two names is the negative one
        return [names[0]] if value else list(names[1:])
    repeated = isinstance(action, argparse._AppendAction)
    words = [str(v) for v in (values if action.nargs or repeated else values[:1])]
    if repeated:
        return [part for word in words for part in (names[0], word)]
    return [*names[:1], *words]


def output_directory(path: Path, files: Sequence[str]) -> Path:
    """`path`, made if need be; raises InputError at once when `files` cannot be written into it."""
    path = user_path(path)
    try:
        make_directory(path)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror or error}") from error
    for name in files:
        require_writable(path / name)
    return path


def add_out(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """--out and --overwrite of a command that leaves a directory: `results_directory`."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"writes {what} there (default: {default}; where that holds an earlier run's, "
        f"{default}_2, …)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")


def results_directory(args: argparse.Namespace, default: str, files: Sequence[str]) -> Path:
    """The directory of --out, or `default` with the first number that is free; made if need be.

    One rule for all commands: an earlier run's results are only replaced when that is said. Raises
    InputError when --out holds one of `files` and there is no --overwrite, and as
    `output_directory`.
    """

    def earlier(path: Path) -> list[str]:
        return [] if args.overwrite else [name for name in files if (path / name).exists()]

    path, number = args.out or Path(default), 1
    while args.out is None and earlier(path):
        number += 1
        path = Path(f"{default}_{number}")
    if held := earlier(user_path(path)):
        raise InputError(
            f"{path} holds an earlier run's {held[0]}: give --overwrite to replace it, or another "
            "--out"
        )
    return output_directory(path, files)


def output_file(path: Path, inputs: Sequence[str | Path]) -> Path:
    """`path` itself; raises InputError when it cannot be written or is one of the inputs."""
    path = user_path(path)
    require_writable(path)
    for given in map(user_path, inputs):
        if path.exists() and given.exists() and path.samefile(given):
            raise InputError(f"cannot write {path}: it is an input of this command")
    return path
