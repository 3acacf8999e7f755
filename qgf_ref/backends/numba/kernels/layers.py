"""What follows a product in a dense block, on one row: LayerNorm and activation, either first.

Rows (F,) that do not overlap; `norm` is of `qgf_ref.ops.dense.ORDERS`. The equations are those of
`qgf_ref.ops`.
"""

from __future__ import annotations

from qgf_ref.backends.numba.kernels.cache import inner, spliced
from qgf_ref.backends.numba.kernels.rows import (
    activate,
    curve,
    normalise,
    normalised_jacobian,
    projections,
)
from qgf_ref.backends.numba.kernels.simd import like
from qgf_ref.ops.dense import NORM_AFTER


@spliced
def layer_row(z, norm, scale, offset, eps, fast, code, x_hat, h, y, slope):
    """y = f(LayerNorm(z)), f(z), or LayerNorm(f(z)); returns rstd, or 0. h is room.

    slope, and x_hat: what the products need. slope = f′·γ, after the activation f′; without
    LayerNorm x_hat is z itself.
    """
    rstd = like(0, z[0])
    if norm == NORM_AFTER:
        for j in range(z.size):
            y[j] = like(1, z[0])
        activate(z, y, code, h, slope)
        rstd = normalise(h, scale, offset, eps, fast, x_hat, y)
    else:
        if norm:
            rstd = normalise(z, scale, offset, eps, fast, x_hat, h)
        else:
            for j in range(z.size):
                x_hat[j] = z[j]
                h[j] = z[j]
        activate(h, scale, code, y, slope)
    return rstd


@spliced
def layer_row_back(y_bar, norm, scale, x_hat, rstd, slope, u, z_bar):
    """z_bar = (∂y/∂z)ᵀ y_bar of one row; u is room."""
    if norm == NORM_AFTER:
        for j in range(y_bar.size):
            u[j] = y_bar[j] * scale[j]
        normalised_jacobian(u, x_hat, rstd, z_bar)
        for j in range(y_bar.size):
            z_bar[j] *= slope[j]
    elif norm:
        for j in range(y_bar.size):
            u[j] = y_bar[j] * slope[j]
        normalised_jacobian(u, x_hat, rstd, z_bar)
    else:
        for j in range(y_bar.size):
            z_bar[j] = y_bar[j] * slope[j]


@spliced
def layer_row_tangent(z_dot, norm, scale, x_hat, rstd, slope, u, y_dot):
    """y_dot = (∂y/∂z) z_dot of one row; u is room."""
    if norm == NORM_AFTER:
        for j in range(z_dot.size):
            u[j] = z_dot[j] * slope[j]
        normalised_jacobian(u, x_hat, rstd, y_dot)
        for j in range(z_dot.size):
            y_dot[j] *= scale[j]
    elif norm:
        normalised_jacobian(z_dot, x_hat, rstd, u)
        for j in range(z_dot.size):
            y_dot[j] = u[j] * slope[j]
    else:
        for j in range(z_dot.size):
            y_dot[j] = z_dot[j] * slope[j]


@inner
def _norm_moved(x_dot, x_hat, rstd, x_hat_dot):
    """x̂_dot along x_dot; returns rstd_dot/rstd."""
    normalised_jacobian(x_dot, x_hat, rstd, x_hat_dot)
    _, along = projections(x_dot, x_hat)
    return -rstd * (along / like(x_dot.size, rstd))


@inner
def _norm_bent(u, u_dot, x_hat, x_hat_dot, rstd, x_bar, x_bar_dot):
    """x_bar = P(u), and its derivative, u_dot with (rstd_dot/rstd)·u in it."""
    width = like(u.size, rstd)
    normalised_jacobian(u, x_hat, rstd, x_bar)
    normalised_jacobian(u_dot, x_hat, rstd, x_bar_dot)
    _, through = projections(u, x_hat)
    _, across = projections(u, x_hat_dot)
    through, across = through / width, across / width
    for j in range(u.size):
        x_bar_dot[j] -= rstd * (x_hat_dot[j] * through + x_hat[j] * across)


@inner
def layer_row_bent(
    y_bar, y_bar_dot, z_dot, norm, scale, offset, code, z, x_hat, rstd, slope, u, u_dot, x_hat_dot,
    h, z_bar, z_bar_dot,
):  # fmt: skip
    """z_bar, and its derivative along z_dot and y_bar_dot, of one row; the four before are room.

    z is read where LayerNorm comes after the activation: nothing else tells it.
    See `qgf_ref.ops.layer_norm.layer_norm_vjp_jvp` and `activation_vjp_jvp`.
    """
    if norm == NORM_AFTER:
        curve(z, code, h)
        for j in range(z_dot.size):
            z_bar[j] = z_dot[j] * slope[j]
        relative = _norm_moved(z_bar, x_hat, rstd, x_hat_dot)
        for j in range(z_dot.size):
            u[j] = y_bar[j] * scale[j]
            u_dot[j] = y_bar_dot[j] * scale[j] + relative * u[j]
        _norm_bent(u, u_dot, x_hat, x_hat_dot, rstd, z_bar, z_bar_dot)
        for j in range(z_dot.size):
            z_bar_dot[j] = z_bar_dot[j] * slope[j] + h[j] * z_dot[j] * z_bar[j]
            z_bar[j] *= slope[j]
        return
    for j in range(z_dot.size):
        u[j] = x_hat[j] * scale[j] + offset[j] if norm else x_hat[j]
    curve(u, code, h)
    if not norm:
        for j in range(z_dot.size):
            z_bar[j] = y_bar[j] * slope[j]
            z_bar_dot[j] = y_bar_dot[j] * slope[j] + h[j] * z_dot[j] * y_bar[j]
        return
    relative = _norm_moved(z_dot, x_hat, rstd, x_hat_dot)
    for j in range(z_dot.size):
        bent = h[j] * (scale[j] * x_hat_dot[j]) * y_bar[j]
        u[j] = y_bar[j] * slope[j]
        u_dot[j] = y_bar_dot[j] * slope[j] + scale[j] * bent + relative * u[j]
    _norm_bent(u, u_dot, x_hat, x_hat_dot, rstd, z_bar, z_bar_dot)
