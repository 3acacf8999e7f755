"""A foreign file's tensors mapped to our parameters by their names, order and shapes.

Nothing is guessed: where two readings remain, and where a tensor is left over, this is an error
that shows the mapping found so far, and a rule file (`mapping/by_rules.py`) decides. What training
checkpoints hold beside parameters is passed over or asked about (`mapping/beside.py`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.beside import is_bookkeeping, sorted_out
from qgf_ref.interop.mapping.layers import KnownWidths, layers_of
from qgf_ref.interop.mapping.mapping import CRITICS, Entry, NameMapping, mapping_error
from qgf_ref.interop.mapping.modules import (
    Module,
    NetworkModules,
    Path,
    naming,
    networks_in,
    numbers,
    passing_over,
    stem,
)
from qgf_ref.interop.mapping.unmapped import whose_begin_alike

_REPARAMETRISED = re.compile(r"(^|[./])(parametrizations[./]\w+[./]|weight_(orig|[guv])$)")


def mapping_by_names(tensors: Mapping[str, Array], source: str) -> NameMapping:
    """The mapping of `tensors`; networks that the names do not mention are simply absent from it.

    Raises InputError when a network has two candidates, when no order of its layers, or more than
    one, fits the shapes, when the orientation of its kernels stays open, and when tensors are left.
    """
    ignored = [name for name in tensors if is_bookkeeping(name)]
    apart = set(ignored)
    weights = {name: array for name, array in tensors.items() if name not in apart}
    if parts := [name for name in weights if _REPARAMETRISED.search(name)]:
        raise InputError(
            f"{source}: {listing(parts, most=4)} ({len(parts)} in all) are parts of which PyTorch "
            "computes kernels (weight_norm, spectral_norm). Before saving, make kernels of them: "
            "torch.nn.utils.parametrize.remove_parametrizations(LINEAR, 'weight') or "
            "torch.nn.utils.remove_weight_norm(LINEAR), remove_spectral_norm(LINEAR)"
        )
    networks, beside = networks_in(weights, source)
    entries, notes = _entries(networks, list(weights), source)
    used = {e.source for e in entries}
    beside |= {
        name: network
        for network, found in networks.items()
        for module in found.modules.values()
        for name in module.names.values()
        if name not in used
    }
    if entries:
        passed, left, more = sorted_out(beside, weights, source)
        ignored, notes = [*ignored, *passed], [*notes, *more]
        if left:
            raise mapping_error(
                f"{source}: no parameter of ours fits {listing(left)} ({len(left)} tensors left "
                "over). If they do not matter, pass them over by a rule file (--rules R.json): "
                f"{passing_over(left, used)}; if they are a network, name it: "
                f"{naming(left, used)}",
                entries,
            )
    if ignored:
        notes.append(f"passed over as no parameters: {listing(ignored, most=4)}")
    without = _without_bias(entries)
    if without:
        places = listing([f"{network}.layers.{layer}" for network, layer in without], most=4)
        notes.append(f"without a bias in the file, which is 0 then: {places}")
    return NameMapping(entries, ignored, notes, without)


def _without_bias(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """(network, layer) where no member has a bias."""
    biased = {(e.network, e.layer) for e in entries if e.part == "bias"}
    return sorted({(e.network, e.layer) for e in entries} - biased)


def _entries(
    networks: Mapping[str, NetworkModules], names: Sequence[str], source: str
) -> tuple[list[Entry], list[str]]:
    """(entries, notes) of all networks, whose layers must follow each other in one way."""
    entries: list[Entry] = []
    notes: list[str] = []
    sizes = KnownWidths()
    # the value tells the observations' width, then the policy the actions'
    for network in ("value", "policy", *CRITICS):
        if network not in networks:
            continue
        members = _members(networks[network].modules, network, entries, source)
        found: list[Entry] = []
        for number, modules in enumerate(members):
            member = number if len(members) > 1 else None
            try:
                layers, note = layers_of(modules, network, sizes, source)
            except InputError as error:
                alike = whose_begin_alike(names)
                text = f"{error}; or write a rule file (--rules){alike}"
                raise mapping_error(text, entries) from error
            notes += [note] if note and note not in notes else []
            for i, layer in enumerate(layers):
                for part, (name, transpose) in layer.parts.items():
                    found.append(Entry(network, i, part, name, member, transpose))
            sizes = sizes.with_network(network, layers)
        entries += found
    return entries, notes


def _members(
    modules: Mapping[Path, Module], network: str, entries: Sequence[Entry], source: str
) -> list[Mapping[Path, Module]]:
    """The members of an ensemble whose tensors are apart: critic.0.…, critic_1.…, q1.…; else one.

    A number in the places of all modules tells members from layers when what it tells apart has
    the same names and shapes each time, with at least two kernels.
    """
    longest = min(len(path) for path in modules)
    if network not in CRITICS:
        return [modules]
    for position in range(longest):
        parts: dict[tuple[int, ...], dict[Path, Module]] = defaultdict(dict)
        for path, module in modules.items():
            rest = path[:position] + path[position + 1 :]
            parts[numbers(path)[position]][rest] = module
        stems = {stem(path)[position] for path in modules}
        looks = {
            tuple(sorted((rest, tuple(sorted(m.shapes.items()))) for rest, m in part.items()))
            for part in parts.values()
        }
        kernels = sum(m.kernel is not None for m in next(iter(parts.values())).values())
        if len(parts) < 2 or len(stems) > 1 or len(looks) > 1 or kernels < 2:
            continue
        indices = sorted(parts)
        first = indices[0]
        if any(len(i) != 1 for i in indices) or [i[0] - first[0] for i in indices] != list(
            range(len(indices))
        ):
            raise mapping_error(
                f"{source}: members of the {network} are numbered "
                f"{listing([str(i) for i in indices])}; one is missing",
                entries,
            )
        return [parts[i] for i in indices]
    return [modules]
