"""Checkpoints whose tensors bear other names: any `.pt`, flax `.msgpack`, safetensors or npz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.by_network import network_names
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import IQL
from qgf_ref.agents.options import options_from
from qgf_ref.agents.registry import agent_of_file
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.file_kinds import naming_the_cache
from qgf_ref.interop.format import Format, our_names
from qgf_ref.interop.mapping.by_names import mapping_by_names
from qgf_ref.interop.mapping.by_rules import RuleFile, mapping_by_rules, rule_file
from qgf_ref.interop.mapping.gaps import require_no_gaps
from qgf_ref.interop.mapping.mapping import NameMapping, assemble, complete
from qgf_ref.interop.mapping.norm_places import OpenPlace, open_place, require_norms_behind
from qgf_ref.interop.mapping.unmapped import other_than_mlps, require_said_residual
from qgf_ref.interop.native import present_parts
from qgf_ref.interop.official import read_flags
from qgf_ref.interop.official_agents import with_stated
from qgf_ref.interop.parameter_file import json_object, parameter_groups

Rules = str | Path | Mapping[str, Any] | None
"""A rule file, or what is in one (`qgf_ref.interop.mapping.by_rules`)."""


def mapped(
    tensors: Mapping[str, Array],
    said: RuleFile,
    options: Mapping[str, Any],
    source: str,
    ours: bool = False,
) -> NameMapping:
    """Which tensor is which parameter, by the rules or by the names that they leave.

    options  what is known of them, as it was given
    ours     whether we wrote the file: its numbers are those of layers
    Raises InputError as `load_foreign`, and where the names tell a network that the options do not.
    """
    if said.rules:
        mapping = mapping_by_rules(tensors, said, source)
        names = {name: name for name in tensors}
    else:
        names, passed = said.refined(tensors, source)
        mapping = mapping_by_names({new: tensors[old] for new, old in names.items()}, source)
        if passed:
            notes = [*mapping.notes, f"passed over as asked: {listing(passed)}"]
            mapping = replace(mapping, ignored=[*mapping.ignored, *passed], notes=notes)
            names |= {name: name for name in passed}
    entries = [replace(entry, source=names[entry.source]) for entry in mapping.entries]
    require_said_residual(entries, options.get("residual"), source)
    if not ours:
        shapes = {new: np.shape(tensors[old]) for new, old in names.items()}
        if said.gaps_as_ours:
            mapping.notes.extend(_as_said(open_place(mapping.entries, shapes)))
        else:
            require_norms_behind(mapping.entries, shapes, source)
            last = network_names(options.get("norm_after_activation"), "norm_after_activation")
            require_no_gaps(mapping.entries, source, last)
    return mapping.renamed(names)


def _as_said(place: OpenPlace | None) -> list[str]:
    if place is None:
        return []
    return [
        f"{place.scale} acts behind {place.kernel}, as 'gaps' says: with LayerNorm before its "
        "layer this is another network"
    ]


def load_foreign(
    path: Path,
    form: Format,
    overrides: Mapping[str, Any],
    rules: Rules = None,
    target_critic_from: str | None = None,
) -> tuple[Checkpoint, NameMapping | None]:
    """(checkpoint, which tensor became which parameter), in the dtypes of the file.

    Of an npz that `convert` wrote of another agent than the paper's, whose names are ours, None.

    form                how it is read
    overrides           options that win over a flags.json beside the file, and that over the JSON
                        in its metadata
    rules               a rule file or its content (`mapping/by_rules.py`); without one, names and
                        shapes decide
    target_critic_from  "critic" where the file has no target critic

    Raises InputError on a file that is refused or damaged, on names that do not tell one mapping,
    and on options that are not given.
    """
    with naming_the_cache(path):
        file = form.read(path)
    stored = json_object(file.options, f"{path}: the stored options") if file.options else {}
    chosen = {k: v for k, v in overrides.items() if v is not None}
    agent = with_stated(agent_of_file(str(stored.get("agent", IQL.name)), str(path)), stored)
    if agent.parts != IQL.parts:
        return _of_another_agent(agent, path, form, file.tensors, {**stored, **chosen}), None
    flags = path / "flags.json" if path.is_dir() else path.with_name("flags.json")
    beside = read_flags(flags) if flags.exists() else {}
    told = {**stored, **beside, **chosen}
    said = rule_file(rules)
    try:
        mapping = mapped(file.tensors, said, told, str(path), ours=bool(stored))
        mapping = complete(mapping, target_critic_from, str(path), file.tensors)
    except InputError as error:
        # what cannot be an agent is told so, rather than how to name its tensors
        if rules is None and (why := other_than_mlps(file.tensors, str(path))):
            raise InputError(f"{why}. As the file of an MLP agent: {error}") from error
        raise
    mapping.notes.extend(file.notes)
    networks = assemble(file.tensors, mapping, str(path))
    options = options_from(told, str(path))
    return Checkpoint(options, params=networks, source=str(path), agent=agent), mapping


def _of_another_agent(
    agent: Agent, path: Path, form: Format, tensors: Mapping[str, Array], stated: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint in a file that says whose it is. Raises InputError on names not ours."""
    if form.names is not our_names:
        raise InputError(
            f"{path} is of the agent {agent.name} under the names of {form.name}, which are "
            "written and not read: give what it was converted from, or convert that to .npz"
        )
    params = parameter_groups(tensors, present_parts(agent, tensors), str(path))
    options = options_from(stated, str(path))
    return Checkpoint(options, params=params, source=str(path), agent=agent)
