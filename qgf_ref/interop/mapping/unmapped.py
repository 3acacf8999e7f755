"""What is told of a file that cannot be mapped: how to name its parts, or that it is no agent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qgf_ref.agents.by_network import ALL, NONE, network_names
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.mapping import Entry
from qgf_ref.interop.mapping.modules import MOST_TENSORS, network_of, parts_of, words_of

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


ADAPTER = (
    "a network that no option tells comes in through an adapter: flow = qgf_ref.adapters.torch("
    "policy, critic, action_shape=D, obs_dim=O, denoise_steps=T)"
)
"""What to do with a network that is no MLP of ours: the line of code."""
_OTHER_LAYERS = {
    "attention": frozenset(("attn", "attention", "qkv", "mha")),
    "convolutions": frozenset(("conv", "convs", "conv1d", "conv2d")),
    "recurrence": frozenset(("lstm", "gru", "rnn")),
    "layers that a condition modulates": frozenset(("film", "adaln", "modulation", "modulate")),
}
_TIMES = frozenset(("time", "times", "timestep", "timesteps", "t"))
_LEARNED = frozenset(("mlp", "emb", "embed", "embedder", "embedding", "proj", "encoder", "net"))
_BLOCKS = frozenset(("res", "residual", "residuals", "resblock", "resblocks", "resnet", "skip"))


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
        if words & _TIMES and words & _LEARNED and array.ndim > 1:
            kinds.setdefault("a learned time embedding", name)
    if not kinds:
        return ""
    told = " and ".join(f"{kind} ({listing([name])})" for kind, name in kinds.items())
    return (
        f"{source} is no agent of ours: it holds {told}, and ours are MLPs. Networks of any other "
        "kind are sampled, audited and compared through qgf_ref.adapters: qgf-ref audit --flow "
        f"my_module:build, where build() returns the flow of an adapter; {ADAPTER}"
    )


def require_said_residual(entries: Iterable[Entry], said: Any, source: str) -> None:
    """Raise InputError where names say that a network has residual blocks, and no option does.

    said  the option `residual` as it was given, None where it was not
    A block of several kernels, which no option tells, is refused unless it is said to be none.
    """
    networks = network_names(said, "residual")
    for entry in entries:
        own = entry.network.removeprefix("target_")
        block = _block(entry.source)
        if entry.part != "kernel" or block is None or said in (NONE, False):
            continue
        alike = {e.source for e in entries if e.part == "kernel" and _block(e.source) == block}
        if len(alike) > 1:
            raise InputError(
                f"{source}: the {own} has blocks of {len(alike)} kernels ({listing(alike)}), where "
                f"a residual block has one here; {ADAPTER}. If nothing is added to what they give, "
                "say --residual none"
            )
        if not {ALL, own} & set(networks):
            raise InputError(
                f"{source}: the {own} has residual blocks by its names ({listing([block])}). If "
                f"each is x + block(x), say --residual {own} (in Python residual='{own}'), if none "
                f"is, --residual none; {ADAPTER}"
            )


def _block(name: str) -> str | None:
    """The part of a name up to the number of a residual block: policy.res_blocks.0; else None."""
    parts = parts_of(name)
    for i, part in enumerate(parts):
        if words_of(part) & _BLOCKS:
            numbered = i + 1 < len(parts) and parts[i + 1].isdecimal()
            return ".".join(parts[: i + 1 + numbered])
    return None
