"""Tables of text: aligned for a terminal, Markdown for a page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any, TypeVar

Row = TypeVar("Row")

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""
KEPT = "\N{NO-BREAK SPACE}"
"""A space at which no cell is broken."""


def formatted(value: Any, spec: str = "", missing: str = "–") -> str:
    """A value by its format, or what stands for None."""
    return missing if value is None else format(value, spec)


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0, 1),
    least: int = 0,
    gap: str = "  ",
    most: Mapping[int, int] | None = None,
) -> str:
    """Columns aligned, as wide as their widest cell and `least`, those of `left` to the left.

    most  widths at which the cells of some columns go on in another line
    """
    lines = [line for row in (header, *rows) for line in _broken(row, most or {})]
    widths = [max(least, *(len(line[i]) for line in lines)) for i in range(len(header))]
    return "\n".join(
        gap.join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, rule: str = "| --- "
) -> str:
    """The same for Markdown, bars in cells escaped; ends without a line break."""
    bars = [[text.replace("|", "\\|") for text in line] for line in (header, *rows)]
    lines = [f"| {' | '.join(line)} |" for line in bars]
    return "\n".join([lines[0], rule * len(header) + "|", *lines[1:]])


def columns_of(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> Table:
    """The table of `rows`: `columns` maps a heading to what a row has under it."""
    return list(columns), [[cell(r) for cell in columns.values()] for r in rows]


def _broken(row: Sequence[str], most: Mapping[int, int]) -> list[list[str]]:
    """The row as lines, none of its cells wider than it may be."""
    cells = [wrap(text, most[i]) if i in most else [text] for i, text in enumerate(row)]
    return [[(c or "").replace(KEPT, " ") for c in line] for line in zip_longest(*cells)]
