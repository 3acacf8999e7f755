"""How the official code stores each agent: which networks tell it, and its options' names there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.registry import agent_of_file
from qgf_ref.errors import InputError, listing

MODULES = "modules_"
"""What the names of networks begin with where one tree holds them all."""


@dataclass(frozen=True)
class OfficialAgent:
    """One kind of checkpoint of the official code.

    agent    ours
    network  of a tree that holds all networks, one that tells this agent; "": each network has a
             tree of its own
    flag     an option and its value that tell it, where the network does not
    renamed  their option → ours
    without  options that their code does not have, and what it does instead
    parts    ours → the name of its network there, where that is another
    conditional  whether its flow reads the label of CFGRL
    only     options that are supported at these values alone
    """

    agent: str
    network: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    flag: tuple[str, str] | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    conditional: bool = False

    def options(self, flags: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Options and settings by our names. Raises InputError on those that are not supported."""
        for name, value in self.only.items():
            if flags.get(name, value) != value:
                raise InputError(
                    f"{where}: {name} = {flags[name]!r} of the agent {self.agent} is not "
                    f"supported, only {value!r}"
                )
        return {**self.without, **{self.renamed.get(name, name): v for name, v in flags.items()}}


OFFICIAL = {
    "iql": OfficialAgent("iql"),
    "edp": OfficialAgent("edp"),
    "cfgrl": OfficialAgent("iql", parts={"policy": "actor"}, conditional=True),
    "fql": OfficialAgent(
        "fql", "actor_onestep_flow", {"flow_steps": "denoise_steps", "q_agg": "q_aggregation"}
    ),
    "dqc": OfficialAgent(
        "dqc",
        "action_critic",
        {"flow_steps": "denoise_steps", "q_agg": "q_aggregation", "kappa_b": "expectile"},
        {"activation": "gelu", "action_chunking": True},
        parts={"policy": "actor_bc"},
    ),
    "gcfbc": OfficialAgent(
        "gcfbc",
        "actor_flow",
        {"flow_steps": "denoise_steps"},
        {"activation": "gelu", "action_chunking": True, "q_aggregation": "min"},
        parts={"policy": "actor_flow"},
    ),
    "qam": OfficialAgent(
        "qam",
        "actor_fast",
        {"flow_steps": "denoise_steps"},
        {"activation": "gelu", "q_aggregation": "mean"},
        {"residual": False, "fql_alpha": 0.0, "edit_scale": 0.0},
    ),
    **{
        name: OfficialAgent(
            name,
            "actor",
            {"diffusion_steps": "denoise_steps"},
            {"activation": "gelu", "q_aggregation": "mean"},
            {"beta_schedule": "vp", "actor_layer_norm": False},
            ("actor_loss_type", name),
        )
        for name in ("dac", "qsm")
    },
}


def official_agent(
    networks: Mapping[str, Any], flags: Mapping[str, Any], where: str
) -> OfficialAgent:
    """The kind of a checkpoint whose one tree holds these networks. Raises InputError."""
    for kind in OFFICIAL.values():
        told = kind.flag is None or flags.get(kind.flag[0]) == kind.flag[1]
        if kind.network and kind.network in networks and told:
            return kind
    if "actor" in networks:
        raise InputError(
            f"{where}: a flags.json beside it must say actor_loss_type, dac or qsm, whose "
            "checkpoints look alike"
        )
    known = ", ".join(kind.network for kind in OFFICIAL.values() if kind.network)
    raise InputError(
        f"{where} is of no agent known here: it has {listing(networks)}, but none of {known}"
    )


def of_goals(networks: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What DQC's networks and options tell of ours: its flow knows no goals, its value does.

    Where arrays are missing, whoever reads them says so.
    """
    try:
        value, actor = networks["value"]["value_net"], networks["actor_bc"]["mlp"]
        widths = [net["Dense_0"]["kernel"].shape[-2] for net in (value, actor)]
        D = actor[max(name for name in actor if name.startswith("Dense"))]["bias"].shape[-1]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return {}
    told = {
        "policy_goals": False,
        "policy_network": "dqc",
        "goal_dim": widths[0] - widths[1] + D + 1,
    }
    told["use_chunk_critic"] = "chunk_critic" in networks
    if "policy_chunk_size" in values:
        told["horizon_length"] = values["policy_chunk_size"]
    return told


def with_stated(agent: Agent, values: Mapping[str, Any]) -> Agent:
    """The agent with those of its settings that `values` has."""
    return agent.having({name: values[name] for name in agent.stated if name in values})


def agent_of(kind: OfficialAgent, values: Mapping[str, Any]) -> Agent:
    """Our agent of that kind, with the settings among the values."""
    return with_stated(agent_of_file(kind.agent, "the official code"), values)
