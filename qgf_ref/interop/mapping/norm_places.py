"""Whether each LayerNorm of a foreign file acts behind its layer, as here, or before it.

x + W f(LayerNorm(x)), pre-norm, has the names and often the shapes of x + f(LayerNorm(W x)). Three
things tell them apart: a numbered list that holds both (net.0, net.1); the order of a file, which
is that of declaration unless it is the alphabet's; and widths, since a LayerNorm before a layer has
those of its input. Of LayerNorms that one name with a number holds (norms.0, norms.1), one that
is told tells all. What nothing tells is asked about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qgf_ref.interop.mapping.mapping import Entry, mapping_error
from qgf_ref.interop.mapping.modules import Path, module_of, parts_of, stem
from qgf_ref.interop.mapping.unmapped import ADAPTER

WHERE_IT_ACTS = (
    f"If LayerNorm acts before its layer (pre-norm, W f(LayerNorm(x))), {ADAPTER}; if behind it, "
    'say so by a rule file (--rules R.json) with {"gaps": "as ours"}'
)


class OpenPlace(NamedTuple):
    """A LayerNorm, `scale`, that may act before its layer, `kernel`, and why it may."""

    kernel: str
    scale: str
    why: str


def require_norms_behind(
    entries: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise InputError where a LayerNorm may act before its layer. shapes: of all tensors by name,
    in the file's order.
    """
    place = open_place(entries, shapes)
    if place is not None:
        raise mapping_error(
            f"{source}: {place.why}. {WHERE_IT_ACTS}", [e for e in entries if e.source in place[:2]]
        )


def open_place(entries: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]]) -> OpenPlace | None:
    """The first LayerNorm that may act before its layer; arguments as above."""
    names = list(shapes)
    position = {} if names == sorted(names) else {name: i for i, name in enumerate(names)}
    layers: dict[tuple[str, int | None, int], dict[str, str]] = defaultdict(dict)
    for entry in entries:
        layers[entry.network, entry.member, entry.layer][entry.part] = entry.source
    told: dict[tuple[str, int | None, Path], bool] = {}
    waiting: dict[tuple[str, int | None, Path], dict[str, str]] = {}
    for (network, member, _), parts in layers.items():
        if not {"kernel", "scale"} <= set(parts):
            continue
        kernel, scale = parts["kernel"], parts["scale"]
        places = [module_of(parts_of(name))[0] for name in (kernel, scale)]
        if places[0] == places[1] or stem(places[0]) == stem(places[1]):
            continue
        order = _declared(parts, position)
        if order == "norm first":
            return OpenPlace(
                kernel, scale,
                f"{scale} is declared before {kernel}, behind which LayerNorm acts here",
            )  # fmt: skip
        group = network, member, stem(places[1])
        fan_in, fan_out = shapes[kernel][-2:]
        told[group] = told.get(group, False) or order == "kernel first" or fan_in != fan_out
        waiting.setdefault(group, parts)
    for group, parts in waiting.items():
        if not told[group]:
            kernel, scale = parts["kernel"], parts["scale"]
            return OpenPlace(
                kernel, scale,
                f"neither names nor widths nor the order of the file tell whether {scale} acts "
                f"behind {kernel}, as here, or before it",
            )  # fmt: skip
    return None


def _declared(parts: Mapping[str, str], position: Mapping[str, int]) -> str:
    """Which stands first in the file, "norm first" or "kernel first"; "" where its order is no
    declaration's: all tensors of a layer follow each other there, which they do in no other by
    chance.
    """
    places = sorted((position.get(name, -1), part) for part, name in parts.items())
    if not position or places[-1][0] - places[0][0] != len(places) - 1:
        return ""
    order = [part for _, part in places]
    last_of_norm = max(order.index(part) for part in ("scale", "offset") if part in parts)
    return "norm first" if last_of_norm < order.index("kernel") else "kernel first"
