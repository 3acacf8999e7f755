"""Audit, part (a): every derivative, on this checkpoint's own weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.definitions import defined_gradient, potential_gradient
from qgf_ref.audit.rules import Point, Rule, networks, primitives
from qgf_ref.audit.second_order import second_order
from qgf_ref.checks import Check, check_adjoint, check_jvp, check_vjp
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.base import Estimator
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.iql import critic_loss, critic_target, value_loss
from qgf_ref.nets.mlp import MLPParams

Loss = Callable[[Any], tuple[float, MLPParams]]


def checks_of(point: Point, estimators: list[Estimator]) -> dict[str, Callable[[], list[Check]]]:
    """What is checked, by name, and the function that checks it."""
    rules = {**primitives(point), **networks(point), **second_order(point)}
    jobs: dict[str, Callable[[], list[Check]]] = {
        name: partial(_rule_checks, name, rule) for name, rule in rules.items()
    }
    jobs["losses"] = lambda: list(losses(point))
    for estimator in estimators:
        jobs[f"estimator {estimator.label}"] = partial(_estimator_checks, point, estimator)
    return jobs


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


def losses(point: Point) -> Iterator[Check]:
    """The gradients of the three losses in the parameters, on a batch of this checkpoint's own.

    Actions are the policy's; rewards, masks and valid vary over the rows, so that every factor of
    the losses takes part.
    """
    nets, hyper = point.checkpoint.networks(), point.checkpoint.hyperparameters()
    obs, x0 = point.obs, point.noise
    rows = np.arange(len(obs))
    action = np.clip(point.a[-1], -1, 1)
    valid, masks = (rows % 4 != 3).astype(float), (rows % 5 != 4).astype(float)
    t = (
        rows % (point.checkpoint.options.denoise_steps + 1)
    ) / point.checkpoint.options.denoise_steps
    rewards = -(1.0 + rows % 3)
    target = critic_target(
        nets.value, np.roll(obs, 1, axis=0), rewards, masks, hyper.discount, hyper.horizon
    )
    cases: dict[str, tuple[Any, Loss]] = {
        "flow matching loss": (nets.policy, lambda net: flow_matching(net, obs, x0, action, t)),
        "critic loss": (nets.critic, lambda net: critic_loss(net, obs, action, target, valid)),
        "value loss": (
            nets.value,
            lambda net: value_loss(net, nets.target_critic, obs, action, valid, hyper.expectile),
        ),
    }
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


def _estimator_checks(point: Point, estimator: Estimator) -> list[Check]:
    """G against its definition by complex step, at the first, middle and last step.

    An estimator that declares a potential is also checked to be that potential's gradient.
    """
    flow, T = point.checkpoint.flow, len(point.a)
    worst: dict[str, float] = {}
    steps = sorted({0, T // 2, T - 1})
    for k in steps:
        step = denoising_step(flow, point.obs, point.a[k], k, CHECKED_WEIGHT)
        actual = estimator(flow, step).gradient
        for what, expected in (
            ("definition", defined_gradient(estimator, flow, step)),
            ("potential", potential_gradient(estimator, flow, step)),
        ):
            if expected is not None:
                norm = float(np.linalg.norm(expected))
                error = float(np.linalg.norm(actual - expected)) / (norm or 1.0)
                worst[what] = max(worst.get(what, 0.0), error)
    oracle = "complex_step" if estimator.analytic else "central_difference"
    return [
        Check(
            f"estimator {estimator.label} ({what})",
            "complex_step" if what == "definition" and _known(estimator) else oracle,
            error,
            ESTIMATOR_TOLERANCE if estimator.analytic or _known(estimator) else 1e-6,
            len(steps),
        )
        for what, error in worst.items()
    ]


def _known(estimator: Estimator) -> bool:
    return type(estimator).__module__.startswith("qgf_ref.")
