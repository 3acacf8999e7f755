"""The training update as a recipe: stages, optimiser, moving averages.

`qgf_ref.agents.step` runs a recipe; there is no other update. An ingredient is a field that may be
replaced by another one, which is how the cross-check plants its mistakes; the defaults are the
official code's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from qgf_ref.agents.part import Part
from qgf_ref.agents.stage import Draw, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.losses.batch import AnyBatch, Batch, Hyperparameters
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.kernels import Kernels

Gradients = Mapping[str, MLPParams]
"""Gradients in the parameters, by part."""


@dataclass(frozen=True)
class Recipe:
    """What happens in an update. A subclass names its parts and gives the stages.

    jointly        (all gradients, kernels) → what reaches the optimiser, where parts are clipped
                   together; None: each part's gradient stands alone, and need not wait for others
    gradient       (params, params_bar) → what reaches the part's optimiser
    decay          AdamW's, as a share of the learning rate
    adam           as `qgf_ref.losses.optimiser.adam`
    learning_rate  from the hyperparameters' one
    target         (target, online before the step, online after it, tau, kernels) → target
    in_turn        stages in the order of their steps, each seeing what earlier ones did; (): all
                   see the networks from before the update
    resident       whether its losses may be given arrays of another library than NumPy, on which
                   NumPy's functions work (`qgf_ref.arrays.follows_numpy`): what those do not do,
                   such as the arrays that they make of nothing, is left to the networks' kernels
    """

    parts: ClassVar[tuple[Part, ...]] = ()

    jointly: Callable[..., Gradients] | None = None
    gradient: Callable[[MLPParams, MLPParams], MLPParams] = lambda params, bar: bar
    decay: float = 0.0
    adam: Callable[..., tuple[MLPParams, AdamState]] = adam
    learning_rate: Callable[[float], float] = lambda rate: rate
    target: Callable[[MLPParams, MLPParams, MLPParams, float, Kernels], MLPParams] = (
        lambda target, before, after, tau, kernels: target_update(target, before, tau, kernels)
    )
    in_turn: tuple[str, ...] = ()
    resident: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The losses, in the order in which they are reported."""
        raise NotImplementedError(f"{type(self).__name__} has no stages")

    @cached_property
    def made_stages(self) -> tuple[Stage, ...]:
        """`stages`, made once."""
        return self.stages

    def held_out(self, inputs: StageInputs) -> dict[str, float]:
        """What validation reports beside the losses, by name."""
        del inputs
        return {}

    def taking(self, batch: Batch) -> AnyBatch:
        """A batch of one task as one that these losses take, so that checks can make one up."""
        return batch

    @property
    def losses(self) -> tuple[str, ...]:
        """The stages' names."""
        return tuple(stage.name for stage in self.made_stages)

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts that have an optimiser."""
        return tuple(part for stage in self.made_stages for part in stage.trains)

    @property
    def targets(self) -> dict[str, str]:
        """The moving averages: part → the part that it follows."""
        return {part.name: part.target_of for part in self.parts if part.target_of}

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The stages' draws, each once, in the order in which the generator is asked."""
        return tuple({draw.name: draw for s in self.made_stages for draw in s.draws}.values())

    def received(self, nets: Networks, bars: Gradients) -> dict[str, MLPParams]:
        """What the optimiser is given of the gradients of all parts."""
        clipped = self.together(nets, bars)
        return {part: self.gradient(nets[part].params, bar) for part, bar in clipped.items()}

    def together(self, nets: Networks, bars: Gradients) -> Gradients:
        """The gradients after `jointly`, if there is such."""
        if self.jointly is None:
            return bars
        return self.jointly(bars, kernels=nets[next(iter(bars))].kernels)

    def draw(
        self, rng: np.random.Generator, batch: AnyBatch, hyper: Hyperparameters
    ) -> dict[str, Array]:
        """The random numbers of one update, floats in the batch's dtype."""
        arrays = {draw.name: np.asarray(draw.sample(rng, batch, hyper)) for draw in self.draws}
        dtype = batch.action.dtype
        return {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in arrays.items()}


@dataclass(frozen=True)
class PlainRecipe(Recipe):
    """A recipe of given parts and stages, whose losses have no ingredients."""

    parts: tuple[Part, ...] = ()  # type: ignore[misc]
    stages: tuple[Stage, ...] = ()
