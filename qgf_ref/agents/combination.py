"""The flow of one checkpoint, guided by the critic of another: the paper's "better critic"."""

from __future__ import annotations

from dataclasses import replace

from qgf_ref.agents.agent import Agent, FlowAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import DQCAgent
from qgf_ref.agents.iql import IQL
from qgf_ref.agents.options import SOME_NETWORKS
from qgf_ref.errors import InputError

CRITIC_NAMES: tuple[str, ...] = ("critic", "target_critic", "value")
_ALIKE = ("activation", "layer_norm_eps", *SOME_NETWORKS, "horizon_length", "action_chunking")
"""Options that both must have: of all networks, and of what an action is."""


def combined(policy: Checkpoint, critic: Checkpoint) -> Checkpoint:
    """The flow of `policy` and its T; critic, target critic and value of `critic`, γ and τ too.

    Of a flow that reads its time embedded, the result is a checkpoint of the paper's agent; of
    another, of an agent that exists in memory alone; with a critic of DQC, whose observations are
    [s, g], of DQC. Auxiliary networks are left out: they belong to what they were trained against.
    Raises InputError where the policy's agent has no flow, and where the two do not fit each other.
    """
    agent = policy.agent
    if not isinstance(agent, FlowAgent):
        raise InputError(f"{policy.source}: the agent {agent.name} has no flow to guide")
    for what in ("obs_dim", "flat_action_dim"):
        ours, theirs = getattr(policy, what), getattr(critic, what)
        if ours != theirs:
            raise InputError(
                f"{policy.source} has {what} {ours}, but the critic's {critic.source} {theirs}"
            )
    for name in _ALIKE:
        ours, theirs = getattr(policy.options, name), getattr(critic.options, name)
        if ours != theirs:
            raise InputError(
                f"{policy.source} has {name} {ours}, but the critic's {critic.source} {theirs}"
            )
    own = agent.reading(None).part(agent.field)
    field = replace(own, name="policy", target_of=None, acting=True)
    guide = critic.agent
    names = CRITIC_NAMES if not isinstance(guide, DQCAgent) else guide.part_names[1:]
    present = {name: critic.params[name] for name in names if name in critic.params}
    whole: Agent = IQL
    if isinstance(guide, DQCAgent):
        whole = guide.guiding(field, policy.source)
    else:
        critic.part("target_critic")
        if field.inputs != IQL.part("policy").inputs:
            whole = FlowAgent("combined", (field, *(guide.part(name) for name in present)))
    options = replace(
        policy.options,
        q_aggregation=critic.options.q_aggregation,
        discount=critic.options.discount,
        expectile=critic.options.expectile,
    )
    source = f"{policy.source} with the critic of {critic.source}"
    params = {"policy": policy.part(agent.field), **present}
    return Checkpoint(options, params=params, agent=whole, source=source)
