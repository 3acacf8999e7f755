"""Running a recipe: the losses of a batch, and the one training update.

Pure: `update` returns a new state and leaves the old one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.schedule import run_stages
from qgf_ref.agents.stage import Loss, Stage, StageInputs
from qgf_ref.arrays import Array, follows_numpy, require_finite
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import AnyBatch, Hyperparameters
from qgf_ref.losses.optimiser import AdamState, steps_at_once
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.nets.parameter_sets import apart, joined
from qgf_ref.ops.kernels import Kernels
from qgf_ref.threads import results_of

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
        values = {
            stage: float(value) if follows_numpy(value) else value  # of a GPU: read now
            for stage, (value, _) in losses.items()
        }
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
    of_stage = run_stages(recipe.made_stages, inputs, lambda stage, i: stage.loss(i), threads)
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
        # here, while another stage may still be at its loss, unless one step is made of all
        return (value, bars), {} if together else _steps(recipe, state, inputs, bars)

    together = recipe.jointly is not None or steps_at_once(_kernels(recipe, state.networks))
    now = state
    of_stage: dict[str, Loss] = {}
    for stages in _rounds(recipe):
        inputs = _inputs(now.networks, batch, drawn, hyper)
        learned = run_stages(stages, inputs, learn, threads)
        of_stage |= {name: loss for name, (loss, _) in learned.items()}
        for _, steps in learned.values():
            now = now.after(steps)
        if together:
            bars = Losses.of({name: of_stage[name] for name in learned}).gradients
            received = recipe.together(inputs.nets, bars)
            now = now.after(_steps(recipe, state, inputs, received, threads))
    return now, Losses.of({name: of_stage[name] for name in recipe.losses})


def _rounds(recipe: Recipe) -> Iterable[tuple[Stage, ...]]:
    """The stages that see the same networks."""
    by_name = {stage.name: stage for stage in recipe.made_stages}
    return [(by_name[name],) for name in recipe.in_turn] or [recipe.made_stages]


def _steps(
    recipe: Recipe,
    state: TrainState,
    inputs: StageInputs,
    bars: Mapping[str, MLPParams],
    threads: int = 1,
) -> Steps:
    """Adam's step of every part in `bars`, and the steps of the averages that follow them."""

    def stepped(parts: Sequence[str]) -> Steps:
        return _stepped(recipe, state, inputs, {part: bars[part] for part in parts})

    groups = _stepped_as_one(recipe, state, inputs.nets, bars)
    steps: Steps = {}
    alone = threads == 1 or len(groups) == 1
    of_groups = map(stepped, groups) if alone else results_of(
        [partial(stepped, parts) for parts in groups], threads
    )  # fmt: skip
    for made in of_groups:
        steps |= made
    return steps


def _stepped(
    recipe: Recipe, state: TrainState, inputs: StageInputs, bars: Mapping[str, MLPParams]
) -> Steps:
    """`_steps` of parts whose arrays are stepped as one."""
    nets, parts, rate = inputs.nets, list(bars), recipe.learning_rate(inputs.hyper.learning_rate)
    kernels = nets[parts[0]].kernels
    old = {part: nets[part].params for part in parts}
    bar = joined([recipe.gradient(old[part], bars[part]) for part in parts])
    before = joined(list(old.values()))
    if recipe.decay:
        before = before.map(lambda p: p * (1 - rate * recipe.decay))
    adams = [state.moments[part] for part in parts]
    mean, square = joined([a.mean for a in adams]), joined([a.square for a in adams])
    moments = AdamState(mean, square, adams[0].count)
    after, moments = recipe.adam(before, bar, moments, rate, kernels=kernels)
    new = dict(zip(parts, apart(after), strict=True))
    kept = zip(apart(moments.mean), apart(moments.square), strict=True)
    steps: Steps = {
        part: (params, AdamState(mean, square, moments.count))
        for (part, params), (mean, square) in zip(new.items(), kept, strict=True)
    }
    follow = {name: online for name, online in recipe.targets.items() if online in new}
    if follow:
        seen = new if recipe.in_turn else old
        target = joined([nets[name].params for name in follow])
        online, stepped = (joined([of[o] for o in follow.values()]) for of in (seen, new))
        moved = recipe.target(target, online, stepped, inputs.hyper.tau, kernels)
        steps |= {n: (p, None) for n, p in zip(follow, apart(moved), strict=True)}
    return steps


def _stepped_as_one(
    recipe: Recipe, state: TrainState, nets: Networks, bars: Mapping[str, MLPParams]
) -> list[list[str]]:
    """The parts whose arrays are stepped together: all, if the kernels do so and none is behind."""
    if not steps_at_once(_kernels(recipe, nets)):
        return [[part] for part in bars]
    groups: dict[int, list[str]] = {}
    for part in bars:
        groups.setdefault(state.moments[part].count, []).append(part)
    return list(groups.values())


def _kernels(recipe: Recipe, nets: Networks) -> Kernels:
    """Those of its networks, which run on one backend."""
    kernels: Kernels = nets[recipe.trained[0]].kernels
    return kernels


def _inputs(
    nets: Networks, batch: AnyBatch, drawn: Mapping[str, Array], hyper: Hyperparameters
) -> StageInputs:
    if not len(batch.obs):
        raise InputError("a training batch needs at least one row")
    return StageInputs(nets, batch, hyper, drawn)
