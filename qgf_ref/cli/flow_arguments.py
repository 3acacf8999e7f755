"""--flow: a flow of the user's own networks in the place of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.adapters.named import flow_named
from qgf_ref.adapters.observations import known_observations
from qgf_ref.arrays import Array
from qgf_ref.cli.arguments import EMBEDDED, NORMAL_ROWS, natural
from qgf_ref.cli.checkpoint_options import flag_of, given_options
from qgf_ref.errors import InputError
from qgf_ref.files import read_npz
from qgf_ref.guidance.base import GuidedFlow


def add_flow_argument(parser: argparse.ArgumentParser) -> None:
    """--flow of a command that takes a flow in place of a checkpoint."""
    parser.add_argument(
        "--flow",
        metavar="M:BUILD",
        help="package.module:function, called without arguments: returns a qgf_ref.GuidedFlow of "
        "networks of your own (qgf_ref.adapters), or (flow, obs); in place of --checkpoint",
    )


def add_flow_arguments(parser: argparse.ArgumentParser) -> None:
    """--flow and --budget of a command that may call its networks thousands of times."""
    add_flow_argument(parser)
    parser.add_argument(
        "--budget", type=natural, metavar="N", help="with --flow: most calls of a network"
    )


def settings_of(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Of these arguments those that were typed."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def require_flow_for_budget(args: argparse.Namespace) -> None:
    """Raise InputError where --budget is given without --flow: nothing would count."""
    if args.budget is not None and args.flow is None:
        raise InputError(
            "--budget bounds the calls of a --flow's networks; a checkpoint's are not counted: "
            "leave it out, and end a long diagnosis with Ctrl-C"
        )


def flow_of(args: argparse.Namespace) -> GuidedFlow:
    """The flow of --flow, whatever its observations. Raises InputError as `built_flow` does."""
    return _built(args)[0]


def _built(args: argparse.Namespace) -> tuple[GuidedFlow, Any]:
    typed = [
        name for name in ("checkpoint", "critic") if getattr(args, name) not in (None, EMBEDDED)
    ]
    typed += given_options(args)
    if typed:
        flags = ", ".join(map(flag_of, typed))
        raise InputError(f"--flow brings its own networks and options: leave out {flags}")
    return flow_named(args.flow)


def built_flow(args: argparse.Namespace) -> tuple[GuidedFlow, Array]:
    """The flow of --flow, and its observations: the function's own, or --obs.

    Raises InputError when the function fails or returns something else, or nothing says which
    observations.
    """
    flow, obs = _built(args)
    spec, width = getattr(args, "obs", None), flow.field.obs_dim
    if spec == "normal" and width is not None:
        obs = np.random.default_rng(args.seed).standard_normal((NORMAL_ROWS, width))
    elif spec is not None:
        obs = read_npz(Path(spec), ("obs",))["obs"]
    elif obs is None:
        obs = known_observations(flow)
    if obs is None:
        raise InputError(
            f"give --obs F.npz with an array 'obs' (N, {width}), or --obs normal, or let "
            f"{args.flow} return (flow, obs)"
        )
    return flow, np.asarray(obs)
