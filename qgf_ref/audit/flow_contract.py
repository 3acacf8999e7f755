"""The contract of a flow's networks, whoever wrote them: `VelocityField`, `Critic`, by clause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.adapters.examination import REPEATS, relative_distance
from qgf_ref.adapters.networks import NoCritic
from qgf_ref.arrays import Array, whole_number
from qgf_ref.audit.flow_direction import Direction, flow_direction
from qgf_ref.checks import Check, check_adjoint, check_jvp, check_vjp
from qgf_ref.contracts import (
    NO_FAILURES,
    ONE_ARRAY,
    Broken,
    Clause,
    ContractReport,
    KnownFailures,
    Unchecked,
    fulfil,
)
from qgf_ref.errors import InputError, QGFError
from qgf_ref.guidance.base import GuidedFlow, require_flow
from qgf_ref.nets.products import MissingProduct
from qgf_ref.oracles import Oracle
from qgf_ref.threads import one_blas_thread

DIRECTIONS = 2
LOST = {
    "field vjp": "qgf_jacobian, bptt and their kin need it",
    "field jvp": "qgf_covariance and qgf_shifted_taylor need it, and nothing checks the adjoint",
    "critic vjp": "every estimator but none needs it",
    "critic jvp": "nothing checks the adjoint",
    "critic hvp": "qgf_covariance needs it",
}
"""What a network without a product cannot do."""


@dataclass(frozen=True)
class FlowTrial:
    """A flow, and where its networks are tried: obs (B, O), action (B, D), B ≥ 2, at mid-chain.

    own  the flow as it was given, where `flow` counts calls
    """

    flow: GuidedFlow
    own: GuidedFlow
    obs: Array
    action: Array
    seed: int = 0

    @classmethod
    def of(
        cls, flow: GuidedFlow, obs: Array, own: GuidedFlow | None = None, seed: int = 0
    ) -> FlowTrial:
        """At standard normal actions."""
        rng = np.random.default_rng(seed)
        obs = np.asarray(obs, flow.field.dtype)
        action = rng.standard_normal((len(obs), flow.field.action_dim))
        return cls(flow, own or flow, obs, action, seed)

    @property
    def time(self) -> float:
        """t of the middle step."""
        return self.flow.times[self.flow.denoise_steps // 2]

    def network(self, name: str) -> Any:
        """The "field" or the "critic", as it was given."""
        return self.own.field if name == "field" else self.own.critic

    def forward(self, name: str, action: Array, rows: Any = slice(None)) -> tuple[Array, Any]:
        """Of the field at `time`, or of the critic, in the flow's dtype."""
        dtype = self.flow.field.dtype
        a = action.astype(dtype if action.dtype.kind != "c" else action.dtype)
        if name == "field":
            return self.flow.field.forward(self.obs[rows], a, self.time)
        return self.flow.critic.forward(self.obs[rows], a)

    def product(self, name: str, kind: str, bar: Array, action: Array) -> Array:
        """vjp or jvp at an action."""
        called = getattr(self.flow.field if name == "field" else self.flow.critic, kind)
        return np.asarray(called(bar.astype(self.flow.field.dtype), self.forward(name, action)[1]))


def flow_clauses(trial: FlowTrial) -> list[Clause]:
    """The contract of both networks; of a critic that is missing nothing."""
    checks = dict(PLAIN)
    checks |= {name: partial(_derivative, name=name) for name in CHECKS}
    checks["field direction"] = _direction
    return [
        Clause("flow", name, partial(check, trial))
        for name, check in checks.items()
        if "critic" not in name or has_critic(trial.own)
    ]


@one_blas_thread()
def check_flow(
    flow: GuidedFlow, obs: Array, *, seed: int = 0, known_failures: KnownFailures = NO_FAILURES
) -> ContractReport:
    """Check the networks of a flow, whoever wrote them, at obs (B, O), B ≥ 2, mid-chain.

    Shapes, dtypes, finite numbers; that they are deterministic, row by row, and leave their input
    alone; every product against differences of the forward in the flow's own precision, or the
    complex step where the network takes complex numbers, and jvp against vjp; and that a trained
    field is not turned round in sign or time (`qgf_ref.audit.flow_direction`). Some 20 calls in
    float64, some 200 in float32, whose differences need several steps.

    returns what was checked and, with reasons, what was not (a product that is missing, or taken by
    differences). Raises ContractError, an AssertionError, at the first clause that is broken.
    """
    whole_number(seed, "seed")
    trial = FlowTrial.of(flow, require_rows(flow, obs), seed=seed)
    return fulfil(flow_clauses(trial), known_failures)


def has_critic(flow: GuidedFlow) -> bool:
    """Whether the flow has a critic, or what tells that it has none."""
    return not isinstance(flow.critic, NoCritic)


def _shape(trial: FlowTrial, name: str) -> None:
    y = trial.forward(name, trial.action)[0]
    B, D = trial.action.shape
    expected = f"({B}, {D})" if name == "field" else f"(E, {B})"
    fits = y.shape == (B, D) if name == "field" else y.ndim == 2 and y.shape[1] == B
    _require(fits, f"the {name} returned shape {y.shape}, expected {expected}")
    _require(y.dtype == trial.flow.field.dtype, f"the {name} returned {y.dtype}, expected "
             f"{trial.flow.field.dtype}, the field's dtype")  # fmt: skip
    bad = int((~np.isfinite(y)).sum())
    _require(not bad, f"{bad} of {y.size} numbers of the {name} are NaN or infinite")


def _deterministic(trial: FlowTrial, name: str) -> None:
    first = trial.forward(name, trial.action)[0]
    before, again = np.array(first), trial.forward(name, trial.action)[0]
    _require(not np.shares_memory(first, again), f"the {name} {ONE_ARRAY}")
    _near(trial, name, again, before, f"the {name} gives other numbers when it is called again: "
          "noise inside, Dropout, or state; they differ")  # fmt: skip


def _rows(trial: FlowTrial, name: str) -> None:
    whole = trial.forward(name, trial.action)[0]
    alone = trial.forward(name, trial.action[1:2], slice(1, 2))[0]
    row = whole[1:2] if name == "field" else whole[:, 1:2]
    _near(trial, name, alone, row, f"the {name} gives a row other numbers alone than in its batch: "
          "BatchNorm, attention across rows; they differ")  # fmt: skip


def _leaves_its_input(trial: FlowTrial, name: str) -> None:
    action = trial.action.astype(trial.flow.field.dtype)
    before, flow = action.copy(), trial.flow
    if name == "field":
        flow.field.forward(trial.obs, action, trial.time)
    else:
        flow.critic.forward(trial.obs, action)
    _require(np.array_equal(action, before), f"the {name} changed the action in place")


def _times(trial: FlowTrial) -> None:
    one = trial.forward("field", trial.action)[0]
    times = np.full(len(trial.obs), trial.time, trial.flow.field.dtype)
    a = trial.action.astype(trial.flow.field.dtype)
    try:
        each = trial.flow.field.forward(trial.obs, a, times)[0]
    except QGFError:
        raise
    except Exception as error:
        raise Unchecked(
            f"it takes no time for each row ({type(error).__name__}): qgf_shifted needs it"
        ) from error
    _near(trial, "field", each, one, "one time for all rows and the same for each give other "
          "velocities: they differ")  # fmt: skip


def _derivative(trial: FlowTrial, name: str) -> None:
    require_derivative(trial, name, derivative_check(trial, name))


def require_derivative(trial: FlowTrial, name: str, check: Check) -> None:
    """Raises Broken, saying what such a product comes from, unless the check passed."""
    why = "it belongs to another function than the forward's"
    if _of(trial.network(name.split()[0]), "function") is not None:  # an adapter's
        why += ", or part of it is detached (detach, no_grad, stop_gradient, rounding)"
    _require(check.passed, f"{check}: {why}")


def _direction(trial: FlowTrial) -> None:
    seen = direction(trial)
    _require(not seen.contrary, f"{seen}: {seen.contrary}")


def direction(trial: FlowTrial) -> Direction:
    """Where the trial's field points."""
    return flow_direction(trial.flow, trial.obs, trial.seed)


def derivative_check(trial: FlowTrial, name: str) -> Check:
    """One of `CHECKS`, by differences in the flow's dtype, or by complex step where that works.

    Raises Unchecked where the network has no such product, or takes it by differences itself.
    """
    try:
        return _derivative_check(trial, name)
    except MissingProduct as error:
        raise Unchecked(str(error)) from error


def _derivative_check(trial: FlowTrial, name: str) -> Check:
    network, kind = name.split()
    for product in ("jvp", "vjp") if kind == "adjoint" else (kind,):
        if getattr(trial.network(network), product, None) is None:
            lost = LOST[f"{network} {product}"]
            raise Unchecked(f"the {network} has no {product}: {lost}")
        precision = _of(trial.network(network), "precision")
        if precision in ("float16", "bfloat16"):
            raise Unchecked(
                f"the {network} computes in {precision}, where differences say nothing: check it "
                "in float32"
            )
        if product in differenced(trial.network(network)):
            raise Unchecked(f"the {network}'s {product} is taken by central differences, as asked")
    q_bar = np.random.default_rng(trial.seed + 1).standard_normal(
        trial.forward(network, trial.action)[0].shape
    )

    def f(x: Array) -> Array:
        return trial.forward(network, x)[0]

    def product_of(kind: str) -> Callable[[Array, Array], Array]:
        return lambda x, bar: trial.product(network, kind, bar, x)

    how: Any = {"directions": DIRECTIONS, "seed": trial.seed, "name": name, "raises": False}
    if kind == "adjoint":
        return check_adjoint(f, product_of("jvp"), product_of("vjp"), trial.action, **how)
    oracle = _oracle(f, trial.action)
    if kind == "vjp":
        return check_vjp(f, product_of("vjp"), trial.action, oracle=oracle, max_full=0, **how)
    if kind == "jvp":
        return check_jvp(f, product_of("jvp"), trial.action, oracle=oracle, **how)
    dtype = trial.flow.field.dtype

    def hvp(x: Array, x_dot: Array) -> Array:
        cache = trial.forward("critic", x)[1]
        return trial.flow.critic.hvp(x_dot.astype(dtype), q_bar.astype(dtype), cache)

    return check_jvp(
        lambda x: trial.product("critic", "vjp", q_bar, x), hvp, trial.action,
        oracle="central_difference", **how,
    )  # fmt: skip


def differenced(network: Any) -> tuple[str, ...]:
    """The products that a network, or the one inside it, takes by central differences."""
    return tuple(_of(network, "differenced") or ())


def _of(network: Any, attribute: str) -> Any:
    """An attribute of a network or of the one inside it; None where there is none."""
    while network is not None:
        if hasattr(network, attribute):
            return getattr(network, attribute)
        network = getattr(network, "base", None)
    return None


def _oracle(f: Callable[[Array], Array], x: Array) -> Oracle:
    """By complex step where f computes with complex numbers, else by differences."""
    with suppress(QGFError, TypeError, ValueError, RuntimeError):
        if np.asarray(f(x + 0j)).dtype.kind == "c":
            return "complex_step"
    return "central_difference"


def _near(trial: FlowTrial, name: str, actual: Array, expected: Array, what: str) -> None:
    apart = relative_distance(actual, expected)
    limit = REPEATS[_of(trial.network(name), "precision") or trial.flow.field.dtype.name]
    _require(apart <= limit, f"{what} by {apart:.1g} of their size (limit {limit:.0e})")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def require_rows(flow: GuidedFlow, obs: Any) -> Array:
    """obs as an array (B, O) with B ≥ 2. Raises InputError on another."""
    require_flow(flow)
    array = np.asarray(obs)
    wide = flow.field.obs_dim
    if array.ndim != 2 or len(array) < 2 or (wide is not None and array.shape[1] != wide):
        raise InputError(
            f"obs must have shape (B, {'O' if wide is None else wide}), B ≥ 2, got {array.shape}"
        )
    return array


PLAIN: dict[str, Callable[[FlowTrial], None]] = {
    **{
        f"{name} {what}": partial(check, name=name)
        for name in ("field", "critic")
        for what, check in (
            ("shape", _shape), ("deterministic", _deterministic), ("row independence", _rows),
            ("leaves its input", _leaves_its_input),
        )
    },
    "field times": _times,
}  # fmt: skip
"""The clauses that are no derivatives."""
CHECKS = (
    "field jvp", "field vjp", "field adjoint", "critic jvp", "critic vjp", "critic adjoint",
    "critic hvp",
)  # fmt: skip
"""The derivatives, by name."""
