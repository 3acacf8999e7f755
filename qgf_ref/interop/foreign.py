"""Checkpoints whose tensors bear other names: any `.pt`, flax `.msgpack`, safetensors or npz."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import options_from
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.format import Format
from qgf_ref.interop.mapping.by_names import mapping_by_names
from qgf_ref.interop.mapping.by_rules import mapping_by_rules
from qgf_ref.interop.mapping.mapping import NameMapping, assemble, complete
from qgf_ref.interop.official import read_flags
from qgf_ref.interop.parameter_file import json_object

ORBAX = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", "ocdbt.process_0")
"""What the directories of Orbax hold."""


def load_foreign(
    path: Path,
    form: Format,
    overrides: Mapping[str, Any],
    rules: str | Path | None = None,
    target_critic_from: str | None = None,
) -> tuple[Checkpoint, NameMapping]:
    """(checkpoint, which tensor became which parameter), in the dtypes of the file.

    form                how it is read
    overrides           options that win over a flags.json beside the file, and that over the JSON
                        in its metadata
    rules               a rule file (`mapping/by_rules.py`); without one, names and shapes decide
    target_critic_from  "critic" where the file has no target critic

    Raises InputError on a file that is refused or damaged, on names that do not tell one mapping,
    and on options that are not given.
    """
    file = form.read(path)
    if rules is None:
        mapping = mapping_by_names(file.tensors, str(path))
    else:
        mapping = mapping_by_rules(file.tensors, rules, str(path))
    mapping = complete(mapping, target_critic_from, str(path))
    mapping.notes.extend(file.notes)
    networks = assemble(file.tensors, mapping, str(path))
    stored = json_object(file.options, f"{path}: the stored options") if file.options else {}
    flags = path.with_name("flags.json")
    beside = read_flags(flags) if flags.exists() else {}
    chosen = {k: v for k, v in overrides.items() if v is not None}
    options = options_from({**stored, **beside, **chosen}, str(path))
    return Checkpoint(options, params=networks, source=str(path)), mapping


def refuse_orbax(directory: Path) -> None:
    """Raise InputError, with the way out, when `directory` is an Orbax checkpoint."""
    files = [name for name in ORBAX if (directory / name).exists()]
    if files:
        raise InputError(
            f"{directory} is an Orbax checkpoint ({listing(files)}): its arrays are compressed "
            "with Zstandard in TensorStore's format, which is not read. Export it where it was "
            "trained: tree = orbax.checkpoint.PyTreeCheckpointer().restore(DIR); "
            "open('x.msgpack', 'wb').write(flax.serialization.msgpack_serialize("
            "jax.tree.map(numpy.asarray, tree))); then give x.msgpack"
        )
