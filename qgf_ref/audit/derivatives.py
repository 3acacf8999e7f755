"""Audit, part (a): every derivative, on this checkpoint's own weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from qgf_ref.agents.stage import Loss, Stage, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.audit.definitions import (
    OracleStep,
    defined_gradient,
    has_definition,
    potential_gradient,
)
from qgf_ref.audit.on_engine import ours, remembering
from qgf_ref.audit.rules import AuditedStates, Rule, flow_of, networks, primitives
from qgf_ref.audit.second_order import second_order
from qgf_ref.checks import Check, check_adjoint, check_jvp, check_vjp
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.nets.networks import Networks
from qgf_ref.oracles import remarks
from qgf_ref.threads import Once


def checks_of(
    point: AuditedStates, estimators: list[Estimator]
) -> dict[str, Callable[[], list[Check]]]:
    """What is checked, by name, and the function that checks it."""
    rules = {**primitives(point), **networks(point), **second_order(point)}
    jobs: dict[str, Callable[[], list[Check]]] = {
        name: partial(_rule_checks, name, rule) for name, rule in rules.items()
    }
    jobs["losses"] = lambda: list(losses(point))
    # shared: estimators ask for the same derivatives, and ours for the same outputs of networks
    steps = {known: Once(partial(oracle_steps, point, known)) for known in (False, True)}
    for estimator in estimators:
        its = steps[ours(estimator)]
        jobs[job_of(estimator)] = partial(_checks_of_estimator, estimator, its)
    return jobs


def job_of(estimator: Estimator) -> str:
    """The name of an estimator's checks."""
    return f"estimator {estimator.label}"


def _checks_of_estimator(
    estimator: Estimator, steps: Callable[[], list[OracleStep]]
) -> list[Check]:
    return estimator_checks(estimator, steps())


def _rule_checks(name: str, rule: Rule) -> list[Check]:
    f, jvp, vjp, x = rule
    checks = []
    if jvp is not None:
        checks.append(check_jvp(f, jvp, x, name=f"{name} jvp", raises=False))
    if vjp is not None:
        checks.append(check_vjp(f, vjp, x, name=f"{name} vjp", raises=False))
    if jvp is not None and vjp is not None:
        checks.append(check_adjoint(f, jvp, vjp, x, name=f"{name} adjoint", raises=False))
    return checks


def losses(point: AuditedStates) -> Iterator[Check]:
    """The gradients of the agent's losses in the parameters, on a batch of this checkpoint's own.

    Of the stages whose networks it has; γ and τ are the recipe's, where the checkpoint does not
    tell any. Actions are the policy's; rewards, masks and valid vary over the rows, so that every
    factor of the losses takes part.
    """
    checkpoint, options = point.checkpoint, point.checkpoint.options
    recipe, plain = checkpoint.agent.recipe, Hyperparameters()
    if recipe is None:
        return
    hyper = Hyperparameters(
        plain.discount if options.discount is None else options.discount,
        options.horizon_length,
        plain.expectile if options.expectile is None else options.expectile,
        denoise_steps=options.denoise_steps,
    )
    rows, obs = np.arange(len(point.obs)), point.obs
    valid, masks = (rows % 4 != 3).astype(float), (rows % 5 != 4).astype(float)
    action = np.clip(point.a[-1], -1, 1)
    batch = recipe.taking(
        Batch(obs, action, np.roll(obs, 1, axis=0), -(1.0 + rows % 3), masks, valid)
    )
    drawn = recipe.draw(np.random.default_rng(0), batch, hyper)
    nets = Networks(**{name: checkpoint.network(name) for name in checkpoint.params})
    for stage in recipe.stages:
        if {*stage.trains, *stage.reads} <= set(checkpoint.params):
            inputs = StageInputs(nets, batch, hyper, drawn)
            inputs = replace(inputs, fixed=None if stage.fixed is None else stage.fixed(inputs))
            yield from _stage_checks(stage, inputs, LOSSES.get(stage.name, stage.name))


LOSSES = {"policy": "flow matching"}
"""Titles of losses that are not called as their stage is."""


def _stage_checks(stage: Stage, inputs: StageInputs, name: str) -> Iterator[Check]:
    for part in stage.trains:
        of = f" in {part}" if len(stage.trains) > 1 else ""
        value, gradient = (partial(f, stage, inputs, part) for f in (_loss_value, _loss_gradient))
        x = inputs.nets[part].params.arrays()
        yield check_vjp(value, gradient, x, name=f"{name} loss gradient{of}", raises=False)


def _loss_at(stage: Stage, inputs: StageInputs, part: str, arrays: tuple[Array, ...]) -> Loss:
    params = inputs.nets[part].params.replace(arrays)
    return stage.loss(replace(inputs, nets=inputs.nets.having({part: params})))


def _loss_value(stage: Stage, inputs: StageInputs, part: str, arrays: tuple[Array, ...]) -> Array:
    return np.asarray(_loss_at(stage, inputs, part, arrays)[0])


def _loss_gradient(
    stage: Stage, inputs: StageInputs, part: str, arrays: tuple[Array, ...], scale: Array
) -> tuple[Array, ...]:
    bar = _loss_at(stage, inputs, part, arrays)[1][part]
    return tuple(float(scale) * array for array in bar.arrays())


CHECKED_WEIGHT = 0.1
"""The guidance weight at which estimators that depend on it are checked."""
ESTIMATOR_TOLERANCE = 1e-12
"""For networks up to 3×192, six times the 1.6e-13 measured on the embedded one; rounding grows with
the number of terms from input to output, and so does the tolerance: 1.1e-12 measured at 4×1024."""


def oracle_steps(point: AuditedStates, remembered: bool = False) -> list[OracleStep]:
    """The first, middle and last step of the chain, where estimators are checked; none without a
    flow. remembered: of networks that remember (`remembering`)
    """
    flow, T = flow_of(point.checkpoint), len(point.a)
    if flow is None:
        return []
    flow = remembering(flow) if remembered else flow
    return [
        OracleStep(flow, denoising_step(flow, point.obs, point.a[k], k, CHECKED_WEIGHT))
        for k in sorted({0, T // 2, T - 1})
    ]


def _rounding(flow: GuidedFlow) -> float:
    """`ESTIMATOR_TOLERANCE` for the size of this flow's networks, where they tell their sizes."""
    terms = [
        sum(layer.kernel.shape[-1] for layer in network.params.layers[:-1])
        for network in (flow.field, flow.critic)
        if hasattr(network, "params")
    ]
    return ESTIMATOR_TOLERANCE * max([1.0, *(count / (3 * 192) for count in terms)])


def estimator_checks(estimator: Estimator, steps: list[OracleStep]) -> list[Check]:
    """G against its definition by complex step, and against its potential's gradient.

    Of each the worst over the steps; none at all of an estimator that has neither.
    """
    defined = has_definition(estimator)
    worst, limits = dict[str, float](), dict[str, dict[str, float]]()
    for at in steps:
        actual = estimator(at.flow, at.step).gradient
        with remarks() as of_potential:
            slope = potential_gradient(estimator, at.flow, at.step)
        with remarks() as of_definition:
            known = defined_gradient(estimator, at.flow, at.step, at) if defined else slope
        said = {"potential": of_potential, "definition": of_definition if defined else of_potential}
        for what, expected in (("definition", known), ("potential", slope)):
            if expected is not None:
                norm = float(np.linalg.norm(expected))
                error = float(np.linalg.norm(actual - expected)) / (norm or 1.0)
                worst[what] = max(worst.get(what, 0.0), error)
                limits.setdefault(what, {}).update(said[what])
    return [
        _estimator_check(
            estimator, what, error, limits[what], what == "definition" and defined, steps
        )
        for what, error in worst.items()
    ]


def _estimator_check(
    estimator: Estimator,
    what: str,
    error: float,
    limits: dict[str, float],
    defined: bool,
    steps: list[OracleStep],
) -> Check:
    """The verdict; `limits`: what was remarked of the oracle, and the accuracy that it had."""
    analytic = (defined or estimator.analytic) and not limits
    return Check(
        f"estimator {estimator.label} ({what})",
        "complex_step" if analytic else "central_difference",
        error,
        max([_rounding(steps[0].flow) if analytic else 1e-6, *limits.values()]),
        len(steps),
        ", ".join(limits),
    )
