"""Checkpoints written in any format of `qgf_ref.interop.formats`, bit for bit."""

from __future__ import annotations

from pathlib import Path

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.files import user_path
from qgf_ref.interop.format import Format, Written
from qgf_ref.interop.formats import written_formats


def export(checkpoint: Checkpoint, path: Path, form: str) -> list[Written]:
    """Write `checkpoint` to `path` in the format named `form`; returns its tensors, in order.

    Values are not changed, bit for bit. Raises InputError when the place cannot be written.
    """
    chosen = written_formats()[form]
    written = tensors_in(checkpoint, chosen)
    assert chosen.write is not None
    chosen.write(user_path(path), written, checkpoint)
    return written


def names_in(checkpoint: Checkpoint, form: str) -> list[Written]:
    """The tensors of a file in the format named `form`."""
    return tensors_in(checkpoint, written_formats()[form])


def tensors_in(checkpoint: Checkpoint, form: Format) -> list[Written]:
    """The tensors of a file in that format, part by part."""
    return [
        tensor for name, params in checkpoint.params.items() for tensor in form.names(name, params)
    ]
