"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import option_names
from qgf_ref.arrays import Array, matrix
from qgf_ref.errors import InputError
from qgf_ref.files import read_npz, require_writable
from qgf_ref.interop.load import EMBEDDED, embedded_observations, is_embedded, load
from qgf_ref.interop.mapping.mapping import TARGET_CRITIC_SOURCES

EMBEDDED_TASK = "cube-single-play-singletask-task1-v0"
"""What the checkpoint inside the package was trained for."""
CHECKPOINT_FLAGS = (
    "--checkpoint", "--agent", "--rules", "--target-critic-from",
    *(f"--{name.replace('_', '-')}" for name in option_names())
)  # fmt: skip
"""The flags that say which networks, and with which options."""
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
            default=[EMBEDDED],
            metavar="P",
            help=f"{text}; or several: training seeds of the same task {default}",
        )
    else:
        parser.add_argument("--checkpoint", default=EMBEDDED, metavar="P", help=f"{text} {default}")
    add_option_arguments(parser)


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every option that a checkpoint may not tell."""
    group = parser.add_argument_group("options of the checkpoint, where its flags.json lacks them")
    group.add_argument("--activation", help="gelu, relu, … of the networks")
    group.add_argument("--q-aggregation", help="min or mean over the critic's members")
    group.add_argument("--denoise-steps", type=int, metavar="T", help="Euler steps of the sampler")
    group.add_argument("--horizon-length", type=int, metavar="H", help="actions in a chunk")
    group.add_argument(
        "--action-chunking",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the policy outputs the whole chunk",
    )
    group.add_argument(
        "--layer-norm-eps",
        type=float,
        metavar="X",
        help="of a LayerNorm that is not the official one, with 1e-6 (PyTorch's default: 1e-5)",
    )
    recipe = "where updates are made or checked, and returns discounted"
    group.add_argument("--discount", type=float, metavar="γ", help=recipe)
    group.add_argument("--expectile", type=float, metavar="τ", help=recipe)
    group.add_argument(
        "--agent", metavar="A", help="package.module:AGENT, if it is of an agent of your own"
    )
    group.add_argument(
        "--rules", metavar="R.json", help="how its names map (qgf-ref convert --help)"
    )
    group.add_argument(
        "--target-critic-from",
        choices=TARGET_CRITIC_SOURCES,
        help="what the target critic is made of if it has none",
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_option_arguments` adds and was typed, as arguments of `load`."""
    names = (*option_names(), "rules", "target_critic_from")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def load_checkpoint(args: argparse.Namespace, dtype: str = "float64") -> Checkpoint:
    """The checkpoint that the arguments name."""
    return load(args.checkpoint, dtype=dtype, **given_options(args))


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
        f"give --obs F.npz with an array 'obs' of shape (N, {checkpoint.obs_dim}), or --obs normal "
        "for standard normal observations (fine for derivatives, not representative for profiles)"
    )


def natural(text: str) -> int:
    """An integer ≥ 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be ≥ 0, got {value}")
    return value


def typed(args: argparse.Namespace, *without: str) -> str:
    """The command as it was typed, less these flags: what a "Next:" line begins with."""
    return shlex.join(["qgf-ref", *(word for word in args.words if word not in without)])


def carried(args: argparse.Namespace, command: str, *flags: str) -> str:
    """`command` with those of the flags that were typed, and their values as they were."""
    words, keep = ["qgf-ref", *command.split()], False
    for word in args.words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            keep = name in flags or name.replace("--no-", "--", 1) in flags
        if keep:
            words.append(word)
    return shlex.join(words)


def output_directory(path: Path, files: Sequence[str]) -> Path:
    """`path`, made if need be; raises InputError at once when `files` cannot be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror or error}") from error
    for name in files:
        require_writable(path / name)
    return path


def output_file(path: Path, inputs: Sequence[str | Path]) -> Path:
    """`path` itself; raises InputError when it cannot be written or is one of the inputs."""
    require_writable(path)
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise InputError(f"cannot write {path}: it is an input of this command")
    return path
