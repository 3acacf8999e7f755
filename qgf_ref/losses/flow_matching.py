"""The behaviour-cloning loss of the flow policy."""

from __future__ import annotations

from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.velocity import LearnedField, MLPVelocity
from qgf_ref.ops.learning import path_point, squared_error


def flow_matching(
    field: MLPVelocity, obs: Array, x0: Array, x1: Array, t: Array
) -> tuple[float, MLPParams]:
    """L = mean over batch and action dimensions of (v(s, x_t, t) − (x1 − x0))², and ∂L/∂θ.

    obs (B, O), x0 noise and x1 dataset action (B, D), t (B,).
    v_bar = 2(v − (x1 − x0))/(B·D). Rows that cross an episode's end are not masked, as in the
    official code. Source: method.md, section 1; official.md, section 3.
    """
    point, target = field.kernels(path_point, x0, x1, t)
    return velocity_regression(field, obs, point, target, t)


def velocity_regression(
    field: LearnedField,
    obs: Array,
    point: Array,
    target: Array,
    t: Array,
    weight: Array | float = 1,
) -> tuple[float, MLPParams]:
    """L = mean of weight·(v(s, point, t) − target)², and ∂L/∂θ: `flow_matching` before its choices.

    obs (B, O), point and target (B, D), t (B,), weight () or (B, 1).
    """
    velocity, cache = field.forward(obs, point, t)
    loss, velocity_bar = field.kernels(squared_error, velocity, target, weight)
    return loss, field.vjp_params(velocity_bar, cache)
