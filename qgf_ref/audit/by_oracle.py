"""What definitions are written in: forwards, and their derivatives by the complex step.

No vjp is used here, with one exception that is named: the critic's Hessian. Derivatives come
column by column from forwards at complex arguments, so that an error in a hand-written product, or
in how an estimator composes products, cannot hide. Of what is not analytic they come from
differences, with a remark (`qgf_ref.oracles`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.on_engine import REFERENCE, gradient_at, gradients_at, one_batch
from qgf_ref.backends.engine import Engine
from qgf_ref.flow.euler import rollout
from qgf_ref.guidance.base import DenoisingStep, Estimator, GuidedFlow
from qgf_ref.guidance.queries import bounded, critic_gradient, critic_value
from qgf_ref.ops.structure import unit
from qgf_ref.oracles import Oracle, Remark, derivatives, remarked, remarks, say
from qgf_ref.quotients import Together

Rowwise = Callable[[Array], Array]


def along(
    f: Rowwise,
    x: Array,
    directions: Sequence[Array],
    by: Oracle = "complex_step",
    what: str = "the function",
    together: Together | None = None,
) -> list[Array]:
    """The derivative of f along each of the directions; what is remarked of f is said of `what`."""
    return [np.asarray(v) for v in remarked(derivatives(by, f, x, directions, together), what)]


def jacobian(
    f: Rowwise,
    x: Array,
    by: Oracle = "complex_step",
    what: str = "the function",
    together: Together | None = None,
) -> Array:
    """∂f/∂x (B, N, D) of a rowwise f: (B, D) → (B, N), or (B, 1, D) of f: (B, D) → (B,).

    by        "central_difference" for an f that takes no complex arguments
    together  f at several x in one call, which its differences are then taken from
    """
    columns = along(f, x, [unit(x, i) for i in range(x.shape[1])], by, what, together)
    return np.stack([c[:, None] if c.ndim == 1 else c for c in columns], axis=-1)


def gradient(f: Rowwise, x: Array, what: str = "the function") -> Array:
    """∇f (B, D) of a rowwise scalar f: (B, D) → (B,)."""
    return jacobian(f, x, what=what)[:, 0]


def pulled(j: Array, x_bar: Array) -> Array:
    """jᵀ x_bar (B, D) of every row. j (B, N, D), x_bar (B, N)."""
    return np.asarray(np.einsum("bij,bi->bj", j, x_bar))


def critic_hessian(flow: GuidedFlow, obs: Array, x: Array) -> Array:
    """∇²Q(s, x) (B, D, D) of the aggregated critic: its gradient's Jacobian by complex step.

    Here the critic's vjp is used, checked as it is by values alone; its jvp (the hvp) is not.
    """
    return jacobian(lambda y: critic_gradient(flow, obs, y).gradient, x, what="∇Q")


@dataclass(frozen=True)
class OracleStep:
    """One denoising step of `flow`, and its derivatives by the complex step, each computed once.

    Definitions of several estimators share it, in several threads: most ask for the same ∇Q(s, â₁)
    and Jacobians.
    """

    flow: GuidedFlow
    step: DenoisingStep
    _known: dict[Hashable, tuple[Array, list[Remark]]] = field(default_factory=dict)
    _asked: dict[Hashable, RLock] = field(default_factory=dict)

    def once(self, name: Hashable, compute: Callable[[], Array]) -> Array:
        """What `compute` returns, computed at the first call with this name."""
        with self._asked.setdefault(name, RLock()):
            if name not in self._known:
                with remarks() as collected:
                    self._known[name] = compute(), collected
        value, collected = self._known[name]
        for remark in collected:
            say(remark)
        return value

    @property
    def scheduled_time(self) -> float:
        """t, and at t = 0, where 1/t has no value, the first positive time of the grid."""
        limit = self.flow.times[1] if self.flow.denoise_steps > 1 else 0.5
        return self.step.time if self.step.index else limit

    def unclipped(self, x: Array, time: float | None = None) -> Array:
        """x + (1 − t)·v(s, x, t)."""
        time = self.step.time if time is None else time
        return x + (1 - time) * self.flow.field.forward(self.step.obs, x, time)[0]

    def one_step(self, x: Array) -> Array:
        """â₁ of a_t = x: `unclipped`, clipped."""
        return bounded(self.flow, self.unclipped(x)).x

    def endpoint(self, x: Array) -> Array:
        """clip(ODE(x)): the remaining Euler steps along v."""
        times, start = self.flow.times, self.step.index
        return bounded(
            self.flow, rollout(self.flow.field, self.step.obs, x, times, start=start)[0]
        ).x

    def q(self, x: Array) -> Array:
        """The aggregated critic Q(s, x), (B,)."""
        return critic_value(self.flow, self.step.obs, x)

    def estimate(self) -> Array:
        """â₁ of the step's a_t, (B, D)."""
        return self.once("estimate", lambda: self.one_step(self.step.action))

    def estimate_gradient(self) -> Array:
        """∇Q(s, â₁) (B, D)."""
        return self.once("estimate gradient", lambda: gradient(self.q, self.estimate(), "Q"))

    def estimate_hessian(self) -> Array:
        """∇²Q(s, â₁) (B, D, D), see `critic_hessian`."""
        return self.once(
            "estimate hessian",
            lambda: critic_hessian(self.flow, self.step.obs, self.estimate()),
        )

    def row_gradient(self, row: int, x: Array) -> Array:
        """∇Q (1, D) at x (1, D) for the observation of one row: its D columns are one batch."""
        D = x.shape[1]
        obs = np.repeat(self.step.obs[row : row + 1], D, axis=0)
        every = np.repeat(x, D, axis=0)
        return along(lambda y: critic_value(self.flow, obs, y), every, [np.eye(D)], what="Q")[0][
            None
        ]

    def jacobian(self) -> Array:
        """∂â₁/∂a_t (B, D, D), the clip included."""
        return self.once("J", lambda: jacobian(self.one_step, self.step.action, what="â₁"))

    def unclipped_jacobian(self, time: float | None = None) -> Array:
        """J₀ = I + (1 − t)·∂v/∂a_t (B, D, D), at the step's time or at another."""
        time = self.step.time if time is None else time
        return self.once(
            ("J0", time),
            lambda: jacobian(lambda x: self.unclipped(x, time), self.step.action, what="v"),
        )


def at_action(flow: GuidedFlow, step: DenoisingStep, action: Array) -> DenoisingStep:
    """The same step at another action, its velocity recomputed."""
    velocity, cache = flow.field.forward(step.obs, action, step.time)
    return DenoisingStep(step.obs, action, step.index, step.time, velocity, cache, step.weight)


def potential_gradient(estimator: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
    """∇Φ (B, D) of the estimator's declared potential, or None when it declares none.

    By complex step, or by central differences for an estimator that is not analytic or a potential
    that turns out not to be.
    """
    if estimator.potential(flow, step) is None:
        return None

    def phi(x: Array) -> Array:
        value = estimator.potential(flow, at_action(flow, step, x))
        assert value is not None
        return value

    what = f"the potential of {estimator.label}"
    return jacobian(phi, step.action, oracle_of(estimator), what)[:, 0]


def oracle_of(estimator: Estimator) -> Oracle:
    """How G is differentiated: by complex step where it takes complex a_t."""
    return "complex_step" if estimator.analytic else "central_difference"


def departure_from_gradient_field(
    estimator: Estimator,
    flow: GuidedFlow,
    step: DenoisingStep,
    engine: Engine = REFERENCE,
) -> Array:
    """‖A − Aᵀ‖/‖A + Aᵀ‖ of every row, (B,), with A = ∂G/∂a_t.

    0 for a gradient field, 1 for a triangular A, infinite for a rotation. NaN where A is zero, with
    a remark: a G that stands still around a_t (a critic of ReLU layers is piecewise linear, a
    clipped estimate does not move) has no curl there, and need not be the gradient of anything.
    A by complex step, or by central differences for an estimator that is not analytic (where it
    turns out not to be: with a remark); these need real a_t only, and run on `engine`.
    """
    weight, chosen = step.weight, REFERENCE if estimator.analytic else engine

    def g(x: Array) -> Array:
        return gradient_at(estimator, flow, step.index, step.obs, x, weight, chosen)

    def together(points: list[Any]) -> list[Array]:
        return list(gradients_at(estimator, flow, step, points, chosen))

    shared = together if one_batch(estimator, chosen) else None
    A = jacobian(g, step.action, oracle_of(estimator), f"G of {estimator.label}", shared)
    AT = np.swapaxes(A, 1, 2)
    skew = np.linalg.norm(A - AT, axis=(1, 2))
    symmetric = np.linalg.norm(A + AT, axis=(1, 2))
    still = int(((skew == 0) & (symmetric == 0)).sum())
    if still:
        text = f"G of {estimator.label} {standing_still(still, len(A))}"
        say(Remark(text, 0.0))
    without = np.where(skew > 0, np.inf, np.nan)
    return np.divide(skew, symmetric, out=without, where=symmetric != 0)


def standing_still(rows: int, of: int) -> str:
    """What is said of a G whose Jacobian is exactly zero at so many rows."""
    return (
        f"does not change around a_t at {rows} of {of} rows (no guidance, piecewise linear "
        "networks, or an estimate that is clipped): no curl there"
    )


def typical_curl(each: Array) -> float | None:
    """The median over the rows that have a curl; None where fewer than half have one."""
    defined = each[~np.isnan(each)]
    return float(np.median(defined)) if 2 * len(defined) >= len(each) > 0 else None
