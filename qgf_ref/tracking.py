"""Experiment trackers beside our own files, which stay the truth: TensorBoard, Weights & Biases."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from qgf_ref.errors import InputError, missing_package, unknown_name


class Tracker(Protocol):
    """What is sent to one tracker."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""

    def picture(self, name: str, png: bytes) -> None:
        """A PNG."""

    def close(self) -> None:
        """The end."""


@dataclass(frozen=True)
class Start:
    """Which run begins or goes on.

    identity  with the directory: a resumed run has that of its start, and is gone on with
    first     the step after which it goes on; what was sent of later ones is replaced
    part      of a run that is tracked apart from the others in its directory
    """

    identity: str = ""
    first: int = 0
    part: str = ""

    def number(self, directory: Path) -> str:
        """What a service calls the run."""
        text = f"{directory.resolve()} {self.part} {self.identity}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Tracking:
    """The trackers that a user asked for; none unless told.

    A tracker that fails while it is sent something is told of once, on stderr, and left out: it
    never costs the result. Raises InputError on a name that is none, and on a missing package.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._open: dict[str, Tracker] = {}
        for name in self.names:
            if name not in TRACKERS:
                raise unknown_name("tracker", name, TRACKERS)
            package, _ = TRACKERS[name]
            lacking = missing_package(package)
            if find_spec(package) is None and lacking is not None:
                raise lacking

    @contextmanager
    def run(self, directory: Path, config: Mapping[str, Any], start: Start) -> Iterator[Tracking]:
        """While active, what is sent belongs to one run. Raises InputError when a tracker cannot
        start.
        """
        for name in self.names:
            try:
                self._open[name] = TRACKERS[name][1](directory, config, start)
            except Exception as error:
                raise InputError(f"--track {name}: it cannot start: {error}") from error
        try:
            yield self
        finally:
            self._each(lambda tracker: tracker.close())
            self._open.clear()

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        """Send the finite numbers among `values`."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._each(lambda tracker: tracker.scalars(numbers, step))

    def picture(self, name: str, png: bytes) -> None:
        """Send a picture."""
        self._each(lambda tracker: tracker.picture(name, png))

    def _each(self, send: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                send(tracker)
            except Exception as error:  # noqa: BLE001  (a network, a disk, a service of others)
                del self._open[name]
                print(f"--track {name}: {error}; going on without", file=sys.stderr)


class _TensorBoard:
    def __init__(self, directory: Path, config: Mapping[str, Any], start: Start) -> None:
        from tensorboardX import SummaryWriter

        # what a stopped run sent after its saved state is sent again
        again = start.first + 1 if start.first else None
        place = directory / "tensorboard" / start.part
        self._writer = SummaryWriter(str(place), purge_step=again)
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=1, default=str)}\n```")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, png: bytes) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(_opened(png)), dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, directory: Path, config: Mapping[str, Any], start: Start) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "qgf_ref"),
            dir=str(directory),
            id=start.number(directory),
            name=os.environ.get("WANDB_NAME", f"{directory.name} {start.part}".strip()),
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(console="off"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, png: bytes) -> None:
        self._run.log({name: self._image(_opened(png))})

    def close(self) -> None:
        self._run.finish()


def _opened(png: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any], Start], Tracker]]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _WeightsAndBiases),
}
"""By the name that --track takes: the package, and what opens a run."""
