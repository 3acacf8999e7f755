"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, matrix
from qgf_ref.errors import InputError
from qgf_ref.files import read_npz, require_writable
from qgf_ref.interop.checkpoint import Checkpoint, option_names
from qgf_ref.interop.load import EMBEDDED, embedded_observations, is_embedded, load

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
    group.add_argument("--discount", type=float, metavar="γ")
    group.add_argument("--expectile", type=float, metavar="τ")


def load_checkpoint(args: argparse.Namespace, dtype: str = "float64") -> Checkpoint:
    """The checkpoint that the arguments name."""
    options: dict[str, Any] = {name: getattr(args, name) for name in option_names()}
    return load(args.checkpoint, dtype=dtype, **{k: v for k, v in options.items() if v is not None})


def observations(spec: str | None, checkpoint: Checkpoint, seed: int) -> Array:
    """Observations of --obs: an npz with `obs`, "normal", or (embedded checkpoint only) ours."""
    if spec == "normal":
        return np.random.default_rng(seed).standard_normal((NORMAL_ROWS, checkpoint.obs_dim))
    if spec is not None:
        return matrix(read_npz(Path(spec), ("obs",))["obs"], "obs", columns=checkpoint.obs_dim)
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
