"""A report as one self-contained HTML page: verdict, tables, embedded pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #ddd; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
td.wrong { color: #B03A00; font-weight: 600; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } pre { white-space: pre-wrap; }
figcaption, .note { color: #444; font-size: 13.5px; }
.verdict { padding: .6rem 1rem; border-left: 6px solid; }
.passed { border-color: #009E73; background: #eef8f4; }
.failed { border-color: #D55E00; background: #fdf1ea; }
"""


def page(title: str, verdict: str, passed: bool, sections: Mapping[str, str]) -> bytes:
    """The page; sections: heading → HTML under it."""
    body = "".join(f"<h2>{escape(heading)}</h2>{html}" for heading, html in sections.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="verdict {"passed" if passed else "failed"}">{escape(verdict)}</p>'
        f"{body}</body></html>\n"
    ).encode()


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], wrong: str = "!") -> str:
    """A table; cells that end with `wrong` are marked."""

    def cell(text: str) -> str:
        return f"<td{' class=wrong' if text.endswith(wrong) else ''}>{escape(text)}</td>"

    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts(values: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    return html_table(["", ""], [[k.replace("_", " "), str(v)] for k, v in values.items()])


def figure(png: bytes, caption: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
