"""Mistakes with critics of goals: logits or probabilities, online or target, [s, g].

Source: goal_conditioned.md, sections 6 and 9 (T8, T21).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qgf_ref.agents.goal_guided import GoalGuided
from qgf_ref.crosscheck.sampler.mistakes.base import (
    Applies,
    Mistake,
    in_networks,
    is_guided,
    one,
)
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.mistakes.query import guided_by_the_other
from qgf_ref.crosscheck.sampler.mistakes.update import ranked_by
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.nets.probability import ProbabilityCritic


def _of_goals(port: Port) -> GoalGuided | None:
    return port.agent if isinstance(port.agent, GoalGuided) else None


def guides_online(port: Port) -> bool:
    """Whether it is the online critic that guides, and the other copy the target."""
    agent = _of_goals(port)
    return agent is not None and agent.online


def _climbs(output: str, *also: Applies) -> Applies:
    def applies(port: Port) -> bool:
        agent = _of_goals(port)
        return agent is not None and agent.output == output and all(a(port) for a in also)

    return applies


def _otherwise(flow: GuidedFlow) -> GuidedFlow:
    """Logits for probabilities, and the reverse."""
    own = flow.critic
    other = own.logits if isinstance(own, ProbabilityCritic) else ProbabilityCritic(own)
    return replace(flow, critic=other)


def _in_the_gradient_only(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
    return replace(base(_otherwise(flow), step), q=base(flow, step).q)


_CLIMBS_OTHERWISE = {
    "": lambda port: port.with_rule(lambda base, flow, step: base(_otherwise(flow), step)),
    "in the gradient only": lambda port: port.with_rule(_in_the_gradient_only),
}


def _averages(port: Port) -> bool:
    return has_members(port) and port.flow.critic.aggregation == "mean"


def _ranks_otherwise(port: Port) -> Port:
    return ranked_by(port, _otherwise(port.flow).critic)


def _goal_columns(change: Callable[[Any, int, int], Any]) -> Callable[[Any], Callable[[Port], Any]]:
    """A change of the first kernel's rows at [s, g], which are the first of every network."""

    def of(which: str) -> Callable[[Port], Port]:
        def apply(port: Port) -> Port:
            agent = _of_goals(port)
            assert agent is not None
            O, G = port.field.obs_dim, agent.goal_dim

            def changed(net: Any) -> Any:
                first, *rest = net.params.layers
                kernel = change(first.kernel, O, G)
                params = replace(net.params, layers=(replace(first, kernel=kernel), *rest))
                return replace(net, params=params)

            return port.with_policy(changed) if which == "policy" else port.with_critics(changed)

        return apply

    return of


def _exchanged(kernel: Any, O: int, G: int) -> Any:
    rows = [*range(G, O), *range(G), *range(O, kernel.shape[-2])]
    return kernel[..., rows, :]


def _left_out(kernel: Any, O: int, G: int) -> Any:
    kernel = kernel.copy()
    kernel[..., O - G : O, :] = 0
    return kernel


def _reads_goals(port: Port) -> bool:
    agent = _of_goals(port)
    if agent is None or not 0 < agent.goal_dim < port.field.obs_dim:
        return False
    policy = agent.part("policy")
    return policy.unread == 0 and policy.inputs[0] == "obs"


_first, _zero = _goal_columns(_exchanged), _goal_columns(_left_out)

GOALS: tuple[Mistake, ...] = (
    Mistake("goal-first", "network", "v",
            "observations are [g, s]: right is [s, g], the goal last",
            in_networks(_first("policy"), _first("critic")), _reads_goals),
    Mistake("goal-left-out", "network", "v",
            "the goal is zeros: a network of [s, g] is told the goal of the episode, which reset "
            "gives and no step repeats",
            in_networks(_zero("policy"), _zero("critic")), _reads_goals),
    Mistake("gradient-of-probability", "gradient", "q",
            "guidance climbs the probability σ(z): the checkpoint says the logit z, whose gradient "
            "does not fade where the goal is near certain or hopeless (guide_output)",
            _CLIMBS_OTHERWISE, _climbs("logit", is_guided)),
    Mistake("gradient-of-logit", "gradient", "q",
            "guidance climbs the logit: the checkpoint says the probability, whose gradient is "
            "q(1 − q) times it (guide_output)",
            _CLIMBS_OTHERWISE, _climbs("probability", is_guided)),
    Mistake("critic-target", "query", "q",
            "guidance uses the target critic: the checkpoint says the online one, as DQC ranks "
            "(guide_critic)",
            one(guided_by_the_other), lambda port: is_guided(port) and guides_online(port)),
    Mistake("best-of-target-copy", "selection", "action",
            "candidates are ranked by the target critic: the checkpoint says the online one, which "
            "guides and ranks (guide_critic)",
            one(lambda port: ranked_by(port, port.online)), guides_online, selects=True),
    Mistake("best-of-mean-of-probabilities", "selection", "action",
            "candidates are ranked by the mean of the members' probabilities: DQC ranks by that of "
            "their logits (T8)",
            one(_ranks_otherwise), _climbs("logit", _averages), selects=True),
    Mistake("best-of-mean-of-logits", "selection", "action",
            "candidates are ranked by the mean of the members' logits: the checkpoint says of "
            "probabilities (T8)",
            one(_ranks_otherwise), _climbs("probability", _averages), selects=True),
)  # fmt: skip
