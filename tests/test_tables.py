"""Text tables: alignment, formats, what stands for nothing, Markdown's bars."""

from __future__ import annotations

import pytest

from qgf_ref.tables import KEPT, formatted, markdown_table, text_table

HEADER = ("name", "kind", "value")
ROWS = [["a", "long kind", "1.50"], ["longer", "b", ""]]


def test_columns_are_aligned() -> None:
    assert text_table(HEADER, ROWS).splitlines() == [
        "name    kind       value",
        "a       long kind   1.50",
        "longer  b",
    ]
    assert text_table(("", "x"), [["a", "1"]], left=(), least=3, gap="|") == "   |  x\n  a|  1"
    assert text_table(("a",), []) == "a"
    with pytest.raises(ValueError, match="zip"):
        text_table(("a", "b"), [["1", "2", "3"]])


def test_nothing_has_a_sign_of_its_own() -> None:
    assert (formatted(1.234, ".1f"), formatted("x"), formatted(None, ".1f")) == ("1.2", "x", "–")
    assert formatted(None, ".1f", "") == ""


def test_markdown_escapes_bars() -> None:
    assert markdown_table(("a", "b"), [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    assert markdown_table(("a",), [], rule="|---") == "| a |\n|---|"


def test_cells_go_on_in_another_line() -> None:
    rows = [["a.module:function", f"2{KEPT}v, Q", "1"], ["short", "Q", "12"]]
    assert text_table(["name", "products", "n"], rows, most={0: 10, 1: 5}).splitlines() == [
        "name        produ   n",
        "            cts",
        "a.module:f  2 v,    1",
        "unction     Q",
        "short       Q      12",
    ]
