"""Auxiliary networks on disk: one safetensors file for each, beside a run's model.safetensors.

`NAME.safetensors` holds the network (tensors `NAME.layers.0.kernel` …, and `NAME.table` of cfgrl),
Adam's moments `mean.…` and `square.…`, and in its metadata the SHA-256 of the base's networks:
what was trained against one policy and critic says nothing about another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qgf_ref.agents.checkpoint import Checkpoint, digest
from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.native import MODEL
from qgf_ref.interop.parameter_file import parameter_groups, read_tensors, serialise
from qgf_ref.nets.auxiliary import AUXILIARY, AuxiliaryParams
from qgf_ref.nets.mlp import MLPParams

FORMAT, VERSION = "qgf_ref.auxiliary", "1"
_TABLE = ".table"


@dataclass(frozen=True)
class AuxiliaryFile:
    """What a file holds. mean, square: Adam's moments, shaped like `params`."""

    params: MLPParams
    mean: MLPParams
    square: MLPParams
    metadata: dict[str, str]


def auxiliary_path(directory: Path, name: str) -> Path:
    """Where a run's auxiliary network lies."""
    return directory / f"{name}.safetensors"


def base_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the networks that an auxiliary one is trained against, as they are stored."""
    return digest((checkpoint.policy, checkpoint.target_critic, checkpoint.value))


def auxiliary_bytes(name: str, base: Checkpoint, held: AuxiliaryFile) -> bytes:
    """The file's bytes; `held.metadata` is kept beside format, network and base."""
    groups = {name: held.params, "mean": held.mean, "square": held.square}
    about = {"format": FORMAT, "version": VERSION, "network": name, "base": base_digest(base)}
    return serialise(groups, {**held.metadata, **about})


def read_auxiliary(path: Path, name: str, base: Checkpoint) -> AuxiliaryFile:
    """The file at `path`. `base` is the checkpoint beside it, in the dtype in which it is stored.

    Raises InputError when it is damaged, another network's, or was trained against another base.
    """
    tensors, metadata = read_tensors(path, FORMAT, VERSION)
    if metadata.get("network") != name:
        found = listing([metadata.get("network", "of no name")])
        raise InputError(f"{path} holds the network {found}, not {name}")
    if metadata.get("base") != base_digest(base):
        raise InputError(
            f"{path} was trained against other networks than those of {base.source} (the run was "
            f"continued since, or its model replaced). Remove {path.name} and train it again: "
            f"qgf-ref train-extra {name} --run {path.parent}"
        )
    groups = _groups(tensors, (name, "mean", "square"), str(path))
    shapes = [[a.shape for a in group.arrays()] for group in groups.values()]
    if shapes[1:] != shapes[:1] * 2:
        raise InputError(f"{path}: the moments have other shapes than the network")
    if (groups[name].table is not None) != (name == "cfgrl"):
        raise InputError(f"{path}: cfgrl, and only it, has a tensor cfgrl{_TABLE}")
    return AuxiliaryFile(groups[name], groups["mean"], groups["square"], metadata)


def with_auxiliary(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with those auxiliary networks that lie beside its model.safetensors.

    Raises InputError as `read_auxiliary`.
    """
    source = Path(checkpoint.source)
    if source.name != MODEL:
        return checkpoint
    paths = {name: auxiliary_path(source.parent, name) for name in AUXILIARY}
    found: dict[str, MLPParams] = {
        name: read_auxiliary(path, name, checkpoint).params
        for name, path in paths.items()
        if path.exists()
    }
    return replace(checkpoint, auxiliary=AuxiliaryParams(**found)) if found else checkpoint


def _groups(
    tensors: Mapping[str, Array], names: tuple[str, ...], source: str
) -> dict[str, MLPParams]:
    """`parameter_groups` that knows the table of a conditional network."""
    tables = {n.removesuffix(_TABLE): a for n, a in tensors.items() if n.endswith(_TABLE)}
    rest = {n: a for n, a in tensors.items() if not n.endswith(_TABLE)}
    groups: dict[str, MLPParams] = dict(parameter_groups(rest, names, source))
    for name, table in tables.items():
        if name not in groups or table.dtype.kind != "f":
            shown = listing([name + _TABLE])
            raise InputError(f"{source}: unexpected tensor {shown} of {table.dtype}")
        require_finite(table, f"{source}: {name}{_TABLE}", InputError)
        groups[name] = MLPParams(groups[name].layers, table)
    return groups
