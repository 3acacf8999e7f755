"""Errors of Q and v of a given size, the planes of their parameters, and where they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.studies.shared.problems import Errors, Problem

REFERENCE_LENGTH = 0.5
"""Length scale of the errors where it is not varied, in the unit of the actions."""


@dataclass(frozen=True)
class Plane:
    """Two parameters of `Errors`, as functions of the axes' values.

    errors  (problem, slope of Q there, x, y) → Errors
    """

    name: str
    x_label: str
    y_label: str
    errors: Callable[[Problem, float, float, float], Errors]
    x: tuple[float, ...]
    y: tuple[float, ...]


def critic_errors(problem: Problem, slope: float, rho: float) -> Errors:
    """An error of Q whose gradient has `rho` times the root mean square of ‖∇Q‖ (`slope`)."""
    amplitude = rho * slope / np.sqrt(problem.n) * REFERENCE_LENGTH
    return Errors(critic_amplitude=float(amplitude), critic_length=REFERENCE_LENGTH)


def field_errors(problem: Problem, strain: float) -> Errors:
    """An error e of v with √E‖(∂e/∂a)ᵀu‖² = √n·amplitude/length = `strain` for a unit vector u."""
    amplitude = strain / np.sqrt(problem.n) * REFERENCE_LENGTH
    return Errors(field_amplitude=float(amplitude), field_length=REFERENCE_LENGTH)


def both_errors(problem: Problem, slope: float, rho: float, strain: float) -> Errors:
    """The two together."""
    critic, field = critic_errors(problem, slope, rho), field_errors(problem, strain)
    return Errors(
        critic.critic_amplitude, critic.critic_length, field.field_amplitude, field.field_length
    )


LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0)
PLANES = (
    Plane(
        "field",
        "length scale of v's error",
        "sd of v's error",
        lambda p, s, x, y: Errors(field_amplitude=y, field_length=x),
        LENGTHS,
        (0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    Plane(
        "critic",
        "length scale of Q's error",
        "sd of Q's error",
        lambda p, s, x, y: Errors(critic_amplitude=y, critic_length=x),
        LENGTHS,
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    Plane(
        "both",
        "slope of Q's error / slope of Q",
        "strain of v's error, √n·sd/length",
        both_errors,
        (0.03, 0.1, 0.3, 1.0, 3.0),
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
)


@dataclass(frozen=True)
class IdealStates:
    """States of the ideal sampler (T, B, n), the exact guidance there, and the size of ∇Q."""

    points: Array
    truth: Array
    slope: float


@lru_cache(maxsize=8)
def ideal_states(problem: Problem, rows: int, seed: int) -> IdealStates:
    """Those of a problem, kept for the cells that share them."""
    points = problem.points(rows, seed)
    return IdealStates(points, problem.truth(points), problem.critic_slope(points))
