"""The README's numbers are those of benchmarks/results, and its code runs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.findings import findings

TEXT = readme.README.read_text()


def test_generated_sections_are_current() -> None:
    assert readme.filled(TEXT, readme.sections()) == TEXT, "run: python benchmarks/readme.py"
    page = readme.CROSSCHECK.read_text()
    assert readme.filled(page, readme.crosscheck_sections()) == page
    page = readme.LABORATORY.read_text()
    assert readme.filled(page, readme.laboratory_sections()) == page
    assert findings() == (readme.RESULTS / "findings.md").read_text()


def test_python_blocks_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    from qgf_ref.guidance import registry

    try:
        for block in blocks:
            exec(compile(block, "README.md", "exec"), scope)
    finally:
        registry._REGISTRY.pop("summed", None)


@pytest.mark.parametrize("module", ["qgf_ref", "qgf_ref.checks", "qgf_ref.guidance.registry"])
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_result_says_where_it_came_from() -> None:
    import json

    for path in Path(readme.RESULTS).glob("*.json"):
        found = json.loads(path.read_text())
        origin = found.get("provenance", found)
        assert {"commit", "versions", "processor", "time"} <= set(origin), path
