"""Gaps in numbered names: room for modules without parameters, which a file does not mention.

In a numbered list (net.0, net.1, net.3 of torch.nn.Sequential) an activation has a number and no
parameters, and so has a LayerNorm without scale and offset. The network read from a file is
Linear, LayerNorm where there is one, activation; a list fits it when it begins at 0, when no number
is left between a Linear and its LayerNorm, and when as many, none or one, are left after every
hidden layer. LayerNorms elsewhere (norms.0, ln1, LayerNorm_0) fit when no hidden layer before the
last of them is without. With norm_after_activation the one number is left before the LayerNorm, and
none behind it; a list that fits that alone says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from qgf_ref.agents.by_network import ALL
from qgf_ref.errors import listing
from qgf_ref.interop.mapping.mapping import Entry, mapping_error
from qgf_ref.interop.mapping.modules import Path, module_of, numbers, parts_of, stem
from qgf_ref.interop.mapping.norm_places import WHERE_IT_ACTS
from qgf_ref.interop.mapping.unmapped import ADAPTER

_AS_OURS = (
    'a rule file (--rules R.json) with {"gaps": "as ours"} says that what is there does nothing '
    "when the network acts (Dropout, Identity)"
)


def require_no_gaps(entries: Sequence[Entry], source: str, norm_last: Collection[str] = ()) -> None:
    """Raise InputError where the numbering of the names leaves room for another network.

    norm_last  the networks in which LayerNorm is said to follow the activation; or "all"
    """
    layers: dict[tuple[str, int | None], dict[int, dict[str, Path]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for entry in entries:
        place, role = module_of(parts_of(entry.source))
        if role is not None and entry.part in ("kernel", "scale"):
            layers[entry.network, entry.member][entry.layer][entry.part] = place
    for (network, _), by_layer in layers.items():
        places = [by_layer[i] for i in sorted(by_layer)]
        own = network.removeprefix("target_")
        last = bool({ALL, own} & set(norm_last))
        problem = next(_problems(places, last), None)
        if problem is not None:
            mine = [e for e in entries if e.network == network]
            other = next(_problems(places, norm_last=True), None) or next(_lost_norms(places), None)
            if not last and other is None:
                problem += (
                    f". If an activation stands there (Linear, GELU, LayerNorm), say so: "
                    f"--norm-after-activation {own} (in Python norm_after_activation='{own}')"
                )
            raise mapping_error(f"{source}: the {network}: {problem}; {_AS_OURS}; {ADAPTER}", mine)
        lost = next(_lost_norms(places), None)
        if lost is not None:
            mine = [e for e in entries if e.network == network]
            raise mapping_error(f"{source}: the {network}: {lost}. {WHERE_IT_ACTS}", mine)


def _problems(places: Sequence[Mapping[str, Path]], norm_last: bool) -> Iterator[str]:
    """What does not fit; places: of each layer's kernel and, where it has one, LayerNorm."""
    kernels = [place["kernel"] for place in places if "kernel" in place]
    norms = [place.get("scale") for place in places]
    if len(kernels) < max(2, len(places)):
        return
    rooms: dict[int, str] = {}
    for i, kernel in enumerate(kernels):
        norm = norms[i]
        inside = None if norm is None else _room(kernel, norm)
        if norm is not None and inside:
            if not norm_last:
                yield f"{_between(kernel, norm, inside)}, where its LayerNorm follows at once here"
            if inside > 1:
                yield f"{_between(kernel, norm, inside)}, where only the activation is here"
        if i + 1 == len(kernels):
            break
        room = _room(norm or kernel, kernels[i + 1])
        if norm is not None and norm_last and inside is not None and room is not None:
            if room:
                yield (
                    f"{_between(norm, kernels[i + 1], room)}, where nothing follows a LayerNorm "
                    "with norm_after_activation"
                )
            rooms.setdefault(inside, _between(kernel, norm, inside))
            continue
        if room is None and norm is not None:
            room = _room(kernel, kernels[i + 1])
            room = None if room is None or stem(norm) == stem(kernel) else room
        if room is None:
            continue
        between = _between(norm or kernel, kernels[i + 1], room)
        if room > 1:
            yield f"{between}, where only the activation is here"
        rooms.setdefault(room, between)
    if len(rooms) > 1:
        yield f"{' but '.join(rooms.values())}: an activation comes after every hidden layer here"
    yield from _starts(kernels)


def _room(before: Path, after: Path) -> int | None:
    """How many numbers of their list are left between two modules; None: in no list together."""
    if stem(before) != stem(after):
        return None
    flat = [sum(numbers(path), ()) for path in (before, after)]
    difference = next((b - a for a, b in zip(*flat, strict=True) if a != b), 0)
    return difference - 1 if difference > 0 else None


def _between(before: Path, after: Path, room: int) -> str:
    names = [listing([".".join(filter(None, path))]) for path in (before, after)]
    count = {0: "no module", 1: "one module"}.get(room, f"{room} modules")
    return f"the numbering leaves room for {count} without parameters between {' and '.join(names)}"


def _starts(kernels: Sequence[Path]) -> Iterator[str]:
    """Lists that begin after 0: numbers alone that tell layers apart, not members."""
    first = kernels[0]
    for i, part in enumerate(first):
        varies = any(len(k) > i and k[:i] == first[:i] and k[i] != part for k in kernels)
        if part.isdecimal() and int(part) > 0 and varies:
            name = listing([".".join(filter(None, first))])
            yield f"its list begins at {name}: something without parameters comes before it"


def _lost_norms(places: Sequence[Mapping[str, Path]]) -> Iterator[str]:
    """Hidden layers without a LayerNorm, though a later one has it, where names leave it open: so
    look blocks of pre-norm behind a plain first layer, in whatever order the names come.
    """
    kernels = [place["kernel"] for place in places if "kernel" in place]
    norms = [place.get("scale") for place in places]
    if len(kernels) < max(2, len(places)):
        return
    last = max((i for i, norm in enumerate(norms) if norm is not None), default=-1)
    for i in range(last):
        in_list = _room(kernels[i], kernels[i + 1]) is not None and any(
            norm is not None and stem(norm) == stem(kernels[i]) for norm in norms
        )
        if norms[i] is None and not in_list:
            name = listing([".".join(filter(None, kernels[i]))])
            yield f"{name} is followed by no LayerNorm with parameters, though a later layer is"
