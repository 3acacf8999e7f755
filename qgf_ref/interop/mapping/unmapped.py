"""What is told of a file that cannot be mapped: how to name its parts, or that it is no agent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from qgf_ref.arrays import Array
from qgf_ref.errors import listing
from qgf_ref.interop.mapping.modules import MOST_TENSORS, network_of, words_of

MOST_NAMED = 8
"""Ways in which names begin, beyond which they are not listed as networks."""


def whose_begin_alike(names: Sequence[str]) -> str:
    """What a rule file may rename where all names begin with the same network; "" elsewhere."""
    parts = [re.split("[./]", name) for name in names]
    depth = next((i for i, p in enumerate(zip(*parts)) if len(set(p)) > 1), 0)
    ways = list(dict.fromkeys(".".join(p[: depth + 1]) for p in parts))
    if not depth or network_of(parts[0][0]) is None or len(ways) > MOST_NAMED:
        return ""
    example = json.dumps({"rename": dict(zip(ways, ("policy", "critic")))}, ensure_ascii=False)
    return f". All its names begin with {listing(ways)}: say which is which, such as {example}"


_OTHER_LAYERS = {
    "attention": frozenset(("attn", "attention", "qkv", "mha")),
    "convolutions": frozenset(("conv", "convs", "conv1d", "conv2d")),
}


def other_than_mlps(tensors: Mapping[str, Array], source: str) -> str:
    """That a file is no agent of ours, where its names or shapes tell layers that no MLP has.

    "" where they do not.
    """
    kinds: dict[str, str] = {}
    for name, array in list(tensors.items())[:MOST_TENSORS]:
        words = words_of(name[:1000])
        for kind, known in _OTHER_LAYERS.items():
            if words & known or (kind == "convolutions" and array.ndim > 3):
                kinds.setdefault(kind, name)
    if not kinds:
        return ""
    told = " and ".join(f"{kind} ({listing([name])})" for kind, name in kinds.items())
    return (
        f"{source} is no agent of ours: it holds {told}, and ours are MLPs. Networks of any other "
        "kind are sampled, audited and compared through qgf_ref.adapters: qgf-ref audit --flow "
        "my_module:build"
    )
