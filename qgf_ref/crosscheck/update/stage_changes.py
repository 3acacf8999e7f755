"""Changes of a stage, of which training mistakes are made: its loss runs on other inputs.

No loss is written a second time here: what a stage sees of networks, batch and random numbers is
replaced, or a primitive that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from qgf_ref.agents.recipe import PlainRecipe, Recipe
from qgf_ref.agents.stage import Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.nets.networks import Networks
from qgf_ref.ops.clip import clip, clip_vjp
from qgf_ref.ops.ensemble import ensemble_reduce
from qgf_ref.ops.learning import path_point, squared_error

StageChange = Callable[[Stage], Stage]
InputsChange = Callable[[StageInputs], StageInputs]
Primitives = Mapping[Callable[..., Any], Callable[..., Any]]
"""What is run instead of a primitive."""


def altered(recipe: Recipe, changes: Mapping[str, StageChange]) -> Recipe:
    """The recipe with some of its stages, by name, changed."""
    if not changes:
        return recipe
    stages = tuple(changes.get(s.name, lambda same: same)(s) for s in recipe.stages)
    common = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    return PlainRecipe(**common, parts=recipe.parts, stages=stages)


def seeing(*changes: InputsChange) -> StageChange:
    """The stage, whose loss and whose fixed array see other inputs."""

    def seen(inputs: StageInputs) -> StageInputs:
        for change in changes:
            inputs = change(inputs)
        return inputs

    def changed(stage: Stage) -> Stage:
        loss, fixed = stage.loss, stage.fixed
        return replace(
            stage,
            loss=lambda inputs: loss(seen(inputs)),
            fixed=None if fixed is None else lambda inputs: fixed(seen(inputs)),
        )

    return changed


def adding(part: str, gradient: Callable[[StageInputs], Any]) -> StageChange:
    """The stage that trains `part`, with another loss's gradient in its parameters added."""

    def changed(stage: Stage) -> Stage:
        def loss(inputs: StageInputs) -> Loss:
            value, bars = stage.loss(inputs)
            bar = bars[part].map(lambda a, b: a + b, gradient(inputs))
            return value, {**bars, part: bar}

        return replace(stage, loss=loss)

    return changed


def scaling(factor: Callable[[StageInputs], float]) -> StageChange:
    """The stage, its loss times a factor."""

    def changed(stage: Stage) -> Stage:
        def loss(inputs: StageInputs) -> Loss:
            (value, bars), scale = stage.loss(inputs), factor(inputs)
            return value * scale, {part: bar.map(lambda a: a * scale) for part, bar in bars.items()}

        return replace(stage, loss=loss)

    return changed


def net(part: str, change: Callable[[Any, StageInputs], Any]) -> InputsChange:
    """The inputs with another network in the place of `part`: change(network, inputs)."""

    def changed(inputs: StageInputs) -> StageInputs:
        other = {part: change(inputs.nets[part], inputs)}
        return replace(inputs, nets=Networks(**{**vars(inputs.nets), **other}))

    return changed


def instead(part: str, other: str) -> InputsChange:
    """The inputs with the network `other` in the place of `part`."""
    return net(part, lambda network, inputs: inputs.nets[other])


def running(
    part: str, primitives: Callable[[StageInputs], Primitives] | Primitives
) -> InputsChange:
    """The inputs with `part` running other primitives."""

    def changed(network: Any, inputs: StageInputs) -> Any:
        run = network.kernels
        swaps = primitives(inputs) if callable(primitives) else primitives
        return replace(network, kernels=lambda f, *args, **kw: run(swaps.get(f, f), *args, **kw))

    return net(part, changed)


def kind(part: str, subclass: type[Any]) -> InputsChange:
    """The inputs with `part` of another class, of the same fields."""
    return net(part, lambda network, inputs: subclass(**vars(network)))


def fed(part: str, change: Callable[..., tuple[Any, ...]]) -> InputsChange:
    """The inputs with `part` evaluated elsewhere: at change(inputs, *arguments)."""

    def changed(network: Any, inputs: StageInputs) -> Any:
        def forward(self: Any, *arguments: Any) -> Any:
            return type(network).forward(self, *change(inputs, *arguments))

        elsewhere: Any = type("Elsewhere", (type(network),), {"forward": forward})
        return elsewhere(**vars(network))

    return net(part, changed)


def on_batch(change: Callable[[StageInputs], Mapping[str, Array]]) -> InputsChange:
    """The inputs with other arrays of the batch."""
    return lambda inputs: replace(inputs, batch=replace(inputs.batch, **change(inputs)))


def every_row_valid(inputs: StageInputs) -> StageInputs:
    """The inputs without invalid rows."""
    batch = inputs.batch
    return replace(inputs, batch=replace(batch, valid=np.ones_like(batch.valid)))


def drawing(name: str, change: Callable[[Array], Array]) -> InputsChange:
    """The inputs with other random numbers of that name."""

    def changed(inputs: StageInputs) -> StageInputs:
        return replace(inputs, drawn={**inputs.drawn, name: change(inputs.drawn[name])})

    return changed


def weighted(weight: Callable[[Array], Any]) -> Callable[..., tuple[float, Array]]:
    """`squared_error` with weights that follow from the right ones."""
    return lambda y, target, of=1.0: squared_error(y, target, weight(of))


MASK_DROPPED: Primitives = {clip_vjp: lambda y_bar, cache: y_bar}
"""A clip through which cotangents pass everywhere."""
UNCLIPPED: Primitives = {clip: lambda x: (x, clip(x, np.inf)[1])}
MINIMUM: Primitives = {ensemble_reduce: lambda q, name: ensemble_reduce(q, "min")}
"""Members reduced by min, whatever is asked for."""
PATH_REVERSED: Primitives = {
    path_point: lambda x0, x1, t: (path_point(x1, x0, t)[0], path_point(x0, x1, t)[1])
}
VELOCITY_REVERSED: Primitives = {
    path_point: lambda x0, x1, t: (path_point(x0, x1, t)[0], path_point(x1, x0, t)[1])
}
TOWARDS_ACTION: Primitives = {path_point: lambda x0, x1, t: (path_point(x0, x1, t)[0], x1)}
"""A regression on the action where a velocity is meant."""
