"""The truth of a training step, and how far rounding alone may lead away from it.

The truth is the recipe in float64. Float rounding is measured by running the same recipe in the
implementation's own precision several times, each in another order of summation (hidden units and
batch rows permuted: the same functions), with times an ulp away (angles of 10⁴ rad in the time
embedding amplify theirs, and every library rounds them differently), and with Adam's bias
corrections rounded to float32, as optax computes them (1 − 0.999 loses five digits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.rounding import permuted
from qgf_ref.crosscheck.update.recipe import NETWORKS, Outcome, Recipe, run
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.losses.optimiser import BETA1, BETA2, AdamState
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.time_embedding import Precision

RUNS = 5
WELL_DETERMINED = 1000.0
"""Adam divides a gradient by its own size: where that is less than this many times its rounding
error, the update is rounding's. Such elements of the parameters are not compared."""


@dataclass(frozen=True)
class Case:
    """What a training step starts from. x0 (n, B, D), t (n, B), n = max(updates, 1)."""

    checkpoint: Checkpoint
    batch: Batch
    x0: Array
    t: Array
    hyper: Hyperparameters
    updates: int

    def astype(self, dtype: str) -> Case:
        """Every array in another dtype."""
        return replace(
            self,
            checkpoint=self.checkpoint.astype(dtype),
            batch=self.batch.astype(dtype),
            x0=self.x0.astype(dtype),
            t=self.t.astype(dtype),
        )

    def run(self, recipe: Recipe, embedding: Precision) -> Outcome:
        """The recipe on this case, in its dtype."""
        nets = self.checkpoint.networks(embedding=embedding)
        return run(recipe, nets, self.batch, self.x0, self.t, self.hyper, self.updates)


@dataclass(frozen=True)
class Truth:
    """What a recipe gives without rounding, by quantity, and the size of rounding's error.

    values[quantity]    float (a loss) or MLPParams
    rounding[quantity]  the largest error ‖run − truth‖ among runs in the precision
    counted[network]    for each array, which elements of updated parameters are compared
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


def exact(recipe: Recipe, case: Case, precision: str, embedding: Precision) -> dict[str, Any]:
    """The recipe in float64 on the case as `precision` holds it, by quantity."""
    return quantities(case.astype(precision).astype("float64").run(recipe, embedding))


def truth(recipe: Recipe, case: Case, precision: str, embedding: Precision, seed: int = 0) -> Truth:
    """`exact` with the rounding of `precision` around it, measured by RUNS runs."""
    values = exact(recipe, case, precision, embedding)
    held, rng = case.astype(precision), np.random.default_rng(seed)
    runs = [_reordered_run(recipe, held, embedding, rng) for _ in range(RUNS)]
    counted = _counted(values, runs)
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


def quantities(outcome: Outcome) -> dict[str, Any]:
    """An outcome by quantity: "policy", "grad/policy", "params/policy", …"""
    return {
        **outcome.losses,
        **{f"grad/{name}": bar for name, bar in outcome.gradients.items()},
        **{f"params/{name}": params for name, params in outcome.params.items()},
    }


def _loss(quantity: str) -> bool:
    return "/" not in quantity


def _differences(
    quantity: str, a: Any, b: Any, counted: Mapping[str, tuple[Array, ...]]
) -> dict[str, Array]:
    if _loss(quantity):
        return {"": np.asarray(float(a) - float(b))}
    named = zip(a.named(), b.arrays(), strict=True)
    found = {name: x.astype(np.float64) - y for (name, x), y in named}
    kind, network = quantity.split("/")
    if kind == "params":
        found = {n: d * c for (n, d), c in zip(found.items(), counted[network], strict=True)}
    return found


def size(value: Any) -> float:
    """The norm of a loss or of all parameters together."""
    return _norm(value.arrays() if isinstance(value, MLPParams) else [np.asarray(float(value))])


def _norm(parts: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(sum(float(np.vdot(p, p)) for p in parts)))


def _counted(values: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, tuple[Array, ...]]:
    found: dict[str, tuple[Array, ...]] = {}
    for network in NETWORKS:
        name = "grad/critic" if network == "target_critic" else f"grad/{network}"
        errors = [_differences(name, one[name], values[name], {}) for one in runs]
        found[network] = tuple(
            abs(gradient)
            >= WELL_DETERMINED * np.sqrt(np.mean([np.mean(e[part] ** 2) for e in errors]))
            for part, gradient in values[name].named()
        )
    return found


def _reordered_run(
    recipe: Recipe, case: Case, embedding: Precision, rng: np.random.Generator
) -> dict[str, Any]:
    orders = {name: int(rng.integers(2**32)) for name in NETWORKS}
    orders["target_critic"] = orders["critic"]  # their average needs units that correspond
    rows = rng.permutation(len(case.batch.obs))

    def reorder(params: MLPParams, name: str) -> MLPParams:
        return permuted(params, np.random.default_rng(orders[name]))

    changed: dict[str, Any] = {
        name: reorder(getattr(case.checkpoint, name), name) for name in NETWORKS
    }
    towards = rng.choice([0, 1, 2], case.t.shape)
    t = np.where(towards == 0, case.t, np.nextafter(case.t, towards.astype(case.t.dtype)))
    other = replace(
        case,
        checkpoint=replace(case.checkpoint, **changed),
        batch=Batch(**{name: array[rows] for name, array in vars(case.batch).items()}),
        x0=case.x0[:, rows],
        t=t[:, rows],
    )
    if case.t.dtype == np.float32:
        recipe = replace(recipe, adam=_single_corrections(recipe))
    outcome = other.run(recipe, embedding)

    def restore(found: dict[str, MLPParams]) -> dict[str, MLPParams]:
        places = {
            name: reorder(params.map(lambda a: np.arange(a.size).reshape(a.shape)), name)
            for name, params in found.items()
        }
        return {name: params.map(_put, places[name]) for name, params in found.items()}

    return quantities(Outcome(outcome.losses, restore(outcome.gradients), restore(outcome.params)))


def _single_corrections(recipe: Recipe) -> Callable[..., tuple[MLPParams, AdamState]]:
    """The recipe's Adam with 1 − βⁿ in float32; the rate makes up for both corrections."""

    def adam(
        params: MLPParams, bar: MLPParams, state: AdamState, rate: float
    ) -> tuple[MLPParams, AdamState]:
        n = state.count + 1
        mean, square = (
            (1 - beta**n) / float(np.float32(1) - np.float32(beta) ** np.float32(n))
            for beta in (BETA1, BETA2)
        )
        return recipe.adam(params, bar, state, rate * mean / square**0.5)

    return adam


def _put(values: Array, places: Array) -> Array:
    result = np.empty(values.shape, values.dtype)  # in C order, so that its reshape is a view
    result.reshape(-1)[places.reshape(-1)] = values.reshape(-1)
    return result
