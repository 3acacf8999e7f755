"""Tables of text."""

from __future__ import annotations


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned, the first two to the left."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths)))
        for r in [header, *rows]
    )
