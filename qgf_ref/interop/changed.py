"""A checkpoint with other options, or other settings of its agent, than its file tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import option_names, options_from
from qgf_ref.agents.registry import owners_of
from qgf_ref.errors import InputError, listing

ARGUMENTS = ("rules", "target_critic_from", "critic", "agent")
"""What `load` or a command takes beside options, under a flag of its own."""


def require_options(options: Mapping[str, Any]) -> None:
    """Raise InputError on a name that is no option, saying whose setting it is, if it is one."""
    unknown = sorted(set(options) - set(option_names()))
    if not unknown:
        return
    hint = "".join(
        f". {name} is a setting of {', '.join(owners_of(name))}: settings={{{name!r}: …}}"
        for name in unknown
        if owners_of(name)
    )
    raise InputError(
        f"unknown option {', '.join(unknown)}; the valid ones are: {', '.join(option_names())}"
        f"{hint}"
    )


def with_options(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint, evaluated with these options in the place of its own. Raises InputError on
    a name that is no option, and on values that it cannot have.
    """
    require_options(options)
    if not options:
        return checkpoint
    told = options_from({**checkpoint.options.stated(), **options}, checkpoint.source)
    return replace(checkpoint, options=told)


def with_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint as its agent with these settings has it.

    Raises InputError on what is no setting of it, saying what it is; on values that it cannot have;
    on a setting that the shapes of the networks have decided; and where a network is missing.
    """
    _require_names(checkpoint, settings)
    try:
        return _changed(checkpoint, settings)
    except _Decided as error:
        alone = [name for name in settings if not _fits(checkpoint, {name: settings[name]})]
        own = checkpoint.agent.stated
        asked, made = (
            ", ".join(
                f"{name}={json.dumps(values[name], default=str)}" for name in alone or settings
            )
            for values in (settings, own)
        )
        raise InputError(
            f"{asked} does not fit the networks of {checkpoint.source}, which were made with "
            f"{made}. Training has decided this: leave it out here, or train with it"
        ) from error


class _Decided(Exception):
    """The networks are not those of the changed agent."""


def _changed(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    agent = checkpoint.agent.having(settings)
    lacking = [name for name in agent.part_names if name not in checkpoint.params]
    if lacking and set(agent.part_names) != set(checkpoint.agent.part_names):
        raise InputError(
            f"{checkpoint.source} has no {listing(lacking)}, which {', '.join(settings)} asks for"
        )
    try:
        return replace(checkpoint, agent=agent)
    except InputError as error:
        raise _Decided from error


def _fits(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> bool:
    try:
        _changed(checkpoint, settings)
    except (_Decided, InputError):
        return False
    return True


def _require_names(checkpoint: Checkpoint, settings: Any) -> None:
    """Raise InputError unless all are settings of the checkpoint's agent."""
    if not isinstance(settings, Mapping):
        name, equals, value = str(settings).partition("=")
        write = f"; write settings={{{name!r}: {value!r}}}" if name and equals else ""
        raise InputError(
            "settings must map names to values, such as {'guide_output': 'probability'}, got "
            f"{settings!r}{write if isinstance(settings, str) else ''}"
        )
    agent = checkpoint.agent
    for name, value in settings.items():
        if name in agent.stated:
            continue
        if name in option_names():
            raise InputError(
                f"{name} is an option of the checkpoint, not a setting of its agent: give "
                f"--{str(name).replace('_', '-')} {value}, or load(…, {name}={value!r})"
            )
        if name in ARGUMENTS:
            flag = str(name).replace("_", "-")
            raise InputError(f"{name} is no setting of an agent: give --{flag} {value}")
        if owners := owners_of(name):
            has = f"settings {listing(agent.stated)}" if agent.stated else "no settings"
            raise InputError(
                f"the agent {agent.name} has {has}: {name} is a setting of {', '.join(owners)}"
            )
