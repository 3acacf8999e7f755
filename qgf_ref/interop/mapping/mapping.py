"""Which tensor of a foreign file becomes which parameter of ours, and the networks made of that."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qgf_ref.agents.iql import IQL
from qgf_ref.agents.shapes import with_ensembles
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.native import NETWORKS, present_parts
from qgf_ref.interop.parameter_file import parameter_groups
from qgf_ref.nets.mlp import MLPParams

CRITICS = ("critic", "target_critic")
TARGET_CRITIC_SOURCES = ("critic",)
"""What a missing target critic may be made of, on request only."""


@dataclass(frozen=True)
class Entry:
    """One tensor's way: `source` of the file becomes `part` of a layer.

    member     its index in the ensemble when members are tensors of their own, else None
    transpose  whether the last two axes are exchanged, (out, in) → (in, out)
    """

    network: str
    layer: int
    part: str
    source: str
    member: int | None = None
    transpose: bool = False

    @property
    def target(self) -> str:
        """Our name: policy.layers.0.kernel."""
        return f"{self.network}.layers.{self.layer}.{self.part}"


@dataclass(frozen=True)
class NameMapping:
    """All entries of a file, the tensors passed over, and what to tell the user.

    without_bias  (network, layer) of kernels that have none: `assemble` makes it of zeros
    """

    entries: Sequence[Entry]
    ignored: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    without_bias: Sequence[tuple[str, int]] = ()

    def renamed(self, names: Mapping[str, str]) -> NameMapping:
        """The same with other names for the tensors of the file."""
        entries = [replace(e, source=names[e.source]) for e in self.entries]
        return replace(self, entries=entries, ignored=[names[name] for name in self.ignored])

    def sources(self) -> dict[str, str]:
        """{our name: the name or names in the file}, in our order."""
        names: dict[str, list[str]] = defaultdict(list)
        for entry in sorted(self.entries, key=_place):
            names[entry.target].append(entry.source)
        absent = {
            f"{network}.layers.{layer}.bias": "(none: 0)" for network, layer in self.without_bias
        }
        return {**{target: ", ".join(theirs) for target, theirs in names.items()}, **absent}


def _place(entry: Entry) -> tuple[int, int, int, int]:
    parts = ("kernel", "bias", "scale", "offset")
    return (
        NETWORKS.index(entry.network),
        entry.layer,
        parts.index(entry.part),
        entry.member or 0,
    )


def mapping_error(message: str, entries: Iterable[Entry]) -> InputError:
    """`message` with the mapping found so far, bounded in length."""
    ordered = sorted(entries, key=_place)
    first = ", ".join(f"{e.target} ← {listing([e.source])}" for e in ordered[:6])
    more = f", … ({len(ordered)} in all)" if len(ordered) > 6 else ""
    return InputError(f"{message}. Mapping found so far: {first or 'none'}{more}")


def complete(
    mapping: NameMapping, target_critic_from: str | None, source: str, names: Iterable[str] = ()
) -> NameMapping:
    """The mapping with a target critic, made of `target_critic_from` when the file has none.

    names  of the file, for errors
    Raises InputError when the file has no target critic and nothing was chosen, when it has one
    and something was, and when another network is missing.
    """
    present = {e.network for e in mapping.entries}
    if target_critic_from is not None:
        if target_critic_from not in TARGET_CRITIC_SOURCES:
            raise InputError(
                f"the target critic can be made of: {', '.join(TARGET_CRITIC_SOURCES)}; got "
                f"{listing([target_critic_from])}"
            )
        if "target_critic" in present:
            raise mapping_error(
                f"{source} has a target critic of its own: leave out --target-critic-from",
                [e for e in mapping.entries if e.network == "target_critic"],
            )
        copies = [
            replace(e, network="target_critic")
            for e in mapping.entries
            if e.network == target_critic_from
        ]
        note = f"the target critic is a copy of the {target_critic_from}, as asked"
        without = [(n, i) for n, i in mapping.without_bias if n == target_critic_from]
        mapping = replace(
            mapping,
            entries=[*mapping.entries, *copies],
            notes=[*mapping.notes, note],
            without_bias=[*mapping.without_bias, *(("target_critic", i) for _, i in without)],
        )
        present = {e.network for e in mapping.entries}
    missing = [part.name for part in IQL.parts if part.acting and part.name not in present]
    if missing == ["target_critic"] and "critic" in present:
        raise mapping_error(
            f"{source} has no target critic. If the critic itself shall guide, say so: "
            "--target-critic-from critic (in Python: target_critic_from='critic')",
            mapping.entries,
        )
    absent = [name for name in NETWORKS if name not in present]
    if absent and not missing:
        note = (
            f"none of its names says which tensors are the {' and the '.join(absent)}: to train, "
            "and to check an update, they are needed"
        )
        mapping = replace(mapping, notes=[*mapping.notes, note])
    if missing:
        if "policy" in present and not {*CRITICS} & present:
            raise mapping_error(
                f"{source} holds a policy and no critic: it is no agent by itself, and nothing "
                "guides it. Give the file of the whole agent, or a directory that holds the "
                "critic's file too; a flow without a critic is sampled and verified through an "
                "adapter (qgf_ref.adapters), with the estimator none",
                mapping.entries,
            )
        missing = absent
        firsts = list(dict.fromkeys(re.split("[./]", name)[0] for name in names))
        example = json.dumps({"rename": {listing(firsts[:1]): missing[0]}})
        hint = f", such as {example}: its names begin with {listing(firsts)}" if firsts else ""
        raise mapping_error(
            f"{source} is not a qgf_ref checkpoint, and none of its names says which tensors are "
            f"the {' and the '.join(missing)}; write a rule file (--rules, see qgf-ref convert -h)"
            f"{hint}",
            mapping.entries,
        )
    return mapping


def assemble(
    tensors: Mapping[str, Array], mapping: NameMapping, source: str
) -> dict[str, MLPParams]:
    """The networks by part; critics always with an ensemble axis.

    Raises InputError when two tensors become the same parameter, when members are missing or
    differ in shape, and on layers that lack a part.
    """
    by_target: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(mapping.entries, key=_place):
        by_target[entry.target].append(entry)
    ours: dict[str, Array] = {}
    for target, entries in by_target.items():
        members = [e.member for e in entries]
        if members not in ([None], list(range(len(members)))):
            what = "members " + ", ".join("all" if m is None else str(m) for m in members)
            raise mapping_error(
                f"{source}: {target} is made of {what}; expected one tensor, or the members from "
                "0 on, each once",
                entries,
            )
        arrays = [_oriented(tensors[e.source], e) for e in entries]
        if len({a.shape for a in arrays}) != 1:
            shapes = listing([str(a.shape) for a in arrays])
            raise mapping_error(f"{source}: members of {target} have shapes {shapes}", entries)
        stacked = arrays[0] if members == [None] else np.stack(arrays)
        ours[target] = np.ascontiguousarray(stacked)
    for network, layer in mapping.without_bias:
        kernel = ours[f"{network}.layers.{layer}.kernel"]
        shape = (*kernel.shape[:-2], kernel.shape[-1])
        ours.setdefault(f"{network}.layers.{layer}.bias", np.zeros(shape, kernel.dtype))
    networks = parameter_groups(ours, present_parts(IQL, ours), source)
    return with_ensembles(IQL, networks)


def _oriented(array: Array, entry: Entry) -> Array:
    if entry.transpose:
        if array.ndim < 2:
            raise mapping_error(
                f"{entry.target} has {array.ndim} axes: nothing to transpose", [entry]
            )
        return array.swapaxes(-1, -2)
    if entry.part != "kernel" and array.ndim == 3 and array.shape[1] == 1:
        return array[:, 0]  # a bias (E, 1, out), stored so that it broadcasts
    return array
