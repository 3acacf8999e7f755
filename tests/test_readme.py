"""The numbers of the README and of every page are those of benchmarks/results, and code runs."""

from __future__ import annotations

import doctest
import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks import all as every
from benchmarks import readme
from benchmarks.findings import findings

TEXT = readme.README.read_text()
GENERATED = [page for page in readme.pages() if readme.MARKED.search(page.read_text())]


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: str(page.relative_to(readme.ROOT)))
def test_generated_sections_are_current(page: Path) -> None:
    missing = {c for entry in every.RESULTS_IN_ORDER for c in entry.commits if not every.known(c)}
    if page == readme.INDEX and missing:
        pytest.skip(f"ages need the history of {', '.join(sorted(missing))}, which is not here")
    text = page.read_text()
    assert readme.filled(text) == text, "run: python benchmarks/readme.py --pages"


def test_findings_are_current() -> None:
    assert findings() == (readme.RESULTS / "findings.md").read_text()


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(SystemExit, match="no section 'nonsense'"):
        readme.filled("<!-- nonsense -->\n<!-- end -->\n")


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
    for path in Path(readme.RESULTS).glob("*.json"):
        content = json.loads(path.read_text())
        origin = content.get("provenance", content)
        assert {"commit", "versions", "processor", "time"} <= set(origin), path


def test_every_result_has_a_command_that_makes_it() -> None:
    """But for what `benchmarks/embed.py` leaves of the run inside the package."""
    listed = {e.name for e in every.RESULTS_IN_ORDER if not e.swept} | {"embedded_checkpoint"}
    assert {path.stem for path in Path(readme.RESULTS).glob("*.json")} == listed


def test_a_result_gets_old_by_what_it_measures() -> None:
    entry = every.result("startup")
    if not all(every.known(commit) for commit in ("62521c9", "4b0d202")):
        pytest.skip("the history is not here")
    commits, lines = every.age(entry, "4b0d202")
    assert commits > 0
    assert lines < every.age(every.result("speed"), "4b0d202")[1]
    assert every.age(entry, entry.commits[-1]) == (0, 0)
