"""What a command prints: streams that cost no result, and its result as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

WIDTH, LONG = 100, 400
"""Columns of a line; so many letters of a message can still be taken in at once."""
_SENTENCES = re.compile(
    r"(?<=[.?!]) (?=[A-Z])|(?<=;) (?=(?:a|correct|give|if|it|name|remove|say|the|write) )"
)
"""Between the sentences of a message, and between what is wrong and what to do."""


class LastingStream:
    """A stream that a command can write to until it is done, whether or not anybody reads.

    Where the reader has left (`| head`), or the disk behind it is full, what follows is dropped,
    and `error` says why: the command still computes and writes what it was asked for.
    """

    def __init__(self, stream: TextIO | None) -> None:
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show ∇ still gets the numbers
            stream.reconfigure(errors="replace")
        self._stream = io.StringIO() if stream is None else stream  # None: closed by the caller
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """As a text stream's, but for the errors of the file below."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """As a text stream's, but for the errors of the file below."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.error = self.error or error
        with suppress(OSError, ValueError):  # what is still in its buffer, at the process's end too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def laid_out(command: str, message: str) -> str:
    """An error for stderr: one line, or where it would be a long one, lines of at most WIDTH
    columns: first what is wrong, then what to do, each sentence on its own. A longer word (a path)
    keeps its line to itself.
    """
    line = f"{command}: {message}"
    if len(line) <= LONG:
        return line
    sentences = [s for part in line.split("\n") for s in _SENTENCES.split(part) if s.strip()]
    return "\n".join(
        textwrap.fill(
            sentence.strip(), WIDTH, initial_indent="  " * bool(i), subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )
        for i, sentence in enumerate(sentences)
    )  # fmt: skip


def listed(head: str, items: Sequence[str], between: str = "") -> str:
    """A head and its items in lines of at most WIDTH columns; an item is never broken."""
    lines = [head]
    for i, item in enumerate(items, 1):
        shown = f"{item}{between}" if i < len(items) else item
        if len(lines[-1]) + 1 + len(shown) > WIDTH:
            lines.append(f"  {shown}")
        else:
            lines[-1] += f" {shown}"
    return "\n".join(lines)


def as_json(result: Any) -> str:
    """The result of a command as indented JSON; numbers that are not finite as strings."""
    return json.dumps(_plain(result), indent=1, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
