"""A parser that says what was probably meant, and whose help wraps and tells the defaults."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_ref.agents.registry import owners_of
from qgf_ref.errors import InputError, nearest_first
from qgf_ref.files import user_path
from qgf_ref.tracking import TRACKERS

WIDTH = 100
_MEANT = {"--lr": "--learning-rate", "--steps": "--updates", "--epochs": "--updates"}
"""What other programs call our flags, too unlike them to be found by spelling."""
_GPU = {"--device", "--gpu", "--cuda", "cuda", "cupy"}


class CommandParser(argparse.ArgumentParser):
    """The parser of the command line and of each command; its class is that of its subparsers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "formatter_class": _Help})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but every argument must be known: to the command, not to its caller."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return known, unknown

    def _meant(self, unknown: Sequence[str]) -> str:
        parts = (part for argument in unknown for part in argument.split("="))
        if _GPU & {part.partition(":")[0] for part in parts}:
            if "--backend" in self._option_string_actions:
                return "; for a GPU give --backend cupy; numpy and numba compute on the CPU"
            return "; this command computes on the CPU"
        for argument in unknown if "--set" in self._option_string_actions else ():
            name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
            if argument.startswith("--") and (owners := owners_of(name)):
                return f"; {name} is a setting of {', '.join(owners)}: give --set {name}=…"
        flags = [f for f in self._option_string_actions if f.startswith("--")]
        for argument in unknown:
            flag = argument.partition("=")[0]
            exchanged = [f for f in flags if sorted(f) == sorted(flag)]
            near = [_MEANT.get(flag, ""), *exchanged, *difflib.get_close_matches(flag, flags, 1)]
            if argument.startswith("--") and (fitting := [n for n in near if n in flags]):
                return f"; did you mean {fitting[0]}?"
        return ""

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        """As argparse; what is wrong with a path is told in its own words, by `main`."""
        if action.type is Path:
            return user_path(text)
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, InputError):
                raise error.__context__ from None
            raise

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse, the nearest of the choices first."""
        if action.choices is not None and value not in action.choices:
            names = ", ".join(nearest_first(str(value), map(str, action.choices)))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {names})")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wraps what is one line, leaves examples as they are, and adds defaults that no help tells."""

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size((WIDTH, 24)).columns
        super().__init__(prog, max_help_position=28, width=min(columns, WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse; an argument without help tells its default."""
        if action.help is None and action.default not in (None, False, argparse.SUPPRESS):
            action.help = "default: %(default)s"
        super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help is None or "default" in action.help
        if told or action.default in (None, False, argparse.SUPPRESS) or action.default == []:
            return action.help
        return f"{action.help} (default: %(default)s)"


def add_track(parser: argparse.ArgumentParser) -> None:
    """--track of a command whose numbers an experiment tracker may get, too."""
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        choices=TRACKERS,
        help="send the numbers there, too; again for another (WANDB_PROJECT, WANDB_MODE and the "
        "like are W&B's)",
    )
