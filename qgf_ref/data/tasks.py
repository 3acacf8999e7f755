"""OGBench's names: which environment and which data set a task name stands for.

    cube-single-play-singletask-task1-v0
    └── env ──┘ └type┘           └ task ┘

names the environment `cube-single-singletask-task1-v0` and the data set `cube-single-play-v0`.
Goal-conditioned names are those of the data set, with or without `-oraclerep` before the version.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib import reload
from typing import Any, ClassVar

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing

DATASET_TYPES = ("play", "noisy", "navigate", "stitch", "explore")
_NAME = re.compile(
    rf"(?P<env>[a-z0-9-]+?)-(?P<type>{'|'.join(DATASET_TYPES)})"
    r"((?P<single>-singletask(-task(?P<number>[1-9]))?)|(?P<oracle>-oraclerep))?-(?P<version>v[0-9]+)"
)
_QUIET = (
    (UserWarning, r".*Box (low|high)'s precision lowered"),
    (UserWarning, r".*Overriding environment .* already in registry"),
    (Warning, r".*(X11|DISPLAY|Wayland).*"),
)


@dataclass(frozen=True)
class Task:
    """One OGBench task.

    name     as the user gave it, e.g. cube-single-play-singletask-task1-v0
    env_id   the Gymnasium id, e.g. cube-single-singletask-task1-v0
    dataset  the data set's name, e.g. cube-single-play-v0
    """

    name: str
    env_id: str
    dataset: str

    def make_env(self, **options: Any) -> Any:
        """The Gymnasium environment; `options` go to `gymnasium.make`."""
        return make_env(self.env_id, **options)


@dataclass(frozen=True)
class GoalTask:
    """A goal-conditioned OGBench problem: one data set, an environment with GOALS goals.

    name     as the user gave it, e.g. cube-triple-play-oraclerep-v0
    env_id   the Gymnasium id, e.g. cube-triple-v0
    dataset  the data set's name, e.g. cube-triple-play-v0
    oracle   whether goals are OGBench's oracle representations; else they are whole observations
    """

    name: str
    env_id: str
    dataset: str
    oracle: bool

    GOALS: ClassVar[int] = 5

    def make_env(self, **options: Any) -> Any:
        """The Gymnasium environment, whose goals are of the data's representation."""
        representation = {"use_oracle_rep": True} if self.oracle else {}
        return make_env(self.env_id, **representation, **options)

    def reset_options(self, goal: int) -> dict[str, int]:
        """What `env.reset(options=…)` needs for goal number `goal`, 1 … GOALS (InputError)."""
        if not 1 <= goal <= self.GOALS:
            raise InputError(f"{self.name} has the goals 1 to {self.GOALS}, not {goal}")
        return {"task_id": goal}


def goal_task(name: str) -> GoalTask:
    """The goal-conditioned problem `name`: ENV-TYPE-oraclerep-v0, or ENV-TYPE-v0.

    Raises InputError, with near names, when there is none, and on a single task's name.
    """
    found = _NAME.fullmatch(name)
    if found is None or found["single"]:
        env_id = dataset = ""
    else:
        env_id = f"{found['env']}-{found['version']}"
        dataset = f"{found['env']}-{found['type']}-{found['version']}"
    if found is None or env_id not in _registered(single=False):
        if found is not None and found["single"]:
            own = f"{found['env']}-{found['type']}"
            raise InputError(
                f"{name} is a single task, and what is trained with goals needs a goal-conditioned "
                f"name: {own}-oraclerep-{found['version']}, or {own}-{found['version']} for whole "
                "observations as goals"
            )
        valid = _registered(single=False)
        near = difflib.get_close_matches(env_id or name, valid, n=4, cutoff=0.3) or valid[:4]
        raise InputError(
            f"unknown goal-conditioned data set {name!r}: expected ENV-TYPE-oraclerep-v0 or "
            f"ENV-TYPE-v0 with TYPE among {', '.join(DATASET_TYPES)} and ENV-v0 an "
            f"environment of OGBench's, e.g. {listing(near)}"
        )
    return GoalTask(name, env_id, dataset, bool(found["oracle"]))


def task(name: str, whose: str = "what is trained on rewards") -> Task:
    """The single-task problem `name`; raises InputError, with near names, when there is none, and
    on a goal-conditioned name, saying of what needs a task.
    """
    found = _NAME.fullmatch(name)
    valid = registered_tasks()
    if found is not None and not found["single"]:
        single = f"{found['env']}-{found['type']}-singletask-task1-{found['version']}"
        if f"{found['env']}-singletask-{found['version']}" in valid:
            raise InputError(
                f"{name} is goal-conditioned and has no rewards, and {whose} needs those of one "
                f"task: expected ENV-TYPE-singletask[-taskN]-v0, e.g. {single}"
            )
    if found is None or not found["single"]:
        near = difflib.get_close_matches(name, _examples(valid), n=3, cutoff=0.3)
        raise InputError(
            f"unknown task {name!r}: expected ENV-TYPE-singletask[-taskN]-v0 with TYPE among "
            f"{', '.join(DATASET_TYPES)}, e.g. {listing(near or _examples(valid)[:3])}"
        )
    env_id = f"{found['env']}{found['single']}-{found['version']}"
    if env_id not in valid:
        near = difflib.get_close_matches(env_id, valid, n=4, cutoff=0.3)
        shown = (n.replace("-singletask", f"-{found['type']}-singletask") for n in near)
        raise InputError(f"unknown task {name!r}; OGBench has, among others: {listing(shown)}")
    return Task(name, env_id, f"{found['env']}-{found['type']}-{found['version']}")


def is_dataset_name(name: str) -> bool:
    """Whether `name` has the form ENV-TYPE-v0 of a data set's name."""
    found = _NAME.fullmatch(name)
    return found is not None and not found["single"] and not found["oracle"]


def dataset_of(name: str) -> str:
    """The data set of a name with -oraclerep; any other name as it is."""
    found = _NAME.fullmatch(name)
    if found is None or not found["oracle"]:
        return name
    return f"{found['env']}-{found['type']}-{found['version']}"


def dataset_env(name: str) -> tuple[str, str]:
    """(environment id, type) of the data set `name`: cube-single-play-v0 → cube-single-v0, play.

    Raises InputError when OGBench has no such environment.
    """
    found = _NAME.fullmatch(name)
    valid = _registered(single=False)
    known = found is not None and f"{found['env']}-{found['version']}" in valid
    if found is None or not known or found["single"] or found["oracle"]:
        hint = ""
        if found is not None and (found["single"] or found["oracle"]):
            own = f"{found['env']}-{found['type']}-{found['version']}"
            hint = f"; the data set of this task is {own}"
        near = difflib.get_close_matches(name, valid, n=4, cutoff=0.3) or valid[:4]
        raise InputError(
            f"unknown data set {name!r}: expected ENV-TYPE-v0 with TYPE among "
            f"{', '.join(DATASET_TYPES)} and ENV-v0 an environment of OGBench's, "
            f"e.g. {listing(near)}{hint}"
        )
    return f"{found['env']}-{found['version']}", found["type"]


def relabel(task: Task, data: dict[str, Array]) -> tuple[Array, Array]:
    """Rewards and masks (N,), float32, of the states in `data` (qpos, button_states) for `task`.

    OGBench's own rule, `ogbench.relabel_utils.relabel_dataset`. Draws no random numbers but at the
    first call for a task, so that slices can be loaded while an environment runs elsewhere.
    Raises InputError when the observations are not the environment's.
    """
    env = _settled(task.env_id)
    from ogbench.relabel_utils import relabel_dataset

    expected, given = env.observation_space.shape, data["observations"].shape[1:]
    if given != expected:
        raise InputError(
            f"{task.env_id} has observations of shape {expected}, the data set's are {given}: "
            f"is it the data set {task.dataset}?"
        )
    labelled = dict(data)
    relabel_dataset(task.env_id, env, labelled)
    return labelled["rewards"], labelled["masks"]


class _Settled:
    """An environment whose task is set, and that OGBench's rule cannot reset any more."""

    def __init__(self, env: Any) -> None:
        self.unwrapped = env.unwrapped
        self.observation_space = env.observation_space

    def reset(self) -> None:
        """Nothing."""


@lru_cache(maxsize=4)
def _settled(env_id: str) -> _Settled:
    env = make_env(env_id)
    seeded_reset(env, 0)
    return _Settled(env)


def registered_tasks() -> list[str]:
    """The Gymnasium ids of all of OGBench's state-based single-task environments."""
    return _registered(single=True)


def make_env(env_id: str, **options: Any) -> Any:
    """`gymnasium.make` with OGBench registered and its known, harmless warnings off.

    Raises InputError where a task judges success after the action, as OGBench did before 1.2: its
    rewards would be one step earlier than those of the data sets, for which a critic is trained.
    """
    gymnasium = _gymnasium()
    quiet()
    draws = options.get("render_mode") is not None
    if "-singletask" in env_id and gymnasium.spec(env_id).kwargs.get("success_timing") != "pre":
        raise InputError(
            f"{env_id} judges rewards after the action, but data sets are labelled with those "
            'before it: pip install "ogbench>=1.2"'
        )
    with nullcontext() if draws else environment(MUJOCO_GL="off"):
        # else MuJoCo, when it is first imported, loads the OpenGL that MUJOCO_GL names, and fails
        # where that is of another machine
        env = gymnasium.make(env_id, disable_env_checker=True, **options)
    if draws and not hasattr(sys.modules.get("mujoco.gl_context"), "GLContext"):
        # it was imported for environments that do not draw; the first place is MuJoCo 4's
        for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
            if name in sys.modules:
                reload(sys.modules[name])
    return env


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """These environment variables, for a while; None: without it."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def seeded_reset(env: Any, seed: int) -> Array:
    """Reset `env` to the initial state of `seed` and return the observation (O,).

    `env.reset(seed=…)` alone does not fix it: the mazes draw their initial noise from NumPy's
    global generator and settle with actions sampled from the action space. Both are seeded here.
    """
    np.random.seed(seed)  # noqa: NPY002  (it is this generator that OGBench draws from)
    env.unwrapped.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    return np.asarray(obs)


def quiet() -> None:
    """From now on, ignore the warnings that OGBench's environments raise at every reset."""
    for category, message in _QUIET:
        warnings.filterwarnings("ignore", message=message, category=category)


def _gymnasium() -> Any:
    # not at the module's top: importing MuJoCo takes a second, and few commands need it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium
        import ogbench  # noqa: F401  (registers the environments)
    return gymnasium


def _registered(single: bool) -> list[str]:
    skip = ("visual", "online", "powderworld")
    return sorted(
        name
        for name, spec in _gymnasium().registry.items()
        if str(spec.entry_point).startswith("ogbench.")
        and not name.startswith(skip)
        and ("-singletask" in name) == single
    )


def _examples(valid: list[str]) -> list[str]:
    shown = []
    for name in valid:
        kind = "navigate" if "maze" in name or "soccer" in name else "play"
        shown.append(name.replace("-singletask", f"-{kind}-singletask"))
    return shown
