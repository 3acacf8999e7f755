"""Our own checkpoint format: safetensors, in one file or in a directory with its JSON.

One file: `NAME.safetensors`, tensors named `policy.layers.0.kernel` …, and in the header's metadata
`format` = "qgf_ref.checkpoint", `version` = "1", `options` (JSON) and, of another agent than
`iql`, the `agent`'s name. A directory holds the same as
`model.safetensors`, and the options as `config.json` as well, for people to read and edit: what it
says wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import IQL
from qgf_ref.agents.options import options_from
from qgf_ref.agents.registry import agent_of_file
from qgf_ref.errors import InputError
from qgf_ref.file_kinds import naming_the_cache
from qgf_ref.files import user_path, write_atomically
from qgf_ref.interop.format import Format, Written
from qgf_ref.interop.official_agents import with_stated
from qgf_ref.interop.parameter_file import (
    json_object,
    of_kind,
    parameter_groups,
    serialise,
)
from qgf_ref.interop.real_tensors import TensorFile
from qgf_ref.interop.safetensors_file import read_safetensors

FORMAT, VERSION = "qgf_ref.checkpoint", "1"
MODEL, CONFIG = "model.safetensors", "config.json"
NETWORKS = IQL.part_names


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `checkpoint` to `path`: one file if it ends in .safetensors, else a directory.

    Its auxiliary networks are not part of it (`qgf_ref.interop.auxiliary_file`).
    Written to a temporary name and renamed. Raises InputError when the place cannot be written.
    """
    path = user_path(path)
    options = json.dumps({**checkpoint.options.stored(), **checkpoint.agent.stated}, indent=1)
    agent = checkpoint.agent.name
    about = {"format": FORMAT, "version": VERSION, "options": options}
    if agent != IQL.name:
        about["agent"] = agent
    data = serialise(checkpoint.params, about)
    if path.suffix == ".safetensors":
        write_atomically(path, data)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path}: {error.strerror or error}") from error
    write_atomically(path / MODEL, data)
    write_atomically(path / CONFIG, (options + "\n").encode())


def load_native(
    path: Path, overrides: Mapping[str, Any], file: TensorFile | None = None
) -> Checkpoint:
    """The checkpoint in the .safetensors file `path`; raises InputError if it is not one.

    file  its tensors, where they were read before
    """
    tensors, metadata = of_kind(file or read_safetensors(path), path, FORMAT, VERSION)
    stored = json_object(metadata.get("options", ""), f"{path}: the stored options")
    config = path.with_name(CONFIG)
    if path.name == MODEL and config.exists():
        try:
            text = config.read_bytes()
        except (OSError, UnicodeError) as error:
            raise InputError(f"cannot read {config}: {error}") from error
        stored |= json_object(text, str(config))
    chosen = {k: v for k, v in overrides.items() if v is not None}
    options = options_from({**stored, **chosen}, str(path))
    agent = agent_of_file(metadata.get("agent", IQL.name), str(path))
    agent = with_stated(agent, stored)
    params = parameter_groups(tensors, present_parts(agent, tensors), str(path))
    return Checkpoint(options, params=params, source=str(path), agent=agent)


def present_parts(agent: Agent, tensors: Iterable[str]) -> tuple[str, ...]:
    """The agent's parts that have a tensor, and those without which it cannot act."""
    begun = {name.split(".")[0] for name in tensors}
    return tuple(part.name for part in agent.parts if part.acting or part.name in begun)


def _load_ours(path: Path, overrides: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint; None when the file says that it is somebody else's."""
    with naming_the_cache(path):
        file = read_safetensors(path)
    ours = file.metadata.get("format", "").startswith("qgf_ref.")
    return load_native(path, overrides, file) if ours else None


def _write(path: Path, tensors: Sequence[Written], checkpoint: Checkpoint) -> None:
    del tensors  # named alike
    save_checkpoint(checkpoint, path)


OURS = Format(
    "qgf",
    (".safetensors",),
    read_safetensors,
    resembles=lambda start: start[8:9] == b"{",
    load=_load_ours,
    write=_write,
    next_step="next: qgf-ref audit --checkpoint {path}",
)
