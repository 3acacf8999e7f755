"""OGBench data sets: finding them, reading them without trust, and a task's rewards and masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np

from qgf_ref.arrays import Array, require_finite
from qgf_ref.data.slices import slice_files
from qgf_ref.data.tasks import Task, is_dataset_name, relabel
from qgf_ref.data.windows import ACTION_CLIP_EPS, Transitions
from qgf_ref.errors import InputError, listing
from qgf_ref.files import read_npz

CACHE = Path("~/.ogbench/data")
"""Where OGBench, and `qgf-ref collect`, keep data sets."""

Masks = Literal["relabelled", "official-100m"]
MASKS: tuple[Masks, ...] = ("relabelled", "official-100m")

_ACTION_ROUNDING = 1e-6
_REQUIRED = ("observations", "actions", "terminals", "qpos")
_INFO = ("qpos", "button_states")


@dataclass(frozen=True)
class DatasetFiles:
    """Training files (several: slices of one data set) and the validation file, if there is one."""

    train: tuple[Path, ...]
    validation: Path | None


def find_dataset(name: str, path: str | Path | None = None) -> DatasetFiles:
    """The files of the data set `name`.

    path  an .npz file; a directory that holds NAME.npz, or else only slices (`*.npz`); None for
          OGBench's cache directory, into which the data set is downloaded if it is not there

    Validation is the file beside it whose name ends in -val.npz; of slices, the first of them.
    Raises InputError saying what was looked for and how to make the data set, and on files whose
    names say that they are another data set.
    """
    if path is None:
        path = CACHE.expanduser()
        if not (path / f"{name}.npz").exists():
            _download(name)
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / f"{name}.npz").exists():
            path = path / f"{name}.npz"
        else:
            files = slice_files(path)
            _refuse_others(name, files)
            held_out = sorted(path.glob("*-val.npz"))
            return DatasetFiles(tuple(files), held_out[0] if held_out else None)
    if not path.exists():
        raise InputError(
            f"no data set at {path}. Give --data a file or a directory, or make one: "
            f"qgf-ref collect {name} --episodes 500"
        )
    _refuse_others(name, [path])
    held = path.with_name(f"{path.stem}-val.npz")
    return DatasetFiles((path,), held if held.exists() else None)


def load_transitions(
    path: Path,
    task: Task,
    *,
    horizon: int = 1,
    masks: Masks = "relabelled",
    action_clip_eps: float = ACTION_CLIP_EPS,
) -> Transitions:
    """One OGBench file as transitions with the rewards and masks of `task`, float32.

    The last state of an episode only serves as the next observation of the one before. Rewards
    are those of the state s_t (−1 per unmet sub-goal, 0 at success); a mask is 0 at success.
    masks "official-100m" reproduces the official 100M loader, which overwrites the masks by
    1 − terminals: the critic then bootstraps through success, and a time limit counts as success
    (official.md, D3). Actions are clipped to ±(1 − action_clip_eps), as the official code does.

    Raises InputError on a file that is truncated or lacks a key, whose arrays contradict each other
    or the environment, whose actions leave [−1, 1], or with an episode shorter than `horizon`.
    """
    if masks not in MASKS:
        raise InputError(f"masks must be one of {', '.join(MASKS)}; got {masks!r}")
    data = read_npz(path, _REQUIRED, only=(*_REQUIRED, *_INFO))
    ends = _check(path, data, horizon)
    keep = np.ones(len(data["actions"]), dtype=bool)
    keep[ends] = False
    last = np.zeros(len(keep), dtype=np.float32)
    last[ends - 1] = 1
    observations = data["observations"].astype(np.float32, copy=False)
    kept = {
        "observations": observations[keep],
        **{name: data[name][keep] for name in _INFO if name in data},
    }
    try:
        rewards, relabelled = relabel(task, kept)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path} does not fit {task.env_id}: its rewards cannot be computed "
            f"({type(error).__name__}: {error}). Is it the data set {task.dataset}?"
        ) from error
    bound = 1 - action_clip_eps
    actions = np.clip(data["actions"][keep].astype(np.float32, copy=False), -bound, bound)
    terminals = last[keep]
    return Transitions(
        observations=kept["observations"],
        next_observations=observations[1:][keep[:-1]],
        actions=actions,
        rewards=rewards,
        masks=relabelled if masks == "relabelled" else 1 - terminals,
        terminals=terminals,
    )


def _refuse_others(name: str, files: Sequence[Path]) -> None:
    # play and noisy, or two mazes, have the same shapes: only the name tells them apart
    stems = {re.sub(r"-[0-9]+$", "", path.stem) for path in files}
    other = sorted(stem for stem in stems if is_dataset_name(stem) and stem != name)
    if other or len(stems) > 1:
        raise InputError(
            f"{files[0].parent} has no {name}.npz, and its files are not the slices of one data "
            f"set {name}: {listing(sorted(stems))}. Give --data the right file or directory"
            if len(files) > 1
            else f"{files[0]} is called {other[0]}, but the task's data set is {name}. Give --data "
            "the right file, or rename it if that is what it is"
        )


def _check(path: Path, data: dict[str, Array], horizon: int) -> Array:
    """The indices of the episodes' last states; raises InputError on contradictions."""
    observations, actions, terminals = (data[n] for n in ("observations", "actions", "terminals"))
    if observations.ndim != 2 or actions.ndim != 2 or terminals.ndim != 1:
        shapes = f"{observations.shape}, {actions.shape}, {terminals.shape}"
        raise InputError(
            f"{path}: observations, actions, terminals must have the shapes (N, O), (N, A), (N,); "
            f"got {shapes} (pixel and discrete data sets are not supported)"
        )
    lengths = {name: len(array) for name, array in data.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{path}: its arrays differ in length: {lengths}")
    for name in data:
        if data[name].dtype.kind not in "fbiu":
            raise InputError(f"{path}: {name} must be numbers, not {data[name].dtype}")
        require_finite(data[name], f"{path}: {name}", InputError)
    largest = float(np.abs(actions).max(initial=0))
    if largest > 1 + _ACTION_ROUNDING:
        row = int(np.abs(actions).max(axis=1).argmax())
        raise InputError(
            f"{path}: actions must lie in [−1, 1]; the largest is {largest:g}, in row {row}. Scale "
            "them to the environment's normalised action space."
        )
    ends = np.flatnonzero(terminals)
    if not len(ends) or ends[-1] != len(terminals) - 1:
        last = f"row {ends[-1]}" if len(ends) else "no row at all"
        raise InputError(
            f"{path} must end with the end of an episode (terminals 1 in its last row); it has "
            f"{len(terminals)} rows, and the last terminal is in {last}"
        )
    transitions = np.diff(ends, prepend=-1) - 1
    shortest = int(transitions.argmin())
    if transitions[shortest] < max(horizon, 1):
        raise InputError(
            f"{path}: episode {shortest} has {transitions[shortest]} transitions, fewer than a "
            f"chunk of {horizon}. Remove it or choose a smaller --horizon-length."
        )
    return ends


def _download(name: str) -> None:
    from ogbench.utils import download_datasets

    try:
        download_datasets([name])
    except (URLError, HTTPException, OSError) as error:
        raise InputError(
            f"no data set {name} in {CACHE}, and it could not be downloaded ({error}). Give --data "
            f"a file or a directory, or make it here: qgf-ref collect {name} --episodes 500"
        ) from error
