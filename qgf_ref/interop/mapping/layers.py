"""The layers of a foreign network: their order, their kernels' orientation, their LayerNorms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.modules import Module, Path, numbers, stem
from qgf_ref.interop.mapping.unmapped import ADAPTER
from qgf_ref.nets.joint import COLUMNS

_MOST_SEQUENCES = 5
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class FoundLayer:
    """One layer: {our part: (name in the file, whether to transpose)}, and its widths."""

    parts: dict[str, tuple[str, bool]]
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class KnownWidths:
    """Widths of observations and actions, as far as they are known."""

    obs: int | None = None
    action: int | None = None

    def with_network(self, network: str, layers: Sequence[FoundLayer]) -> KnownWidths:
        """The sizes with what this network's layers tell."""
        if network == "value":
            return replace(self, obs=layers[0].fan_in)
        return replace(self, action=layers[-1].fan_out) if network == "policy" else self

    def fit(self, network: str, fan_in: int, fan_out: int) -> bool:
        """Whether the network may have these widths of input and output."""
        if network != "policy" and fan_out != 1:
            return False
        if network == "value" or self.obs is None:
            return True
        if network == "policy":
            return fan_in - self.obs - fan_out in (COLUMNS["time"], COLUMNS["raw_time"])
        return self.action is None or fan_in == self.obs + self.action


@dataclass(frozen=True)
class _Reading:
    """An order of the kernels and an orientation for them all."""

    order: tuple[Path, ...]
    transpose: bool


def layers_of(
    modules: Mapping[Path, Module], network: str, sizes: KnownWidths, source: str
) -> tuple[list[FoundLayer], str | None]:
    """(layers, what to tell the user) of one network or member.

    Raises InputError when there is no reading of names and shapes as a chain, or more than one.
    """
    where = f"{source}: the {network}"
    _require_whole_norms(modules, where)
    kernels = {path: module for path, module in modules.items() if module.kernel is not None}
    if not kernels or len(kernels) > _MOST_LAYERS:
        raise InputError(f"{where} has {len(kernels)} kernels")
    for module in kernels.values():
        name = module.names[module.kernel or ""]
        shape = module.shapes[module.kernel or ""]
        if len(shape) not in (2, 3):
            raise InputError(f"{where}: {listing([name])} has shape {shape}, not 2 or 3 axes")
    readings = [r for r in _readings(kernels, where) if _is_chain(kernels, r)]
    if not readings:
        shapes = [str(m.shapes[m.kernel or ""]) for m in kernels.values()]
        raise InputError(f"{where}: in no order do its kernels {listing(shapes)} follow each other")
    if len(readings) > 1:
        fitting = [r for r in readings if sizes.fit(network, *_ends(kernels, r))]
        readings = fitting or readings
    reading = _chosen(readings, kernels, where)
    note = _surprise(reading, kernels, network)
    norms = _norms(modules, reading.order, where)
    for normed in (True, False):
        alike = [kernels[path] for path in reading.order[:-1] if (path in norms) == normed]
        _require_biases_alike(alike, where)
    layers = []
    for path in reading.order:
        module = kernels[path]
        role = module.kernel or ""
        parts = {"kernel": (module.names[role], reading.transpose)}
        if "bias" in module.names:
            parts["bias"] = (module.names["bias"], False)
        fan_in, fan_out = _fans(module, reading.transpose)
        if path in norms:
            names, width = norms[path]
            if width != fan_out or path == reading.order[-1]:
                raise InputError(
                    f"{where}: {listing([names['scale']])} of width {width} does not fit the layer "
                    f"of width {fan_out} after which it comes (the last layer has no LayerNorm)"
                )
            parts |= {part: (name, False) for part, name in names.items()}
        layers.append(FoundLayer(parts, fan_in, fan_out))
    return layers, note


def _require_whole_norms(modules: Mapping[Path, Module], where: str) -> None:
    """Raise InputError on a scale without an offset, or the reverse: half a LayerNorm."""
    for module in modules.values():
        roles, names = set(module.names), listing(module.names.values())
        flat = [r for r in ("weight", "w") if r in roles and len(module.shapes[r]) == 1]
        scaled = bool(flat) and "bias" not in roles
        if scaled and module.shapes[flat[0]] == (1,):
            raise InputError(f"{where}: {names} is a PReLU's, which our networks have not")
        if scaled or ("scale" in roles and module.norm() is None):
            raise InputError(
                f"{where}: {names} has no bias beside it: an RMSNorm, which our networks have not, "
                "or a LayerNorm without bias: then store zeros as its bias"
            )
        if roles <= {"bias", "offset"}:
            raise InputError(
                f"{where}: {names} has no weight beside it: if it is of a LayerNorm without scale, "
                "store ones as its scale"
            )


def _require_biases_alike(modules: Sequence[Module], where: str) -> None:
    """Raise InputError where some have a bias and some not: which a network seldom means."""
    without = [m.names[m.kernel or ""] for m in modules if "bias" not in m.names]
    if 0 < len(without) < len(modules):
        raise InputError(
            f"{where}: {listing(without)} has no bias beside it, as other layers have (if it has "
            "none, store zeros)"
        )


def _fans(module: Module, transpose: bool) -> tuple[int, int]:
    a, b = module.shapes[module.kernel or ""][-2:]
    return (b, a) if transpose else (a, b)


def _ends(kernels: Mapping[Path, Module], reading: _Reading) -> tuple[int, int]:
    first, last = kernels[reading.order[0]], kernels[reading.order[-1]]
    return _fans(first, reading.transpose)[0], _fans(last, reading.transpose)[1]


def _is_chain(kernels: Mapping[Path, Module], reading: _Reading) -> bool:
    fans = [_fans(kernels[path], reading.transpose) for path in reading.order]
    biases = [kernels[path].shapes.get("bias") for path in reading.order]
    fitting = (b is None or b[-1:] == (out,) for b, (_, out) in zip(biases, fans, strict=True))
    return all(fitting) and all(before[1] == after[0] for before, after in pairwise(fans))


def _natural(path: Path) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(zip(stem(path), numbers(path), strict=True))


def _readings(kernels: Mapping[Path, Module], where: str) -> Iterator[_Reading]:
    """Orders in which modules that differ in numbers only keep theirs, in both orientations."""
    sequences: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(kernels, key=_natural):
        sequences[stem(path)].append(path)
    if len(sequences) > _MOST_SEQUENCES:
        stems = listing(".".join(s) for s in sequences)
        raise InputError(f"{where}: the names do not tell the order of its layers ({stems})")
    orders = {tuple(sorted(kernels, key=_natural)): None}
    for chosen in permutations(sequences.values()):
        orders[tuple(path for part in chosen for path in part)] = None
    for order in orders:
        for transpose in (False, True):
            yield _Reading(order, transpose)


def _convention(kernels: Mapping[Path, Module]) -> bool | None:
    """Whether kernels of such names are transposed: weight (PyTorch) yes, kernel (flax) no."""
    roles = {module.kernel or "" for module in kernels.values()}
    return {"kernel": False, "weight": True}.get(roles.pop()) if len(roles) == 1 else None


def _chosen(readings: Sequence[_Reading], kernels: Mapping[Path, Module], where: str) -> _Reading:
    convention = _convention(kernels)
    if len({r.transpose for r in readings}) > 1 and convention is not None:
        readings = [r for r in readings if r.transpose == convention]
    if len({r.transpose for r in readings}) > 1:
        names = [m.names[m.kernel or ""] for m in kernels.values()]
        raise InputError(
            f"{where}: neither shapes nor names tell whether {listing(names)} are (in, out) or "
            "(out, in)"
        )
    if len(readings) > 1:
        orders = [listing([".".join(filter(None, p)) for p in r.order], 6) for r in readings[:2]]
        raise InputError(
            f"{where}: its layers can follow each other as {orders[0]}, or as {orders[1]}"
        )
    return readings[0]


def _surprise(reading: _Reading, kernels: Mapping[Path, Module], network: str) -> str | None:
    convention = _convention(kernels)
    if convention is None or reading.transpose == convention:
        return None
    kind, stored = ("weight", "(in, out)") if convention else ("kernel", "(out, in)")
    return f"the {network}'s tensors called {kind} are {stored}: their shapes say so"


def _norms(
    modules: Mapping[Path, Module], order: Sequence[Path], where: str
) -> dict[Path, tuple[dict[str, str], int]]:
    """{place of a kernel: (scale and offset that follow it, their width)}."""
    found: dict[Path, tuple[dict[str, str], int]] = {}
    for path, module in modules.items():
        names = module.norm()
        if names is None:
            continue
        role = "scale" if "scale" in module.names else "weight"
        owner = path if module.kernel else _owner(path, order)
        if owner is None or owner in found:
            raise InputError(
                f"{where}: the names do not tell which layer {listing([names['scale']])} follows "
                f"(if it comes before one, pre-norm, {ADAPTER})"
            )
        found[owner] = names, (module.shapes[role] or (0,))[-1]
    return found


def _owner(path: Path, order: Sequence[Path]) -> Path | None:
    """The kernel that the LayerNorm at `path` follows, by name; None if no one, or several, could.

    In turn: the last before it in the same numbered list (net.3, net.4); the only one in the same
    block (block.0.linear, block.0.norm); the one with the same number (fc1, ln1; Dense_0,
    LayerNorm_0), where several have it the one that shares the longest beginning of the name.
    """
    listed = [p for p in order if stem(p) == stem(path)]
    if listed:
        before = [p for p in listed if numbers(p) < numbers(path)]
        return max(before, key=numbers) if before else None
    block = path[:-1]
    inside = [p for p in order if p == block or p[:-1] == block]
    if len(inside) == 1 and any(numbers(block)[i] for i in range(len(block))):
        return inside[0]
    own = sum(numbers(path), ())
    same = [p for p in order if own and sum(numbers(p), ()) == own]
    if not same:
        return None
    shared = {p: _shared(p, path) for p in same}
    best = [p for p in same if shared[p] == max(shared.values())]
    return best[0] if len(best) == 1 else None


def _shared(a: Path, b: Path) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
