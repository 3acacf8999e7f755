"""Audit, part (a): every derivative, on this checkpoint's own weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.definitions import (
    OracleStep,
    defined_gradient,
    has_definition,
    potential_gradient,
)
from qgf_ref.audit.rules import AuditedStates, Rule, networks, primitives
from qgf_ref.audit.second_order import second_order
from qgf_ref.checks import Check, check_adjoint, check_jvp, check_vjp
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import Estimator
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.iql import critic_loss, critic_target, value_loss
from qgf_ref.nets.mlp import MLPParams

Loss = Callable[[Any], tuple[float, MLPParams]]


def checks_of(
    point: AuditedStates, estimators: list[Estimator]
) -> dict[str, Callable[[], list[Check]]]:
    """What is checked, by name, and the function that checks it."""
    rules = {**primitives(point), **networks(point), **second_order(point)}
    jobs: dict[str, Callable[[], list[Check]]] = {
        name: partial(_rule_checks, name, rule) for name, rule in rules.items()
    }
    jobs["losses"] = lambda: list(losses(point))
    steps = cache(partial(oracle_steps, point))  # shared: estimators ask for the same derivatives
    for estimator in estimators:
        jobs[f"estimator {estimator.label}"] = partial(_checks_of_estimator, estimator, steps)
    return jobs


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
    """The gradients of the losses in the parameters, on a batch of this checkpoint's own.

    Of the networks that it has; γ and τ are the recipe's, where the checkpoint does not tell any.
    Actions are the policy's; rewards, masks and valid vary over the rows, so that every factor of
    the losses takes part.
    """
    checkpoint, options = point.checkpoint, point.checkpoint.options
    hyper = Hyperparameters(horizon=options.horizon_length)
    gamma = hyper.discount if options.discount is None else options.discount
    tau = hyper.expectile if options.expectile is None else options.expectile
    obs, x0 = point.obs, point.noise
    rows = np.arange(len(obs))
    action = np.clip(point.a[-1], -1, 1)
    valid, masks = (rows % 4 != 3).astype(float), (rows % 5 != 4).astype(float)
    t = (rows % (options.denoise_steps + 1)) / options.denoise_steps
    rewards = -(1.0 + rows % 3)
    policy, target_critic = checkpoint.network("policy"), checkpoint.network("target_critic")
    cases: dict[str, tuple[Any, Loss]] = {
        "flow matching loss": (policy, lambda net: flow_matching(net, obs, x0, action, t)),
    }
    if "value" in checkpoint.params:
        v = checkpoint.network("value")
        y = critic_target(v, np.roll(obs, 1, axis=0), rewards, masks, gamma, hyper.horizon)
        if "critic" in checkpoint.params:
            critic = checkpoint.network("critic")
            cases["critic loss"] = critic, lambda net: critic_loss(net, obs, action, y, valid)
        cases["value loss"] = (
            v,
            lambda net: value_loss(net, target_critic, obs, action, valid, tau),
        )
    for name, (net, loss) in cases.items():
        value, gradient = partial(_loss_value, net, loss), partial(_loss_gradient, net, loss)
        yield check_vjp(value, gradient, net.params.arrays(), name=f"{name} gradient", raises=False)


def _loss_value(net: Any, loss: Loss, params: tuple[Array, ...]) -> Array:
    return np.asarray(loss(replace(net, params=net.params.replace(params)))[0])


def _loss_gradient(
    net: Any, loss: Loss, params: tuple[Array, ...], scale: Array
) -> tuple[Array, ...]:
    bar = loss(replace(net, params=net.params.replace(params)))[1]
    return tuple(float(scale) * array for array in bar.arrays())


CHECKED_WEIGHT = 0.1
"""The guidance weight at which estimators that depend on it are checked."""
ESTIMATOR_TOLERANCE = 1e-12
"""Measured 1e-14 and below on the golden and embedded checkpoints; the rest is room for networks
whose Jacobians are worse conditioned."""


def oracle_steps(point: AuditedStates) -> list[OracleStep]:
    """The first, middle and last step of the chain, where estimators are checked."""
    flow, T = point.checkpoint.flow, len(point.a)
    return [
        OracleStep(flow, denoising_step(flow, point.obs, point.a[k], k, CHECKED_WEIGHT))
        for k in sorted({0, T // 2, T - 1})
    ]


def estimator_checks(estimator: Estimator, steps: list[OracleStep]) -> list[Check]:
    """G against its definition by complex step, and against its potential's gradient.

    Of each the worst over the steps; none at all of an estimator that has neither.
    """
    defined, worst = has_definition(estimator), dict[str, float]()
    for at in steps:
        actual = estimator(at.flow, at.step).gradient
        slope = potential_gradient(estimator, at.flow, at.step)
        definition = defined_gradient(estimator, at.flow, at.step, at) if defined else slope
        for what, expected in (("definition", definition), ("potential", slope)):
            if expected is not None:
                norm = float(np.linalg.norm(expected))
                error = float(np.linalg.norm(actual - expected)) / (norm or 1.0)
                worst[what] = max(worst.get(what, 0.0), error)
    numeric = "complex_step" if estimator.analytic else "central_difference"
    return [
        Check(
            f"estimator {estimator.label} ({what})",
            "complex_step" if what == "definition" and defined else numeric,
            error,
            ESTIMATOR_TOLERANCE if estimator.analytic or defined else 1e-6,
            len(steps),
        )
        for what, error in worst.items()
    ]
