"""Names of a foreign file taken apart: network, place within it, kind of module.

A name such as `agent.critic_1.net.0.weight` has parts between dots or slashes. The first part whose
words say so names the network (NETWORK_WORDS below); a number in it stays part of the place. The
last part says what the tensor is: `weight` (out, in) as in PyTorch, `kernel` (in, out) as in flax,
`bias`, and LayerNorm's `scale` and `offset` (also `gamma` and `beta`, or `weight` and `bias`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.mapping import mapping_error

Path = tuple[str, ...]

_ALIASES = {
    "policy": "policy, actor, pi, flow, velocity, velocity field, actor flow, policy flow, "
    "flow policy, bc flow, actor bc flow",
    "critic": "critic, critics, q, qs, qf, qfs, q value, q values",
    "value": "value, v, vf",
}
NETWORK_WORDS = {
    frozenset(words.split()): network
    for network, aliases in _ALIASES.items()
    for words in aliases.split(", ")
}
# fmt: off
_FILLER = frozenset((
    "net", "nets", "network", "networks", "model", "module", "modules", "function", "fn",
    "ensemble", "online", "twin", "double",
))
# fmt: on
_NO_PARAMETERS = re.compile(
    r"(.*_)?(opt|optim|optimizers?|opt_state|schedulers?)|rng|key|seed|(global_)?steps?|epoch"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LEAF = re.compile(r"(kernel|weight|w|bias|b|scale|gamma|offset|beta)_?([0-9]{1,3})?", re.I)
_ROLES = {"b": "bias", "gamma": "scale", "beta": "offset"}
NUMBER = re.compile(r"[0-9]+")
MOST_TENSORS = 5000
_LONGEST, _MOST_PARTS = 1000, 32


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


def numbers(path: Path) -> tuple[tuple[int, ...], ...]:
    """The numbers in each part."""
    return tuple(tuple(int(n) for n in NUMBER.findall(part)) for part in path)


def stem(path: Path) -> Path:
    """The parts with every number replaced by #."""
    return tuple(NUMBER.sub("#", part) for part in path)


def network_of(part: str, targeted: bool) -> tuple[str | None, bool]:
    """(the network that a part of a name stands for, whether a target network is meant)."""
    words = {w.lower() for w in _WORD.findall(part) if not w.isdigit()}
    targeted = targeted or bool(words & {"target", "targ"})
    words -= {"target", "targ"} | _FILLER
    network = NETWORK_WORDS.get(frozenset(words))
    if network is None or (targeted and network != "critic"):
        return None, targeted
    return ("target_critic" if targeted else network), targeted


def networks_in(
    tensors: Mapping[str, Array], source: str
) -> tuple[dict[str, NetworkModules], list[str], list[str]]:
    """(networks, names passed over as no parameters, names that are neither).

    Raises InputError when a file has too many tensors, two tensors for one role, or two
    candidates for a network.
    """
    if len(tensors) > MOST_TENSORS:
        raise InputError(f"{source} has {len(tensors)} tensors; at most {MOST_TENSORS} are mapped")
    networks: dict[str, NetworkModules] = defaultdict(NetworkModules)
    ignored: list[str] = []
    left: list[str] = []
    for name, array in tensors.items():
        parts = re.split(r"[./]", name)
        if len(name) > _LONGEST or len(parts) > _MOST_PARTS:
            left.append(name)
            continue
        if any(_NO_PARAMETERS.fullmatch(part.lower()) for part in parts):
            ignored.append(name)
            continue
        place = _place(parts)
        leaf = _LEAF.fullmatch(parts[-1])
        if place is None or leaf is None:
            left.append(name)
            continue
        network, path, found_as = place
        role = _ROLES.get(leaf[1].lower(), leaf[1].lower())
        networks[network].stems.setdefault(found_as, name)
        if len(networks[network].stems) > 1:
            continue
        module = networks[network].modules[(*path, leaf[2]) if leaf[2] else path]
        if role in module.names or (role in ("kernel", "weight", "w") and module.kernel):
            rival = module.names.get(role) or module.names[module.kernel or ""]
            raise mapping_error(
                f"{source}: {listing([rival, name])} are two candidates for one parameter", ()
            )
        module.names[role], module.shapes[role] = name, array.shape
    for network, found in networks.items():
        if len(found.stems) > 1:
            raise mapping_error(
                f"{source}: {len(found.stems)} candidates for the {network}: "
                f"{listing(found.stems)} (such as {listing(found.stems.values())}); say by a rule "
                "file (--rules) which to take",
                (),
            )
    return networks, ignored, left


def _place(parts: list[str]) -> tuple[str, Path, str] | None:
    """(network, place without the part that names it, the stem of what leads to it)."""
    targeted = False
    for i, part in enumerate(parts[:-1]):
        network, targeted = network_of(part, targeted)
        if network is not None:
            number = "_".join(NUMBER.findall(part))
            path = (*parts[:i], number, *parts[i + 1 : -1])
            return network, path, ".".join(stem(tuple(parts[: i + 1])))
    return None
