"""Some updates on one batch, with a recipe that may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.step import Losses, TrainState, losses, update
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingBank
from qgf_ref.losses.batch import AnyBatch, Hyperparameters
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision


@dataclass(frozen=True)
class TrainingOutcome:
    """Losses and gradients of the first update, parameters after the last, by part.

    received  the gradients that Adam is given, by part, where it is asked for them
    """

    first: Losses
    params: dict[str, MLPParams]
    received: dict[str, MLPParams] = field(default_factory=dict)

    def quantities(self) -> dict[str, Any]:
        """By quantity: "policy", "grad/policy", "params/policy", …"""
        return {
            **self.first.values,
            **{f"grad/{part}": bar for part, bar in self.first.gradients.items()},
            **{f"received/{part}": bar for part, bar in self.received.items()},
            **{f"params/{part}": params for part, params in self.params.items()},
        }


def run(
    recipe: Recipe,
    nets: Networks,
    batch: AnyBatch,
    drawn: Mapping[str, Array],
    hyper: Hyperparameters,
    updates: int,
) -> TrainingOutcome:
    """`updates` updates on one batch from fresh optimisers; drawn (max(updates, 1), …).

    With 0 updates, losses and gradients alone.
    """

    def drawn_at(n: int) -> dict[str, Array]:
        return {name: array[n] for name, array in drawn.items()}

    if not updates:
        return TrainingOutcome(losses(recipe, nets, batch, drawn_at(0), hyper), {})
    state, first = update(recipe, TrainState.create(recipe, nets), batch, drawn_at(0), hyper)
    for n in range(1, updates):
        state, _ = update(recipe, state, batch, drawn_at(n), hyper)
    changed = (*recipe.trained, *recipe.targets)
    return TrainingOutcome(first, {part: state.networks[part].params for part in changed})


@dataclass(frozen=True)
class TrainingCase:
    """What a training step starts from. drawn: by draw, (max(updates, 1), …)."""

    bank: TrainingBank
    checkpoint: Checkpoint
    batch: AnyBatch
    drawn: Mapping[str, Array]
    hyper: Hyperparameters
    updates: int

    def astype(self, dtype: str) -> TrainingCase:
        """Every array of floats in another dtype."""
        floats = {n: a.astype(dtype) for n, a in self.drawn.items() if a.dtype.kind == "f"}
        return replace(
            self,
            checkpoint=self.checkpoint.astype(dtype),
            batch=self.batch.astype(dtype),
            drawn={**self.drawn, **floats},
        )

    def run(
        self, recipe: Recipe, embedding: Precision, kernels: Kernels = reference_kernels
    ) -> TrainingOutcome:
        """The recipe on this case, in its dtype."""
        nets = self.checkpoint.networks(embedding=embedding, kernels=kernels)
        outcome = run(recipe, nets, self.batch, self.drawn, self.hyper, self.updates)
        if self.bank.reference.jointly is None:
            return outcome
        return replace(outcome, received=recipe.received(nets, outcome.first.gradients))
