"""Mistakes of the paper's other test-time methods: GradStep and CFGRL.

They apply to ports that mean to be one of these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import (
    Change,
    Mistake,
    drift_rule,
    one,
    ruled,
)
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.mistakes.update import ranked_by
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.denoising import GradientSteps
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import uphill


def _climbs(port: Port) -> bool:
    return port.climb is not None and port.climb.steps > 0


def _climb(change: Callable[[GradientSteps], GradientSteps]) -> Mapping[str, Change]:
    def apply(port: Port) -> Port:
        return port if port.climb is None else replace(port, climb=change(port.climb))

    return one(apply)


def _gradient(change: Callable[[Array, Port], Array]) -> Mapping[str, Change]:
    """∇Q of a gradient step, changed."""

    def apply(port: Port) -> Port:
        def along(flow: GuidedFlow, obs: Array, action: Array) -> Array:
            return change(uphill(flow, obs, action), port)

        return port.with_scheme(uphill=along)

    return one(apply)


def _unit(g: Array, port: Port) -> Array:
    length = np.linalg.norm(g, axis=1, keepdims=True)
    return np.divide(g, length, out=np.zeros_like(g), where=length > 0)


def _asking(critic: Callable[[Port, GuidedFlow], GuidedFlow]) -> Mapping[str, Change]:
    """∇Q of another critic."""

    def apply(port: Port) -> Port:
        def along(flow: GuidedFlow, obs: Array, action: Array) -> Array:
            return uphill(critic(port, flow), obs, action)

        return port.with_scheme(uphill=along)

    return one(apply)


class _Mean:
    """A critic whose members are averaged."""

    aggregation = "mean"

    def __init__(self, critic: object) -> None:
        self.critic = critic

    def __getattr__(self, name: str) -> object:
        return getattr(self.critic, name)


def _is_min(port: Port) -> bool:
    return _climbs(port) and has_members(port) and port.flow.critic.aggregation == "min"


CLIMB = "a ← clip(a + α·∇Q(s, a)), L times, from the clipped end of the flow"

GRADSTEP: tuple[Mistake, ...] = (
    Mistake("gradstep-missing", "gradstep", "action", f"the gradient steps are left out: {CLIMB}",
            _climb(lambda how: replace(how, steps=0)), _climbs),
    Mistake("gradstep-one-more", "gradstep", "action", f"L + 1 gradient steps are made: {CLIMB}",
            _climb(lambda how: replace(how, steps=how.steps + 1)), _climbs),
    Mistake("gradstep-one-less", "gradstep", "action", f"L − 1 gradient steps are made: {CLIMB}",
            _climb(lambda how: replace(how, steps=how.steps - 1)),
            lambda port: _climbs(port) and port.climb.steps > 1),  # type: ignore[union-attr]
    Mistake("gradstep-sign-or-not", "gradstep", "action",
            "the step goes along the sign of the gradient, or along the gradient, where the other "
            "is meant", _climb(lambda how: replace(how, sign=not how.sign)), _climbs),
    Mistake("gradstep-downhill", "gradstep", "action",
            f"the critic is minimised: {CLIMB}", _gradient(lambda g, port: -g), _climbs),
    Mistake("gradstep-unclipped", "gradstep", "action",
            f"nothing is clipped after a gradient step: {CLIMB}",
            one(lambda port: port.with_scheme(confine=lambda flow, action: action)), _climbs),
    Mistake("gradstep-clip-at-end", "gradstep", "action",
            f"the clip comes after the last gradient step alone: {CLIMB}",
            one(lambda port: port.with_scheme(
                confine=lambda flow, action: action,
                deliver=lambda action: port.scheme.deliver(
                    port.scheme.finish(port.flow, action)))), _climbs),
    Mistake("gradstep-unit-norm", "gradstep", "action",
            f"the gradient is normalised to length 1: {CLIMB}", _gradient(_unit), _climbs),
    Mistake("gradstep-batch-mean", "gradstep", "action",
            "the mean over the batch is differentiated: the step shrinks with the batch",
            _gradient(lambda g, port: g / len(g)), _climbs, coupled=True),
    Mistake("gradstep-times-dt", "gradstep", "action",
            f"the step is multiplied by 1/T, as an Euler step is: {CLIMB}",
            _gradient(lambda g, port: g / port.flow.denoise_steps),
            lambda port: _climbs(port) and not port.climb.sign),  # type: ignore[union-attr]
    Mistake("gradstep-mean-of-members", "gradstep", "action",
            "the gradient of the mean over members: the options say min",
            _asking(lambda port, flow: replace(flow, critic=_Mean(flow.critic))),  # type: ignore
            _is_min),
    Mistake("gradstep-online", "gradstep", "action",
            "the online critic is climbed: the official code climbs the target critic",
            _asking(lambda port, flow: replace(flow, critic=port.online)),
            lambda port: _climbs(port) and not port.opaque),
)  # fmt: skip


def _cfgrl(port: Port) -> bool:
    return port.stated == "cfgrl"


def _swapped(port: Port) -> Port:
    pair = port.flow.auxiliary.cfgrl
    assert pair is not None
    auxiliary = replace(port.flow.auxiliary, cfgrl=pair[::-1])
    return replace(port, flow=replace(port.flow, field=pair[1], auxiliary=auxiliary))


def _conditional_alone(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    guidance = base(flow, step)
    return replace(guidance, gradient=guidance.gradient + step.velocity)


BETWEEN = "v = v₀ + w·(v₁ − v₀), v_o the field under the label o"

CFGRL: tuple[Mistake, ...] = (
    Mistake("cfgrl-from-conditional", "cfgrl", "a",
            "the guidance starts at the conditional field, v₁ + w·(v₁ − v₀), or its weight is "
            f"1 + w: {BETWEEN}",
            drift_rule(lambda v, g, w, step, flow: v + g + w * g), _cfgrl),
    Mistake("cfgrl-labels-swapped", "cfgrl", "v",
            f"the labels are exchanged, o = 1 is the better action: {BETWEEN}",
            one(_swapped), _cfgrl),
    Mistake("cfgrl-no-difference", "cfgrl", "g",
            f"v₀ + w·v₁, the difference forgotten: {BETWEEN}",
            ruled(_conditional_alone), _cfgrl),
    Mistake("cfgrl-best-of-target", "cfgrl", "action",
            "candidates are ranked by the target critic: official CFGRL ranks by the online one",
            one(lambda port: ranked_by(port, port.target)),
            lambda port: _cfgrl(port) and not port.opaque, selects=True),
)  # fmt: skip

METHODS = (*GRADSTEP, *CFGRL)
"""Beside the bank, which is of the guided sampler."""
