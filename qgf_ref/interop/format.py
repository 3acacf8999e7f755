"""A file format of checkpoints: how it is recognised, read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import IQL
from qgf_ref.arrays import Array
from qgf_ref.interop.real_tensors import TensorFile
from qgf_ref.nets.mlp import MLPParams


@dataclass(frozen=True)
class Written:
    """A tensor of a written file: its name there, and the parameter (our name) that it holds."""

    target: str
    name: str
    array: Array


def our_names(part: str, params: MLPParams) -> Iterable[Written]:
    """policy.layers.0.kernel …: the names of our own files."""
    return [Written(f"{part}.{own}", f"{part}.{own}", array) for own, array in params.named()]


def stated(checkpoint: Checkpoint) -> str:
    """JSON of what the arrays do not tell: options, the agent's settings, and whose they are."""
    agent = checkpoint.agent
    name = {} if agent.name == IQL.name else {"agent": agent.name}
    return json.dumps({**checkpoint.options.stored(), **agent.stated, **name})


@dataclass(frozen=True)
class Format:
    """One way in which checkpoints are stored. `qgf_ref.interop.formats` lists all of them.

    name      what `--to` calls it
    suffixes  of its files, the usual one first
    read      path → tensors, under the names that the file has
    other_suffixes  that others give to such files, among files of other kinds
    begins    first bytes that tell, whatever the suffix says; formats may share them
    holds     among formats that share them: whether the archive's member names are this one's
    resembles whether first bytes look like it, asked where neither they nor the suffix tell
    load      (path, options) → the checkpoint, where the file's names need no mapping; None where
              this file's do
    names     (part, parameters) → tensors as they are written
    write     (path, tensors, checkpoint) → the file; None: this format is only read
    next_step what to do with a written file, {path} standing for it and {eps} for LayerNorm's
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], TensorFile]
    begins: tuple[bytes, ...] = ()
    holds: Callable[[Sequence[str]], bool] = lambda members: False
    resembles: Callable[[bytes], bool] = lambda start: False
    load: Callable[[Path, Mapping[str, Any]], Checkpoint | None] | None = None
    names: Callable[[str, MLPParams], Iterable[Written]] = our_names
    write: Callable[[Path, Sequence[Written], Checkpoint], None] | None = None
    next_step: str = ""
    other_suffixes: tuple[str, ...] = ()
