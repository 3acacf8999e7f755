"""Names of a foreign file taken apart: network, place within it, kind of module.

A name such as `agent.critic_1.net.0.weight` has parts between dots, slashes or double underscores.
The innermost part whose words say so names the network (NETWORK_WORDS below; see `Owners`); a
number in it stays part of the place. The last part says what the tensor is: `weight` (out, in) as
in PyTorch, `kernel` (in, out) as in flax, `bias`, and LayerNorm's `scale` and `offset` (also
`gamma` and `beta`, or `weight` and `bias`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.mapping import mapping_error

Path = tuple[str, ...]

_ALIASES = {
    "policy": "policy, actor, pi, flow, velocity, velocity field, vector field, actor flow, "
    "policy flow, flow policy, bc, bc flow, bc policy, bc actor, actor bc flow, behavior policy, "
    "behaviour policy, flow matching",
    "critic": "critic, critics, q, qs, qf, qfs, q value, q values, qvalue, qvalues, qnet, q critic",
    "value": "value, values, v, vf, vnet, baseline",
}
NETWORK_WORDS = {
    frozenset(words.split()): network
    for network, aliases in _ALIASES.items()
    for words in aliases.split(", ")
}
# fmt: off
_FILLER = frozenset((
    "net", "nets", "network", "networks", "model", "module", "modules", "function", "func", "fn",
    "ensemble", "online", "main", "local", "current", "twin", "double", "soft", "state", "dict",
    "params", "parameters", "weights", "ckpt", "checkpoint",
))
_TARGET = frozenset(("target", "targets", "targ"))
_WRAPPERS = frozenset((
    "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
))
# fmt: on
"""What torch.compile, FSDP and Lightning put into names."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LEAF = re.compile(r"(kernel|weight|w|bias|b|scale|gamma|offset|beta)_?([0-9]{1,3})?", re.I)
_ROLES = {"b": "bias", "gamma": "scale", "beta": "offset"}
NUMBER = re.compile(r"[0-9]+")
MOST_TENSORS = 5000
_LONGEST, _MOST_PARTS = 1000, 32
_SEPARATOR = re.compile(r"[./]|__")
_SUFFIX = re.compile(r"(:[0-9]+|\.(raw_)?value)$")
"""What TensorFlow and flax's NNX put after the name of a variable."""


@dataclass
class Module:
    """The tensors at one place: {"weight" or "kernel" or "w", "bias", "scale", "offset": name}."""

    names: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def kernel(self) -> str | None:
        """The role under which there is a kernel: kernel, weight or w, or None."""
        for role in ("kernel", "weight", "w"):
            if role in self.names and not self._is_norm:
                return role
        return None

    @property
    def _is_norm(self) -> bool:
        weight = self.shapes.get("weight")
        return weight is not None and weight == self.shapes.get("bias")

    def norm(self) -> dict[str, str] | None:
        """{"scale": name, "offset": name} if there is a LayerNorm."""
        if self._is_norm:
            return {"scale": self.names["weight"], "offset": self.names["bias"]}
        if "scale" not in self.names:
            return None
        offset = self.names.get("offset", None if self.kernel else self.names.get("bias"))
        return None if offset is None else {"scale": self.names["scale"], "offset": offset}


@dataclass
class NetworkModules:
    """A network's modules by place, and the stems of the names under which they were found."""

    modules: dict[Path, Module] = field(default_factory=lambda: defaultdict(Module))
    stems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedPlace:
    """Where a tensor is by its name.

    network  whose it is
    path     of its module: the parts of the name without the role, and without what names the
             network, of which the number stays
    role     kernel, weight, w, bias, scale or offset; None where the last part is none of these
    prefix   the parts up to the one that names the network, each number as #
    """

    network: str
    path: Path
    role: str | None
    prefix: str


def numbers(path: Path) -> tuple[tuple[int, ...], ...]:
    """The numbers in each part."""
    return tuple(tuple(int(n) for n in NUMBER.findall(part)) for part in path)


def stem(path: Path) -> Path:
    """The parts with every number replaced by #."""
    return tuple(NUMBER.sub("#", part) for part in path)


def words_of(part: str) -> set[str]:
    """The words in a part of a name, in lower case."""
    return {word.lower() for word in _WORD.findall(part) if not word.isdigit()}


def parts_of(name: str) -> list[str]:
    """The parts of a name, without what wraps modules or variables in it."""
    parts = _SEPARATOR.split(_SUFFIX.sub("", name))
    return [part.removeprefix("ens_p_") for part in parts if part not in _WRAPPERS] or [name]


def module_of(parts: Sequence[str]) -> tuple[Path, str | None]:
    """(place of the module, role of the tensor in it); None where the last part is no role."""
    leaf = _LEAF.fullmatch(parts[-1])
    if leaf is None:
        return tuple(parts[:-1]), None
    role = _ROLES.get(leaf[1].lower(), leaf[1].lower())
    return (*parts[:-1], *([leaf[2]] if leaf[2] else [])), role


def network_of(part: str, targeted: bool = False) -> str | None:
    """The network that a part of a name stands for, in a place where `targeted` ones stand."""
    words = words_of(part)
    targeted = targeted or bool(words & _TARGET)
    network = NETWORK_WORDS.get(frozenset(words - _TARGET - _FILLER))
    if network is None or not targeted:
        return network
    return "target_critic" if network == "critic" else None


def _chain(parts: Sequence[str]) -> list[tuple[int, str]]:
    """The parts that name networks, outermost first: (index, network).

    Each, or one before it, or any that says nothing else, says whether a target network is meant.
    """
    mentions = [words_of(part) for part in parts[:-1]]
    targeted = any(words & _TARGET and words <= _TARGET | _FILLER for words in mentions)
    chain: list[tuple[int, str]] = []
    for i, part in enumerate(parts[:-1]):
        targeted = targeted or bool(mentions[i] & _TARGET)
        network = network_of(part, targeted)
        if network is not None:
            chain.append((i, network))
    return chain


class Owners:
    """Which networks' words name what owns networks of its own: `policy` in policy.actor, …"""

    def __init__(self, names: Iterable[Sequence[str]]) -> None:
        self._below: dict[Path, set[str | None]] = defaultdict(set)
        for parts in names:
            chain = [*_chain(parts), None]
            for here, below in pairwise(chain):
                if here is not None:
                    prefix = stem(tuple(parts[: here[0] + 1]))
                    self._below[prefix].add(None if below is None else below[1])

    def _owns(self, prefix: Path, network: str, below: str, deeper: Sequence[Path]) -> bool:
        """Whether the network's part at `prefix` owns the one below, rather than being it.

        A policy owns critics; whatever has two networks below owns them; and so does what has
        another one below and nothing else, save that any network's own may be called a value; and
        what has but itself below (policy.policy.…), if one of those `deeper` owns two.
        """
        networks = self._below[stem(prefix)]
        if networks == {network}:
            return any(len(self._below[stem(p)] - {None}) > 1 for p in deeper)
        if (network == "policy" and below.endswith("critic")) or len(networks - {None}) > 1:
            return True
        return below not in (network, "value") and None not in networks

    def place(self, parts: Sequence[str]) -> NamedPlace | None:
        """Where a tensor of that name is: in the innermost of the networks that it mentions."""
        chain = _chain(parts)
        if not chain:
            return None
        i, network = chain[0]
        prefixes = [tuple(parts[: j + 1]) for j, _ in chain]
        for n, (j, below) in enumerate(chain[1:], 1):
            if not self._owns(prefixes[n - 1], network, below, prefixes[n:]):
                break
            i, network = j, below
        path, role = module_of(parts)
        number = "_".join(NUMBER.findall(parts[i]))
        path = (*path[:i], number, *path[i + 1 :])
        return NamedPlace(network, path, role, ".".join(stem(tuple(parts[: i + 1]))))


def networks_in(
    tensors: Mapping[str, Array], source: str
) -> tuple[dict[str, NetworkModules], dict[str, str | None]]:
    """(networks, names that are no parameter of one, each with the network that it mentions).

    Raises InputError when a file has too many tensors, two tensors for one role, or two
    candidates for a network.
    """
    if len(tensors) > MOST_TENSORS:
        raise InputError(f"{source} has {len(tensors)} tensors; at most {MOST_TENSORS} are mapped")
    networks: dict[str, NetworkModules] = defaultdict(NetworkModules)
    left: dict[str, str | None] = {}
    parts = {n: parts_of(n) for n in tensors if len(n) <= _LONGEST}
    parts = {name: split for name, split in parts.items() if len(split) <= _MOST_PARTS}
    owners = Owners(parts.values())
    for name, array in tensors.items():
        place = owners.place(parts[name]) if name in parts else None
        if place is None or place.role is None:
            left[name] = None if place is None else place.network
            continue
        role, network = place.role, networks[place.network]
        network.stems.setdefault(place.prefix, name)
        if len(network.stems) > 1:
            continue
        module = network.modules[place.path]
        if role in module.names or (role in ("kernel", "weight", "w") and module.kernel):
            rival = module.names.get(role) or module.names[module.kernel or ""]
            raise mapping_error(
                f"{source}: {listing([rival, name])} are two candidates for one parameter", ()
            )
        module.names[role], module.shapes[role] = name, array.shape
    for name, network in networks.items():
        if len(network.stems) > 1:
            first, second = list(network.stems.values())[:2]
            raise mapping_error(
                f"{source}: {len(network.stems)} candidates for the {name}: "
                f"{listing(network.stems)} (such as {listing(network.stems.values())}); say which "
                f"to pass over by a rule file (--rules R.json): {passing_over([first], [second])} "
                f"or {passing_over([second], [first])}",
                (),
            )
    return networks, left


def passing_over(names: Iterable[str], kept: Iterable[str]) -> str:
    """What a rule file says that passes over `names`, and nothing of `kept`."""
    globs = [f"{start}*" if start[-1] in "./" else start for start in _starts(names, kept)]
    text = json.dumps({"ignore": globs[:8] + ["…"] * (len(globs) > 8)}, ensure_ascii=False)
    return text if text.isprintable() and len(text) < 400 else '{"ignore": [NAMES, * for anything]}'


def naming(names: Iterable[str], kept: Iterable[str]) -> str:
    """What a rule file says that makes a network of `names`, and of nothing of `kept`."""
    first = _starts(names, kept)[0].rstrip("./")
    text = json.dumps({"rename": {first: "target_critic"}}, ensure_ascii=False)
    return text if text.isprintable() and len(text) < 200 else '{"rename": {NAME: NETWORK}}'


def _starts(names: Iterable[str], kept: Iterable[str]) -> list[str]:
    """How `names` begin, up to the first dot or slash up to which none of `kept` does so."""
    kept = list(kept)[:MOST_TENSORS]
    starts = []
    for name in list(names)[:200]:
        ends = [m.end() for m in re.finditer(r"[./]", name)]
        own = (name[:e] for e in ends if not any(k.startswith(name[:e]) for k in kept))
        starts.append(next(own, name))
    return list(dict.fromkeys(starts))
