"""Agents by name: ours, and a user's own as "package.module:AGENT"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.cfgrl import CFGRL
from qgf_ref.agents.dac import DAC
from qgf_ref.agents.distill import DISTILL
from qgf_ref.agents.dqc import DQC
from qgf_ref.agents.edp import EDP
from qgf_ref.agents.fql import FQL
from qgf_ref.agents.gcfbc import GCFBC
from qgf_ref.agents.iql import IQL
from qgf_ref.agents.qam import QAM
from qgf_ref.agents.qsm import QSM
from qgf_ref.agents.robust_q import ROBUST_Q
from qgf_ref.errors import InputError, listing, unknown_name
from qgf_ref.user_code import import_named

AGENTS: dict[str, Agent] = {
    agent.name: agent for agent in (IQL, ROBUST_Q, CFGRL, DISTILL, EDP, FQL, QAM, DAC, QSM)
}
"""Every agent that this process knows and that is trained on tasks, by name."""
OF_GOALS: dict[str, Agent] = {DQC.name: DQC}
"""Those that are trained on goals."""
UNTRAINED: dict[str, Agent] = {GCFBC.name: GCFBC}
"""Those whose files are read, of networks that nothing here trains."""


def register_agent(agent: Agent) -> Agent:
    """Make an agent known by its name. Raises InputError when another one has that name."""
    if AGENTS.setdefault(agent.name, agent) is not agent:
        raise InputError(f"there is another agent named {agent.name!r}: give yours another name")
    return agent


def agent_named(name: str) -> Agent:
    """The agent of a name, or the one at "package.module:AGENT", which is known from then on.

    Raises InputError, listing the valid names, on a name that is none, and when what is there is no
    agent.
    """
    if ":" in name:
        agent = import_named(name, "the agent")
        if not isinstance(agent, Agent):
            raise InputError(
                f"{name} is a {type(agent).__name__}, not a qgf_ref.agents.agent.Agent"
            )
        return OF_GOALS.get(agent.name) or register_agent(agent)
    if name in OF_GOALS:
        return OF_GOALS[name]
    if name not in AGENTS:
        raise unknown_name("agent", name, (*AGENTS, *OF_GOALS, "package.module:AGENT"))
    return AGENTS[name]


def agent_with(name: str, settings: Mapping[str, Any]) -> Agent:
    """The agent of a name with these of its own settings, the others at their defaults.

    Raises InputError as `agent_named`, and on a setting that is another agent's, saying whose.
    """
    agent = agent_named(name)
    for each in settings:
        owners = owners_of(each)
        if each not in agent.stated and owners:
            own = listing(agent.stated) if agent.stated else "none"
            raise InputError(
                f"{each} is a setting of {', '.join(owners)}; the agent {agent.name} has {own}"
            )
    return agent.having(settings)


def owners_of(setting: object) -> list[str]:
    """The names of the agents that have a setting of this name."""
    known = (*AGENTS.values(), *OF_GOALS.values())
    return [agent.name for agent in known if setting in agent.stated]


def agent_of_file(name: str, source: str) -> Agent:
    """The agent that a file says it is of. Raises InputError when this process does not know it.

    A file names no code to import: whoever opens it says where its agent is.
    """
    if name in OF_GOALS | UNTRAINED:
        return (OF_GOALS | UNTRAINED)[name]
    if name not in AGENTS:
        raise InputError(
            f"{source} is of the agent {listing([name])}, which is not among those known here "
            f"({', '.join(AGENTS)}): say where it is, with --agent package.module:AGENT"
        )
    return AGENTS[name]
