"""A second implementation at 50 digits, to measure rounding: networks and gradients in mpmath.

Nothing of qgf_ref's calculus is used: parameters are read as exact binary numbers, the networks
are written out again with scalar loops, and derivatives are central differences with h = 1e-20 at
60 digits (their error is below 1e-35).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import MPContext

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPParams

mp = MPContext()
mp.dps = 60
mpf = mp.mpf
STEP = mpf(10) ** -20
Vector = list[Any]


def _numbers(array: Array) -> Any:
    return [mpf(float(x)) for x in array] if array.ndim == 1 else [_numbers(row) for row in array]


def _gelu(x: Any) -> Any:
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)))


def _layer_norm(x: Vector, scale: Vector, offset: Vector) -> Vector:
    mean = sum(x) / len(x)
    rstd = 1 / mp.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + mpf("1e-6"))
    return [(v - mean) * rstd * g + b for v, g, b in zip(x, scale, offset, strict=True)]


def mlp(params: MLPParams, x: Vector, member: int | None = None) -> Vector:
    """The MLP (gelu) at one input, of one ensemble member."""
    pick = (lambda a: a) if member is None else (lambda a: a[member])
    for i, layer in enumerate(params.layers):
        kernel, bias = _numbers(pick(layer.kernel)), _numbers(pick(layer.bias))
        x = [sum(x[j] * kernel[j][k] for j in range(len(x))) + bias[k] for k in range(len(bias))]
        if layer.scale is not None and layer.offset is not None:
            x = _layer_norm(x, _numbers(pick(layer.scale)), _numbers(pick(layer.offset)))
        if i < len(params.layers) - 1:
            x = [_gelu(v) for v in x]
    return x


def embedding(t: Any) -> Vector:
    """16 sinusoidal features of the time."""
    angles = [10000 * t * mp.exp(-mp.log(10000) * i / 8) for i in range(8)]
    return [mp.cos(a) for a in angles] + [mp.sin(a) for a in angles]


def velocity(ck: Checkpoint, obs: Vector, action: Vector, t: Any) -> Vector:
    """v(s, a, t)."""
    return mlp(ck.policy, [*obs, *action, *embedding(t)])


def q_min(ck: Checkpoint, obs: Vector, action: Vector) -> Any:
    """min_e Q_e(s, a) of the target critic."""
    members = ck.target_critic.ensemble or 1
    return min(mlp(ck.target_critic, [*obs, *action], e)[0] for e in range(members))


def one_step(ck: Checkpoint, obs: Vector, action: Vector, t: Any) -> Vector:
    """clip(a + (1 − t)v)."""
    v = velocity(ck, obs, action, t)
    return [max(mpf(-1), min(mpf(1), a + (1 - t) * b)) for a, b in zip(action, v, strict=True)]


def endpoint(ck: Checkpoint, obs: Vector, action: Vector, k: int, T: int) -> Vector:
    """clip(ODE(a)) from step k of T."""
    for n in range(k, T):
        v = velocity(ck, obs, action, mpf(n) / T)
        action = [a + b / T for a, b in zip(action, v, strict=True)]
    return [max(mpf(-1), min(mpf(1), a)) for a in action]


def gradient(f: Callable[[Vector], Any], x: Vector) -> Vector:
    """∇f by central differences with h = 1e-20."""
    slopes = []
    for i in range(len(x)):
        plus, minus = list(x), list(x)
        plus[i] += STEP
        minus[i] -= STEP
        slopes.append((f(plus) - f(minus)) / (2 * STEP))
    return slopes


def quantities(ck: Checkpoint, obs: Array, action: Array, k: int, T: int) -> dict[str, Vector]:
    """v, q and four estimators' gradients for one row, at step k of T."""
    s, a, t = _numbers(obs), _numbers(action), mpf(k) / T
    a1 = one_step(ck, s, a, t)
    return {
        "v": velocity(ck, s, a, t),
        "q": [q_min(ck, s, a1)],
        "ood": gradient(lambda x: q_min(ck, s, x), a),
        "qgf": gradient(lambda x: q_min(ck, s, x), a1),
        "qgf_jacobian": gradient(lambda x: q_min(ck, s, one_step(ck, s, x, t)), a),
        "bptt": gradient(lambda x: q_min(ck, s, endpoint(ck, s, x, k, T)), a),
    }


def ulps(actual: Array, exact: Vector) -> Array:
    """|actual − exact| in units of the last place of the exact value, elementwise, (N,)."""
    errors = []
    for x, y in zip(np.ravel(actual), exact, strict=True):
        spacing = np.spacing(np.abs(actual.dtype.type(float(y))))
        errors.append(float(abs(mpf(float(x)) - y) / mpf(float(spacing))))
    return np.array(errors)


def relative(actual: Array, exact: Vector) -> float:
    """‖actual − exact‖/‖exact‖."""
    error = sum((mpf(float(x)) - y) ** 2 for x, y in zip(np.ravel(actual), exact, strict=True))
    return float(mp.sqrt(error / sum(y**2 for y in exact)))
