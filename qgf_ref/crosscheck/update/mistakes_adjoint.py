"""Mistakes in training QAM's flows. Source: baselines.md, sections 6 and 10."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.agents.qam import FAST, GROUPS, SLOW, QAMRecipe, next_q
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingMistake
from qgf_ref.crosscheck.update.mistakes_actor import Made, cloning_mistakes, of_stage
from qgf_ref.crosscheck.update.mistakes_critic import (
    NEXT_MIN,
    clip_mistakes,
    deviation_mistakes,
    followed_only_by,
    next_mistakes,
)
from qgf_ref.crosscheck.update.stage_changes import (
    MASK_DROPPED,
    MINIMUM,
    instead,
    running,
    weighted,
)
from qgf_ref.losses.qam import (
    AdjointPath,
    Schedule,
    adjoint_path,
    last_cotangent,
    lean_adjoint,
    sigma,
    simulated,
)
from qgf_ref.ops.learning import squared_error

LastPoint = Callable[[Any, Array, Array, Array, Array], Array]
"""(v_fast, obs, x_{T−1}, noise, x_T) → what is taken for x_T."""


def _path(
    last_point: LastPoint = lambda fast, obs, x, noise, last: last,
    along: Callable[[Any, Any, int], Any] = lambda fast, base, T: base,
    later: bool = False,
) -> dict[str, Any]:
    """The ingredient by which the path ends elsewhere, the adjoint runs along another flow than
    the base's, (v_fast, ṽ, T) → flow, or J_i sits at x_{i+1} (`later`).
    """

    def path(
        fast: Any,
        base: Any,
        critic: Any,
        obs: Array,
        start: Array,
        noise: Array,
        inv_temp: float,
        clip_adj: bool,
        schedule: Schedule,
    ) -> AdjointPath:
        points, velocities, last = simulated(fast, base, obs, start, noise, schedule)
        last = last_point(fast, obs, points[-1], noise, last)
        bar = last_cotangent(critic, obs, last, inv_temp, clip_adj)
        at = np.concatenate([points[1:], last[None]]) if later else points
        adjoint = lean_adjoint(along(fast, base, len(points)), obs, at, bar)
        return AdjointPath(points, velocities, adjoint)

    return {"path": path}


def _by_fast_flow(fast: Any, obs: Array, x: Array, noise: Array, last: Array) -> Array:
    T = len(noise)
    return x + fast.forward(obs, x, (T - 1) / T)[0] / T


def _with_noise(fast: Any, obs: Array, x: Array, noise: Array, last: Array) -> Array:
    T = len(noise)
    moved = x * ((T - 1) / T) + 2 / T * fast.forward(obs, x, (T - 1) / T)[0]
    return moved + math.sqrt(1 / T) * sigma(T - 1, T) * noise[-1]


class _Earlier:
    """A flow that is asked a step of the T before the time that is given."""

    def __init__(self, flow: Any, T: int) -> None:
        self.flow, self.T = flow, T
        self.vjp, self.kernels = flow.vjp, flow.kernels

    def forward(self, obs: Array, action: Array, time: float) -> Any:
        return self.flow.forward(obs, action, time - 1 / self.T)


def _base_later(fast: Any, base: Any, critic: Any, obs: Array, *rest: Any) -> AdjointPath:
    right = adjoint_path(fast, base, critic, obs, *rest)
    T = len(right.points)
    later = [base.forward(obs, x, (i + 1) / T)[0] for i, x in enumerate(right.points)]
    return right._replace(base=np.stack(later))


def _without_h(i: int, T: int) -> float:
    return math.sqrt(2 * (T - i) / (i + 1))


def qam_mistakes(recipe: QAMRecipe) -> Made:
    """Those of both flows' losses, of the clip and of the averages."""
    own = recipe.settings

    def matching(name: str, says: str, changes: dict[str, Any]) -> TrainingMistake:
        return TrainingMistake(name, says, FAST, changes)

    def error(weight: Callable[[StageInputs], Any]) -> Any:
        return running(
            FAST, lambda inputs: {squared_error: weighted(lambda of: of * weight(inputs))}
        )

    def valid(inputs: StageInputs) -> Array:
        return np.tile(inputs.batch.valid, inputs.hyper.denoise_steps)[:, None]

    other = "critic" if own.use_target_grad else "target_critic"
    which = "target" if own.use_target_grad else "online"
    base = "the slow flow's average" if own.target_actor else "the slow flow itself"
    mistakes = [
        *cloning_mistakes(SLOW, valid=True),
        of_stage(
            FAST, "adjoint-other-critic",
            f"The adjoint starts from the other critic's gradient; here: the {which} critic's.",
            instead(recipe.guide, other),
        ),
        of_stage(
            FAST, "adjoint-min",
            "The adjoint starts from the smallest member's gradient; official: the mean's.",
            running(recipe.guide, MINIMUM),
        ),
        of_stage(
            FAST, "valid-in-adjoint-matching",
            "Adjoint matching is weighted with valid; the official one counts invalid rows.",
            error(valid),
        ),
        of_stage(
            FAST, "adjoint-matching-mean",
            "Adjoint matching averages steps and dimensions; official: it sums over both.",
            error(lambda inputs: 1 / (inputs.hyper.denoise_steps * inputs.batch.action.shape[1])),
        ),
        matching(
            "adjoint-jacobian-earlier",
            "The drift's Jacobian is taken at (x_i, t_i); official: at (x_i, t_i + h).",
            _path(along=lambda fast, base, T: _Earlier(base, T)),
        ),
        matching(
            "adjoint-jacobian-at-next-point",
            "The drift's Jacobian is taken at x_{i+1}; official: at x_i.",
            _path(later=True),
        ),
        matching(
            "adjoint-through-fast-flow",
            f"The adjoint runs through the fast flow; official: through {base}.",
            _path(along=lambda fast, base, T: fast),
        ),
        matching(
            "last-step-by-fast-flow",
            f"The fast flow makes the last step; official: {base} does.",
            _path(_by_fast_flow),
        ),
        matching(
            "last-step-with-noise",
            "The last step is one of the SDE like the others; official: an Euler step of the base.",
            _path(_with_noise),
        ),
        matching(
            "base-at-next-time",
            "The residual takes the base flow at t_i + h; official: at t_i.",
            {"path": _base_later},
        ),
        matching(
            "sigma-without-h",
            "The noise is σ² = 2(1 − t)/(t + h); official: 2(1 − t + h)/(t + h).",
            {"schedule": _without_h},
        ),
        matching(
            "adjoint-of-batch-mean",
            "The mean of Q over the batch is differentiated; official: each row's own Q.",
            {"path": _of_mean},
        ),
    ]  # fmt: skip
    if own.target_actor:
        mistakes += [
            of_stage(
                FAST, "base-is-online-slow-flow",
                "The base flow is the slow one itself; official: its moving average.",
                instead(recipe.base, SLOW),
            ),
            TrainingMistake(
                "slow-average-never-updated",
                "The slow flow's average stays as it was; official: it moves at every update.",
                f"params/{recipe.base}",
                followed_only_by(lambda old: old.ensemble is not None, recipe),
            ),
        ]  # fmt: skip
    if own.clip_adj:
        mistakes.append(
            of_stage(
                FAST, "adjoint-clip-mask-dropped",
                "The adjoint passes the clip of x_T where that is outside ±1; official: 0 there.",
                running(recipe.guide, MASK_DROPPED),
            )
        )  # fmt: skip
    if own.inv_temp not in (0, 1):
        turned = replace(own, inv_temp=1 / own.inv_temp)
        mistakes.append(
            matching(
                "temperature-inverted",
                "The critic's gradient is divided by inv_temp; official: multiplied.",
                {"settings": turned},
            )
        )
    if own.clip_grad > 0:
        mistakes += clip_mistakes(recipe.trained, GROUPS, own.clip_grad)
    if own.critic_loss_type == "ddpg":
        mistakes += [*next_mistakes(NEXT_MIN), *deviation_mistakes(own, next_q)]
        if own.inv_temp:
            mistakes.append(
                of_stage(
                    "critic", "next-action-by-slow-flow",
                    "The slow flow makes the next action; official: the fast one.",
                    instead(FAST, SLOW),
                )
            )  # fmt: skip
    return tuple(mistakes)


def _of_mean(
    fast: Any, base: Any, critic: Any, obs: Array, start: Array, noise: Array, inv_temp: float,
    *rest: Any,
) -> AdjointPath:  # fmt: skip
    return adjoint_path(fast, base, critic, obs, start, noise, inv_temp / len(obs), *rest)
