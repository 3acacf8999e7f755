"""The truth of a training step, and how far rounding alone may lead away from it.

The truth is the recipe in float64. Float rounding is measured by running the same recipe in the
implementation's own precision several times, each in another order of summation (hidden units and
batch rows permuted: the same functions), with times an ulp away (angles of 10⁴ rad in the time
embedding amplify theirs, and every library rounds them differently), with Adam's bias corrections
rounded to float32, as optax computes them (1 − 0.999 loses five digits), and with logits of
rounded probabilities, as DQC's code has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.stage import FLOW_TIMES
from qgf_ref.agents.step import Losses
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.rounding import permuted
from qgf_ref.crosscheck.update.runs import TrainingCase, TrainingOutcome
from qgf_ref.losses.optimiser import BETA1, BETA2, AdamState
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.logits import logit_of, logit_pinball, probability, reduced_logit
from qgf_ref.ops.time_embedding import Precision

RUNS = 5
WELL_DETERMINED = 1000.0
"""Adam divides a gradient by its own size: where that is less than this many times its rounding
error, the update is rounding's. Such elements of the parameters are not compared."""


@dataclass(frozen=True)
class Truth:
    """What a recipe gives without rounding, by quantity, and the size of rounding's error.

    values[quantity]    float (a loss) or MLPParams
    rounding[quantity]  the largest error ‖run − truth‖ among runs in the precision
    counted[part]       for each array, which elements of updated parameters are compared
    """

    values: dict[str, Any]
    rounding: dict[str, float]
    counted: dict[str, tuple[Array, ...]]

    def error(self, quantity: str, theirs: Any) -> float:
        """‖theirs − truth‖ over the elements that count."""
        return _norm(self.differences(quantity, theirs).values())

    def differences(self, quantity: str, theirs: Any) -> dict[str, Array]:
        """theirs − truth by name of the array ("" for a loss), 0 where elements do not count."""
        return _differences(quantity, theirs, self.values[quantity], self.counted)

    def ratio(self, quantity: str, theirs: Any) -> float:
        """The error in units of rounding's."""
        error, unit = self.error(quantity, theirs), self.rounding[quantity]
        if not np.isfinite(error):
            return float("inf")
        return error / unit if unit else (0.0 if error == 0 else float("inf"))


def exact(
    recipe: Recipe, case: TrainingCase, precision: str, embedding: Precision
) -> dict[str, Any]:
    """The recipe in float64 on the case as `precision` holds it, by quantity."""
    return case.astype(precision).astype("float64").run(recipe, embedding).quantities()


def truth(
    recipe: Recipe, case: TrainingCase, precision: str, embedding: Precision, seed: int = 0
) -> Truth:
    """`exact` with the rounding of `precision` around it, measured by RUNS runs."""
    values = exact(recipe, case, precision, embedding)
    held, rng = case.astype(precision), np.random.default_rng(seed)
    runs = [_reordered_run(recipe, held, embedding, rng) for _ in range(RUNS)]
    counted = _counted(recipe, values, runs)
    eps = float(np.finfo(precision).eps)
    rounding = {
        name: max(
            # no result is nearer to the truth than the numbers of its precision are
            size(value) * eps / (1 if _loss(name) else 4),
            *(_norm(_differences(name, one[name], value, counted).values()) for one in runs),
        )
        for name, value in values.items()
    }
    return Truth(values, rounding, counted)


def _loss(quantity: str) -> bool:
    return "/" not in quantity


def _differences(
    quantity: str, a: Any, b: Any, counted: Mapping[str, tuple[Array, ...]]
) -> dict[str, Array]:
    if _loss(quantity):
        return {"": np.asarray(float(a) - float(b))}
    named = zip(a.named(), b.arrays(), strict=True)
    by_name = {name: x.astype(np.float64) - y for (name, x), y in named}
    kind, part = quantity.split("/")
    if kind == "params":
        by_name = {n: d * c for (n, d), c in zip(by_name.items(), counted[part], strict=True)}
    return by_name


def size(value: Any) -> float:
    """The norm of a loss or of all parameters together."""
    return _norm(value.arrays() if isinstance(value, MLPParams) else [np.asarray(float(value))])


def _norm(parts: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(sum(float(np.vdot(p, p)) for p in parts)))


def _counted(
    recipe: Recipe, values: dict[str, Any], runs: list[dict[str, Any]]
) -> dict[str, tuple[Array, ...]]:
    counted: dict[str, tuple[Array, ...]] = {}
    for part, online in {**{p: p for p in recipe.trained}, **recipe.targets}.items():
        name = f"grad/{online}"
        errors = [_differences(name, one[name], values[name], {}) for one in runs]
        counted[part] = tuple(
            abs(gradient)
            >= WELL_DETERMINED * np.sqrt(np.mean([np.mean(e[array] ** 2) for e in errors]))
            for array, gradient in values[name].named()
        )
    return counted


def _reordered_run(
    recipe: Recipe, case: TrainingCase, embedding: Precision, rng: np.random.Generator
) -> dict[str, Any]:
    orders = {name: int(rng.integers(2**32)) for name in case.bank.parts}
    for target, online in recipe.targets.items():
        orders[target] = orders[online]  # their average needs units that correspond
    rows = rng.permutation(len(case.batch.obs))

    def reorder(params: MLPParams, name: str) -> MLPParams:
        rng, options = np.random.default_rng(orders[name]), case.checkpoint.network(name).options
        return permuted(params, rng, options)

    changed: dict[str, Any] = {name: reorder(case.checkpoint.part(name), name) for name in orders}
    drawn = dict(case.drawn)
    if (t := drawn.get(FLOW_TIMES.name)) is not None:
        towards = rng.choice([0, 1, 2], t.shape)
        moved = np.nextafter(t, towards.astype(t.dtype))
        drawn[FLOW_TIMES.name] = np.where(towards == 0, t, moved)
    axes = {draw.name: 1 + draw.row_axis for draw in recipe.draws}
    other = replace(
        case,
        checkpoint=case.checkpoint.with_params(**changed),
        batch=case.batch.rows(rows),
        drawn={name: np.take(array, rows, axes[name]) for name, array in drawn.items()},
    )
    if case.batch.action.dtype == np.float32:
        recipe = replace(recipe, adam=_single_corrections(recipe))
    outcome = other.run(recipe, embedding, _of_probabilities)

    def restore(reordered: dict[str, MLPParams]) -> dict[str, MLPParams]:
        places = {
            name: reorder(params.map(lambda a: np.arange(a.size).reshape(a.shape)), name)
            for name, params in reordered.items()
        }
        return {name: params.map(_put, places[name]) for name, params in reordered.items()}

    first = Losses(outcome.first.values, restore(outcome.first.gradients))
    received = restore(outcome.received)
    return TrainingOutcome(first, restore(outcome.params), received).quantities()


def _of_probabilities(primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs it; logits that are targets are those of their probabilities, where these tell them."""
    if primitive is logit_pinball:
        z, logit, *rest = args
        args = (z, _rounded_logit(logit), *rest)
    result = reference_kernels(primitive, *args, **kwargs)
    return _rounded_logit(result) if primitive is reduced_logit else result


def _rounded_logit(logit: Array) -> Array:
    again = logit_of(probability(logit)[0])
    return np.where(np.isfinite(again), again, logit)


def _single_corrections(recipe: Recipe) -> Callable[..., tuple[MLPParams, AdamState]]:
    """The recipe's Adam with 1 − βⁿ in float32; the rate makes up for both corrections."""

    def adam(
        params: MLPParams, bar: MLPParams, state: AdamState, rate: float, **kernels: Any
    ) -> tuple[MLPParams, AdamState]:
        n = state.count + 1
        mean, square = (
            (1 - beta**n) / float(np.float32(1) - np.float32(beta) ** np.float32(n))
            for beta in (BETA1, BETA2)
        )
        return recipe.adam(params, bar, state, rate * mean / square**0.5, **kernels)

    return adam


def _put(values: Array, places: Array) -> Array:
    result = np.empty(values.shape, values.dtype)  # in C order, so that its reshape is a view
    result.reshape(-1)[places.reshape(-1)] = values.reshape(-1)
    return result
