"""The contract of a gradient estimator: what its own statements oblige it to, clause by clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.by_oracle import OracleStep
from qgf_ref.audit.definitions import has_definition
from qgf_ref.audit.derivatives import estimator_checks
from qgf_ref.contracts import ONE_ARRAY, Broken, Clause, Unchecked, nothing_to_check
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.counting import counted

ROW_TOLERANCE = 1e-12
"""Measured ≤ 2e-13 (qgf_jacobian_ortho, whose polar factor divides by small singular values):
BLAS sums a batch in another order than a row."""
RECORDED_TOLERANCE = 1e-10
"""Of a recorded program against the loop, in float64; measured ≤ 6e-15 for one gradient."""


@dataclass(frozen=True)
class Trial:
    """An estimator, and where it is tried: flow, obs (B, O), a_t (B, D) and weight.

    single        the same flow with float32 networks, if there is one
    tolerance     relative, between answers that only rounding may tell apart
    inapplicable  clause → why it does not apply here
    """

    estimator: Estimator
    flow: GuidedFlow
    obs: Array
    action: Array
    weight: float
    single: GuidedFlow | None = None
    tolerance: float = ROW_TOLERANCE
    inapplicable: Mapping[str, str] | None = None

    @property
    def steps(self) -> list[int]:
        """The first, middle and last step."""
        T = self.flow.denoise_steps
        return sorted({0, T // 2, T - 1})

    def step(
        self, k: int, rows: slice = slice(None), weight: float | Array | None = None
    ) -> DenoisingStep:
        """What the estimator sees at step k, on some of the rows: arrays of its own every time."""
        obs, action = self.obs[rows].copy(), self.action[rows].copy()
        return denoising_step(self.flow, obs, action, k, self.weight if weight is None else weight)

    def gradient(
        self, k: int, rows: slice = slice(None), weight: float | Array | None = None
    ) -> Array:
        """G at step k."""
        return np.asarray(self.estimator(self.flow, self.step(k, rows, weight)).gradient)

    @cached_property
    def answers(self) -> list[Guidance]:
        """What it answers at every step of the chain."""
        T = self.flow.denoise_steps
        return [self.estimator(self.flow, self.step(k)) for k in range(T)]


def estimator_clauses(trial: Trial) -> list[Clause]:
    """The contract of the trial's estimator; what it does not state cannot be checked."""
    subject, reasons = trial.estimator.label, trial.inapplicable or {}
    return [
        nothing_to_check(subject, name, reasons[name])
        if name in reasons
        else Clause(subject, name, partial(check, trial))
        for name, check in CHECKS.items()
    ]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def _shape(trial: Trial) -> None:
    for k, answer in enumerate(trial.answers):
        _require(isinstance(answer, Guidance), f"at step {k} it returned a {type(answer).__name__}")
        for part in ("gradient", "acceleration"):
            array = getattr(answer, part)
            if part == "gradient" or array is not None:
                _require(
                    np.shape(array) == trial.action.shape,
                    f"at step {k} its {part} has shape {np.shape(array)}, expected that of a_t, "
                    f"{trial.action.shape}",
                )


def _finite(trial: Trial) -> None:
    for k, answer in enumerate(trial.answers):
        bad = int((~np.isfinite(answer.gradient)).sum())
        _require(not bad, f"at step {k}, {bad} elements of G are not finite")


def _dtype(trial: Trial) -> None:
    if trial.single is None:
        raise Unchecked("a flow, not a checkpoint: there are no float32 networks to try")
    for flow in (trial.flow, trial.single):
        expected = flow.field.dtype
        obs, action = trial.obs.astype(expected), trial.action.astype(expected)
        step = denoising_step(flow, obs, action, flow.denoise_steps // 2, trial.weight)
        actual = np.asarray(trial.estimator(flow, step).gradient).dtype
        _require(actual == expected, f"G is {actual} where a_t is {expected}")


def _deterministic(trial: Trial) -> None:
    for k in trial.steps:
        once = trial.gradient(k)
        before, again = once.copy(), trial.gradient(k)
        _require(np.array_equal(before, again), f"at step {k}, the same call gave other bits")
        _require(not np.shares_memory(once, again), f"it {ONE_ARRAY}")


def _leaves_its_input(trial: Trial) -> None:
    for k in trial.steps:
        step, before = trial.step(k), trial.step(k)
        trial.estimator(trial.flow, step)
        for name in ("obs", "action", "velocity"):
            same = np.array_equal(getattr(step, name), getattr(before, name))
            _require(same, f"at step {k} it changed step.{name} in place")


def _zero_rows(trial: Trial) -> None:
    shape = trial.gradient(trial.steps[-1], slice(0)).shape
    expected = (0, trial.action.shape[1])
    _require(shape == expected, f"of no rows, G has shape {shape}, expected {expected}")


def _row_independence(trial: Trial) -> None:
    for k in trial.steps:
        whole = trial.gradient(k)
        for i in range(len(whole)):
            alone = trial.gradient(k, slice(i, i + 1))
            _agree(trial, whole[i : i + 1], alone, f"at step {k}, row {i} alone and in its batch")


def _row_weights(trial: Trial) -> None:
    """A sampler may be given one weight for each row: then step.weight is (B, 1)."""
    rows = len(trial.action)
    weights = trial.weight * np.linspace(0.5, 2, rows)
    for k in trial.steps:
        together = trial.gradient(k, weight=weights[:, None])
        for i, weight in enumerate(weights):
            expected = trial.gradient(k, weight=float(weight))[i]
            _agree(trial, together[i], expected, f"at step {k}, row {i} with weights (B, 1) and ()")


def _stated_products(trial: Trial) -> None:
    if trial.estimator.products(trial.flow, 0) is None:
        raise Unchecked("it states none: products(…) returns None")
    counting, counter = counted(trial.flow)
    counting = trial.estimator.on(counting)
    for k in range(trial.flow.denoise_steps):
        step = denoising_step(counting, trial.obs, trial.action, k, trial.weight)
        counter.take()  # the sampler's own forward of v is not the estimator's
        trial.estimator(counting, step)
        spent, stated = counter.take(), trial.estimator.products(trial.flow, k)
        _require(spent == stated, f"at step {k} it spent {spent}, and states {stated}")


def _definition(trial: Trial) -> None:
    if not has_definition(trial.estimator):
        raise Unchecked("none is registered: see qgf_ref.testing.defines")
    _derivatives(trial, "definition")


def _potential(trial: Trial) -> None:
    if trial.estimator.potential(trial.flow, trial.step(0)) is None:
        raise Unchecked("it declares none: potential(…) returns None")
    _derivatives(trial, "potential")


def _derivatives(trial: Trial, what: str) -> None:
    steps = [OracleStep(trial.flow, trial.step(k)) for k in trial.steps]
    for check in estimator_checks(trial.estimator, steps):
        if f"({what})" in check.name:
            _require(check.passed, str(check))


def _recordable(trial: Trial) -> None:
    if not trial.estimator.recordable:
        raise Unchecked("it does not say that it is: recordable = True")
    # here, because only this clause needs Numba
    from qgf_ref.backends.numba.sampler import compiled_sampler

    for k in trial.steps:

        def chain(
            flow: GuidedFlow, obs: Array, action: Array, weight: float | Array, k: int = k
        ) -> tuple[Array, ...]:
            step = denoising_step(flow, obs, action, k, weight)
            return (trial.estimator(flow, step).gradient,)

        program = compiled_sampler(trial.flow, chain, ("contract", trial.estimator, k))
        results = program(trial.obs, trial.action, trial.weight, 1)
        _require(results is not None, f"at step {k}, the recorded program left the finite numbers")
        assert results is not None
        looser = replace(trial, tolerance=max(trial.tolerance, RECORDED_TOLERANCE))
        _agree(looser, results[0], trial.gradient(k), f"at step {k}, G as recorded and as called")


def _agree(trial: Trial, actual: Array, expected: Array, what: str) -> None:
    scale = float(np.linalg.norm(expected)) or 1.0
    error = float(np.linalg.norm(np.asarray(actual, dtype=float) - expected)) / scale
    _require(
        error <= trial.tolerance,
        f"{what} differ by {error:.1e} of its norm (tolerance {trial.tolerance:.0e})",
    )


CHECKS: dict[str, Callable[[Trial], None]] = {
    "shape": _shape,
    "finite": _finite,
    "dtype": _dtype,
    "deterministic": _deterministic,
    "leaves_its_input": _leaves_its_input,
    "zero_rows": _zero_rows,
    "row_independence": _row_independence,
    "row_weights": _row_weights,
    "stated_products": _stated_products,
    "definition": _definition,
    "potential": _potential,
    "recordable": _recordable,
}
"""The clauses by name, in the order in which they are checked."""
