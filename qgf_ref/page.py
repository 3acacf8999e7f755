"""A report as one self-contained HTML page: verdict, tables, embedded pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #ddd; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.n { text-align: right; }
td.wrong { color: #B03A00; font-weight: 600; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } pre { white-space: pre-wrap; }
figcaption, .note { color: #444; font-size: 13.5px; }
.verdict { padding: .6rem 1rem; border-left: 6px solid; }
.passed { border-color: #009E73; background: #eef8f4; }
.failed { border-color: #D55E00; background: #fdf1ea; }
"""


_NUMBER = re.compile(r"[-−+]?[\d.,]+(e[-+]?\d+)?[%!]?|[–∞]|inf!?|nan|")


def page(
    title: str,
    verdict: str,
    passed: bool,
    sections: Mapping[str, str],
    sentences: Iterable[str] = (),
) -> bytes:
    """The page; sections: heading → HTML under it; sentences: what follows the verdict."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    body = said + "".join(f"<h2>{escape(heading)}</h2>{html}" for heading, html in sections.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="verdict {"passed" if passed else "failed"}">{escape(verdict)}</p>'
        f"{body}</body></html>\n"
    ).encode()


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], wrong: str = "!") -> str:
    """A table; cells that end with `wrong` are marked, columns of numbers aligned to the right."""
    body = [list(row) for row in rows]
    numbers = [all(map(_NUMBER.fullmatch, column)) for column in zip(*body)]

    def line(cells: Sequence[str], tag: str) -> str:
        words = ""
        for i, text in enumerate(cells):
            marks = ["n"] if numbers and numbers[i] else []
            marks += ["wrong"] if tag == "td" and text.endswith(wrong) else []
            named = f' class="{" ".join(marks)}"' if marks else ""
            words += f"<{tag}{named}>{escape(text)}</{tag}>"
        return f"<tr>{words}</tr>"

    lines = "".join(line(row, "td") for row in body)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{lines}</tbody></table>"


def note(text: str) -> str:
    """A paragraph beside a table or a picture."""
    return f'<p class="note">{escape(text)}</p>'


def facts(values: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    return html_table(["", ""], [[k.replace("_", " "), _words(v)] for k, v in values.items()])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    return str(value)


def figure(png: bytes, caption: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
