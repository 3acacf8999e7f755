"""OGBench data sets: finding them, reading them without trust, and a task's rewards and masks."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np

from qgf_ref.arrays import Array, require_finite
from qgf_ref.data.slices import VALIDATION_SUFFIX, slice_files
from qgf_ref.data.tasks import Task, is_dataset_name, relabel
from qgf_ref.data.windows import ACTION_CLIP_EPS, Transitions
from qgf_ref.errors import InputError, listing
from qgf_ref.files import read_npz, user_path

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

    path  an .npz file; a directory that holds NAME.npz, or slices in NAME, or else only slices
          (`*.npz`); None for OGBench's cache directory, into which what is missing is downloaded

    Validation is the file beside it whose name ends in -val.npz; of slices, the first of them.
    Raises InputError saying what was looked for and how to make the data set, on files whose names
    say that they are another data set, and where their numbers say that a part is missing.
    """
    if path is None:
        path = _cached(name)
    path = user_path(path)
    if path.is_dir() and (path / name).is_dir() and not (path / f"{name}.npz").exists():
        path = path / name
    if path.is_dir():
        if (path / f"{name}.npz").exists():
            path = path / f"{name}.npz"
        else:
            files = slice_files(path)
            _refuse_others(name, files)
            held_out = sorted(path.glob(f"*{VALIDATION_SUFFIX}"))
            _require_all_parts(path, files, held_out)
            return DatasetFiles(tuple(files), held_out[0] if held_out else None)
    if not path.exists():
        raise InputError(
            f"no data set at {path}. Give --data a file or a directory, or make one: "
            f"qgf-ref collect {name} --episodes 500"
        )
    _refuse_others(name, [path])
    held = path.with_name(f"{path.stem}{VALIDATION_SUFFIX}")
    return DatasetFiles((path,), held if held.exists() else None)


def has_dataset(name: str, data: str | Path | None) -> bool:
    """Whether `find_dataset` finds the data set without a download."""
    try:
        if data is not None:
            return bool(find_dataset(name, data).train)
        cache = user_path(CACHE)
    except InputError:
        return False
    return (cache / name).is_dir() or (cache / f"{name}.npz").exists()


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
    data = read_dataset(path, _REQUIRED, _INFO)
    with told_of_cache(path):
        ends = checked_ends(path, data, horizon)
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


def read_dataset(
    path: Path, required: tuple[str, ...], also: tuple[str, ...] = ()
) -> dict[str, Array]:
    """These arrays of a data set's file. Raises InputError as `read_npz`; of a file in OGBench's
    cache it says that a new one is fetched when it is removed.
    """
    with told_of_cache(path):
        return read_npz(path, required, only=(*required, *also))


@contextmanager
def told_of_cache(path: Path) -> Iterator[None]:
    """An InputError about a file in OGBench's cache says how to get a new one."""
    try:
        yield
    except InputError as error:
        cache = None
        with suppress(InputError):  # a user without a home has none
            cache = user_path(CACHE).absolute()
        parent, what = user_path(path).absolute().parent, str(error).rstrip(".")
        if parent == cache:
            what += f". It lies in OGBench's cache: remove it (rm {path}), and it is fetched again"
        elif parent.parent == cache:
            what += (
                f". It lies in OGBench's cache: remove it (rm {path}) and put it there again; "
                "slices are not fetched by themselves"
            )
        else:
            raise
        raise InputError(what) from error


def _cached(name: str) -> Path:
    """The data set in OGBench's cache, downloaded as far as it is not there."""
    try:
        cache = user_path(CACHE)
    except InputError:
        raise InputError(
            f"where is the data set {name}? OGBench's cache is in the home directory, and this "
            "user has none: give --data a file or a directory"
        ) from None
    if (cache / name).is_dir() and not (cache / f"{name}.npz").exists():
        return cache / name
    path = cache / f"{name}.npz"
    if not path.exists():
        _download(name)
    elif not (cache / f"{name}{VALIDATION_SUFFIX}").exists():
        try:
            _download(name)
        except InputError as error:
            print(f"going on without validation: {error}", file=sys.stderr)
    return path


def _require_all_parts(directory: Path, files: Sequence[Path], held_out: Sequence[Path]) -> None:
    """Raise InputError where slices are missing: by their numbers, by their validation files, by
    names that stand for a file (a link to nowhere, NAME-001.npz.part), or by what `qgf-ref
    collect` wrote down. Training would take the part for the whole. Raises it, too, on a slice that
    was cut off: it would be met when its turn comes, hours later.
    """
    present = {path.stem for path in files}
    whole = {path.name.removesuffix(VALIDATION_SUFFIX) for path in held_out}
    numbered = [match for stem in present if (match := re.fullmatch(r"(.+-)([0-9]+)", stem))]
    if len(numbered) == len(present):
        numbers = sorted(int(match[2]) for match in numbered)
        first, digits = numbered[0][1], len(numbered[0][2])
        whole |= {f"{first}{n:0{digits}d}" for n in range(numbers[0], numbers[-1] + 1)}
    begun = (re.match(r"\.?(.+-[0-9]+)\.npz(\.|$)", path.name) for path in directory.iterdir())
    whole |= {match[1] for match in begun if match}
    with suppress(OSError, ValueError, KeyError, TypeError):
        report = directory.parent / f"{directory.name}.json"
        written = json.loads(report.read_bytes())["files"]
        names = [Path(name).name for name in written]
        whole |= {n.removesuffix(".npz") for n in names if not n.endswith(VALIDATION_SUFFIX)}
    missing = [f"{stem}.npz" for stem in sorted(whole - present)]
    if len(held_out) > 1:
        held = {path.name for path in held_out}
        missing += [n for s in sorted(present) if (n := f"{s}{VALIDATION_SUFFIX}") not in held]
    if missing:
        raise InputError(
            f"{directory} holds slices of a data set and lacks {listing(missing)}: put them there, "
            "or give --data a directory of only those that you mean, numbered without gaps"
        )
    for path in (*files, *held_out):
        if not zipfile.is_zipfile(path):
            read_dataset(path, _REQUIRED)  # says what it is


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


def checked_ends(path: Path, data: dict[str, Array], horizon: int) -> Array:
    """The indices (K,) of the episodes' last states s_T, of observations, actions, terminals and
    what else `data` holds; raises InputError on contradictions, and on fewer transitions than
    `horizon` in an episode.
    """
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
    require_single_ends(ends, path)
    transitions = np.diff(ends, prepend=-1) - 1
    shortest = int(transitions.argmin())
    if transitions[shortest] < max(horizon, 1):
        raise InputError(
            f"{path}: episode {shortest} has {transitions[shortest]} transitions, fewer than a "
            f"chunk of {horizon}. Remove it or choose a smaller --horizon-length."
        )
    return ends


def require_single_ends(ends: Array, where: object) -> None:
    """Raise InputError where most episodes would be followed by one of a single state: a terminal
    on s_(T−1) and on s_T, as OGBench's compact form has it in memory.

    ends (K,): the rows of all terminals; where: for the message
    """
    doubled = int((np.diff(ends) == 1).sum())
    if doubled and 2 * doubled >= len(ends):
        raise InputError(
            f"{where}: terminals are 1 on the last two rows of {doubled} episodes, which reads as "
            f"{doubled} more episodes of one state each. OGBench's compact form, in memory, marks "
            "s_(T−1), too; a file marks s_T alone. Write terminals[:-1][terminals[1:] > 0] = 0"
        )


def _download(name: str) -> None:
    from ogbench.utils import download_datasets

    try:
        download_datasets([name])
    except (URLError, HTTPException, OSError) as error:
        raise InputError(
            f"no data set {name} (with its {VALIDATION_SUFFIX}) in {CACHE}, and it could not be "
            f"downloaded ({error}). Give --data a file or a directory, or make it here: qgf-ref "
            f"collect {name} --episodes 500"
        ) from error
