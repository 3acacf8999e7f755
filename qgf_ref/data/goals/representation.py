"""What a goal is: OGBench's oracle representation of a state, or the whole observation.

Source: OGBench's `add_oracle_reps`; restated here so that it is made of a batch's rows alone, and
not of a whole data set in float64.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, matrix
from qgf_ref.data.tasks import GoalTask
from qgf_ref.errors import InputError

Column = tuple[str, int]
"""A column of a data set's file: the array's name and the number."""

CUBES = {"single": 1, "double": 2, "triple": 3, "quadruple": 4, "octuple": 8}
SCENE_BUTTONS = 2
FIRST_CUBE, CUBE_WIDTH = 14, 7
"""In qpos: the arm and its gripper come first; a cube is a position and a quaternion."""
BALL = 15
CUBE_CENTRE, CUBE_SCALE = (0.425, 0.0, 0.0), 10.0
DRAWER_SCALE, WINDOW_SCALE = 18.0, 15.0


@dataclass(frozen=True)
class Representation:
    """g = (columns − centre)·scale in float64, rounded to float32: G columns of a file's arrays.

    env_id        the environment that shows the same numbers as goals
    columns       where each of the G numbers comes from, in their order
    centre, scale (G,), metres and 1/metre; 0 and 1 for button states
    """

    env_id: str
    columns: tuple[Column, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def width(self) -> int:
        """G."""
        return len(self.columns)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays of a file that it is made of."""
        return tuple(sorted({name for name, _ in self.columns}))

    def source(self, data: dict[str, Array], path: object) -> Array:
        """Its columns (N, G) of the arrays of the file `path`, as they are: no larger than they.

        Raises InputError when the file lacks an array or is of another environment.
        """
        missing = [name for name in self.needs if name not in data]
        if missing:
            raise InputError(
                f"{path} lacks {' and '.join(missing)}, of which the oracle representation of "
                f"{self.env_id} is made: use whole observations as goals (a name without "
                "-oraclerep), or collect the data set again"
            )
        for name in self.needs:
            wanted = 1 + max(column for held, column in self.columns if held == name)
            shape = data[name].shape
            exact = name == "button_states" and len(shape) == 2 and shape[1] != wanted
            if len(shape) != 2 or shape[1] < wanted or exact:
                raise InputError(
                    f"{path}: {name} must have {'' if exact else 'at least '}{wanted} columns for "
                    f"goals of width {self.width}, the oracle representation of {self.env_id}; it "
                    f"has the shape {shape}"
                )
        positions = "qpos" in self.needs
        dtype = data["qpos"].dtype if positions else _smallest(data["button_states"])
        source = np.empty((len(data[self.needs[0]]), self.width), dtype)
        for g, (name, column) in enumerate(self.columns):
            source[:, g] = data[name][:, column]
        return source

    def of(self, source: Array) -> Array:
        """The representations (B, G), float32, of rows (B, G) of `source`."""
        moved = source.astype(np.float64)
        moved -= self.centre
        moved *= self.scale
        return moved.astype(np.float32)


def oracle_representation(env_id: str) -> Representation:
    """OGBench's oracle representation for a goal-conditioned environment, e.g. cube-triple-v0.

    cubes: 3 numbers each; puzzle: its button states; scene: cube, buttons, drawer, window; mazes:
    xy; soccer: the ball's xy. Raises InputError for another environment.
    """
    family, *rest = env_id.split("-")
    kind = rest[0] if rest else ""
    if family == "cube" and kind in CUBES:
        return _of_parts(env_id, *(_cube(n) for n in range(CUBES[kind])))
    if family == "puzzle" and (size := re.fullmatch(r"([0-9]+)x([0-9]+)", kind)):
        return _of_parts(env_id, _buttons(int(size[1]) * int(size[2])))
    if family == "scene":
        drawer = FIRST_CUBE + CUBE_WIDTH + SCENE_BUTTONS
        slides = [
            (("qpos", drawer), 0.0, DRAWER_SCALE),
            (("qpos", drawer + 1), 0.0, WINDOW_SCALE),
        ]
        return _of_parts(env_id, _cube(0), _buttons(SCENE_BUTTONS), slides)
    if "maze" in family or "soccer" in family:
        first = 0 if "maze" in family else BALL
        return _of_parts(env_id, [(("qpos", first + j), 0.0, 1.0) for j in range(2)])
    raise InputError(
        f"no oracle goal representation is known for {env_id}; expected one of cube-*, puzzle-*, "
        "scene, mazes and soccer"
    )


def goal_representation(task: GoalTask) -> Representation | None:
    """The representation of a task's goals; None: whole observations."""
    return oracle_representation(task.env_id) if task.oracle else None


def as_goals(goals: Any, width: int, what: str = "goals") -> Array:
    """Goals that an environment or a user gave, (G,) or (rows, G), as (rows, G) in float32.

    The environments' own are float64. Raises InputError when they are not `width` wide.
    """
    given = np.asarray(goals)
    if given.ndim == 1:
        given = given[None]
    if given.ndim != 2 or given.shape[1] != width:
        raise InputError(
            f"{what} must be {width} wide, as the goals that were trained with; got the shape "
            f"{np.shape(goals)}: is the environment made with the same representation "
            "(use_oracle_rep)?"
        )
    return matrix(given, what, columns=width, dtype=np.float32)


_Part = list[tuple[Column, float, float]]


def _of_parts(env_id: str, *parts: _Part) -> Representation:
    columns, centre, scale = zip(*(entry for part in parts for entry in part), strict=True)
    return Representation(env_id, columns, centre, scale)


def _cube(number: int) -> _Part:
    first = FIRST_CUBE + CUBE_WIDTH * number
    return [(("qpos", first + j), centre, CUBE_SCALE) for j, centre in enumerate(CUBE_CENTRE)]


def _buttons(count: int) -> _Part:
    return [(("button_states", n), 0.0, 1.0) for n in range(count)]


def _smallest(states: Array) -> np.dtype[Any]:
    """uint8 where button states fit into it: the file's are int64."""
    small = states.dtype.kind in "iub" and (not states.size or states.min() >= 0)
    return np.dtype(np.uint8) if small and states.max(initial=0) <= 255 else states.dtype
