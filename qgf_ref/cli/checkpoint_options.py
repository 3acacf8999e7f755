"""The flags of what a checkpoint's file may not tell."""

from __future__ import annotations

import argparse
import json
from typing import Any

from qgf_ref.agents.options import option_names
from qgf_ref.errors import InputError
from qgf_ref.files import user_path
from qgf_ref.interop.mapping.mapping import TARGET_CRITIC_SOURCES
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.ensemble import WRITTEN


class Assignment(str):
    """NAME=VALUE, for argparse; `pair` has a number, true, false, a list as in JSON, or a word."""

    pair: tuple[str, Any]

    def __new__(cls, text: str) -> Assignment:
        """Raises ArgumentTypeError on another form."""
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
        made = super().__new__(cls, text)
        try:
            made.pair = name, json.loads(value)
        except ValueError:
            made.pair = name, value
        return made


def path_or_name(text: str) -> str:
    """A path, or a word that stands for something else (cube-single-play, normal), for argparse."""
    return str(user_path(text))


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every option that a checkpoint may not tell."""
    group = parser.add_argument_group("options of the checkpoint, where its flags.json lacks them")
    group.add_argument(
        "--activation",
        metavar="V",
        help=f"of the networks: {', '.join(ACTIVATIONS)}; or by network: gelu,critic=relu",
    )
    group.add_argument(
        "--q-aggregation", metavar="V", help=f"over the critic's members: {', '.join(WRITTEN)}"
    )
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
    group.add_argument(
        "--policy-inputs",
        metavar="NAMES",
        help="in their order: obs,action,time (embedded) or obs,action,raw_time (one column)",
    )
    group.add_argument(
        "--norm-after-activation",
        metavar="NETS",
        help="networks that are linear, activation, LayerNorm: all, or such as critic,value",
    )
    group.add_argument(
        "--residual",
        metavar="NETS",
        help="networks whose hidden layers are x + block(x): all, or such as policy",
    )
    recipe = "where updates are made or checked, and returns discounted"
    group.add_argument("--discount", type=float, metavar="γ", help=recipe)
    group.add_argument("--expectile", type=float, metavar="τ", help=recipe)
    group.add_argument(
        "--agent", metavar="A", help="package.module:AGENT, if it is of an agent of your own"
    )
    group.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        type=Assignment,
        metavar="NAME=VALUE",
        help="other settings of its agent (with --critic of a DQC, of that file's) than its own, "
        "e.g. guide_output=probability",
    )
    group.add_argument(
        "--rules",
        type=path_or_name,
        metavar="R.json",
        help="how its names map (qgf-ref convert --help)",
    )
    group.add_argument(
        "--target-critic-from",
        choices=TARGET_CRITIC_SOURCES,
        help="what the target critic is made of if it has none",
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_option_arguments` adds and was typed, as arguments of `load`."""
    names = (*option_names(), "rules", "target_critic_from")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    return options if args.settings is None else {**options, "settings": settings_of(args)}


def flag_of(name: str) -> str:
    """The flag of an argument of `load` or of a setting."""
    return "--set" if name == "settings" else f"--{name.replace('_', '-')}"


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """{name: value} of --set."""
    pairs = [each.pair for each in args.settings or ()]
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--set gives {', '.join(twice)} twice")
    return dict(pairs)
