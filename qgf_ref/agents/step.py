"""Running a recipe: the losses of a batch, and the one training update.

Pure: `update` returns a new state and leaves the old one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.schedule import run_stages
from qgf_ref.agents.stage import Loss, Stage, StageInputs
from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import AnyBatch, Hyperparameters
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks

Steps = dict[str, tuple[MLPParams, AdamState | None]]
"""New parameters by part, with Adam's state of those that have an optimiser."""


@dataclass(frozen=True)
class TrainState:
    """Networks by part, those of a base among them, and Adam's state of every trained part."""

    networks: Networks
    moments: Mapping[str, AdamState]

    @classmethod
    def create(cls, recipe: Recipe, networks: Networks) -> TrainState:
        """The state before the first update."""
        return cls(networks, {p: AdamState.zero(networks[p].params) for p in recipe.trained})

    def map(self, f: Callable[[Array], Array]) -> TrainState:
        """f applied to every array."""
        params = {part: net.params.map(f) for part, net in vars(self.networks).items()}
        moments = {
            part: AdamState(adam.mean.map(f), adam.square.map(f), adam.count)
            for part, adam in self.moments.items()
        }
        return TrainState(self.networks.having(params), moments)

    def after(self, steps: Steps) -> TrainState:
        """The state when these steps have been made."""
        networks = self.networks.having({part: params for part, (params, _) in steps.items()})
        moments = {part: adam for part, (_, adam) in steps.items() if adam is not None}
        return TrainState(networks, {**self.moments, **moments})


@dataclass(frozen=True)
class Losses:
    """Of one batch: values by stage, gradients in the parameters by part."""

    values: dict[str, float]
    gradients: dict[str, MLPParams]

    @classmethod
    def of(cls, losses: Mapping[str, Loss]) -> Losses:
        """From what the stages returned, by their names."""
        values = {stage: value for stage, (value, _) in losses.items()}
        gradients = {part: bar for _, bars in losses.values() for part, bar in bars.items()}
        return cls(values, gradients)


def losses(
    recipe: Recipe,
    nets: Networks,
    batch: AnyBatch,
    drawn: Mapping[str, Array],
    hyper: Hyperparameters,
    threads: int = 1,
) -> Losses:
    """All losses on one batch with the random numbers `drawn` (`Recipe.draw`).

    threads  as in `update`
    Raises InputError on a batch of 0 rows, whose mean is undefined.
    """
    inputs = _inputs(nets, batch, drawn, hyper)
    of_stage = run_stages(recipe.stages, inputs, lambda stage, i: stage.loss(i), threads)
    return Losses.of({name: of_stage[name] for name in recipe.losses})


def update(
    recipe: Recipe,
    state: TrainState,
    batch: AnyBatch,
    drawn: Mapping[str, Array],
    hyper: Hyperparameters,
    threads: int = 1,
) -> tuple[TrainState, Losses]:
    """One update of all parts from the parameters *before* the step.

    Every loss reads the old networks, and targets move towards the parts from before their step:
    the stages do not depend on each other (unless the recipe takes them `in_turn`).

    threads  how many stages may run at once: of use where the networks' kernels leave Python's lock
             alone (Numba's). The bits of Numba's results do not depend on it; NumPy may round rows
             otherwise when another thread takes them over.
    Raises NonFiniteError naming the stage whose loss is not finite. Source: official.md, section 3.
    """

    def learn(stage: Stage, inputs: StageInputs) -> tuple[Loss, Steps]:
        value, bars = stage.loss(inputs)
        require_finite(np.atleast_1d(value), f"the {stage.name} loss")
        # at once, while another stage may still be at its loss
        return (value, bars), {} if recipe.jointly else _steps(recipe, state, inputs, bars)

    now = state
    of_stage: dict[str, Loss] = {}
    for stages in _rounds(recipe):
        inputs = _inputs(now.networks, batch, drawn, hyper)
        learned = run_stages(stages, inputs, learn, threads)
        of_stage |= {name: loss for name, (loss, _) in learned.items()}
        for _, steps in learned.values():
            now = now.after(steps)
        if recipe.jointly:
            bars = recipe.jointly(Losses.of({name: of_stage[name] for name in learned}).gradients)
            now = now.after(_steps(recipe, state, inputs, bars))
    return now, Losses.of({name: of_stage[name] for name in recipe.losses})


def _rounds(recipe: Recipe) -> Iterable[tuple[Stage, ...]]:
    """The stages that see the same networks."""
    by_name = {stage.name: stage for stage in recipe.stages}
    return [(by_name[name],) for name in recipe.in_turn] or [recipe.stages]


def _steps(
    recipe: Recipe, state: TrainState, inputs: StageInputs, bars: Mapping[str, MLPParams]
) -> Steps:
    """Adam's step of every part in `bars`, and the steps of the averages that follow them."""
    steps: Steps = {}
    rate = recipe.learning_rate(inputs.hyper.learning_rate)
    for part, bar in bars.items():
        net = inputs.nets[part]
        bar, before = recipe.gradient(net.params, bar), net.params
        if recipe.decay:
            before = before.map(lambda p: p * (1 - rate * recipe.decay))
        after, moments = recipe.adam(before, bar, state.moments[part], rate, kernels=net.kernels)
        steps[part] = after, moments
        for target in (name for name, online in recipe.targets.items() if online == part):
            old = inputs.nets[target]
            online = after if recipe.in_turn else net.params
            moved = recipe.target(old.params, online, after, inputs.hyper.tau, old.kernels)
            steps[target] = moved, None
    return steps


def _inputs(
    nets: Networks, batch: AnyBatch, drawn: Mapping[str, Array], hyper: Hyperparameters
) -> StageInputs:
    if not len(batch.obs):
        raise InputError("a training batch needs at least one row")
    return StageInputs(nets, batch, hyper, drawn)
