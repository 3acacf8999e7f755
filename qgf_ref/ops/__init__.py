"""Primitives: each a forward, a jvp and a vjp, side by side, without state.

A forward returns `(y, cache)`; a jvp takes `(x_dot, cache)`, a vjp `(y_bar, cache)`. `x_dot` is a
tangent, `x_bar` a cotangent. Everything works in float32, float64 and complex128, the last so that
the complex step is an independent oracle.
"""
