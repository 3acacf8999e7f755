"""Every page: short, linked from the index, and what it names, links and commands is there.

A command is parsed by the parser of the program it calls, without being run; the cheap ones run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import qgf_ref
from benchmarks.readme import INDEX, README, RESULTS, ROOT, pages
from qgf_ref.cli.main import main as qgf_ref_command
from qgf_ref.cli.main import parser

MAP = ROOT / "qgf_ref" / "README.md"
PAGES = pages()
LONGEST = 250
SKETCHES = {
    "qgf_ref/crosscheck/README.md",
    "qgf_ref/bench/README.md",
    "qgf_ref/adapters/README.md",  # needs JAX and PyTorch: tests/peers/test_adapters.py runs it
}
"""Pages whose Python blocks stand for a reader's own code: their imports are checked alone."""
CHEAP = ("qgf-ref estimators", "qgf-ref study", "python benchmarks/all.py")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`((?:qgf-ref |python benchmarks/)[^`\n]*)`")
MODULE = re.compile(r"\bqgf_ref(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"`((?:qgf_ref|benchmarks|tests|findings)/[\w./-]*)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(page: Path) -> Iterator[str]:
    """Every command line of ours on a page: whole lines of shell blocks, and inline code."""
    text = page.read_text()
    for language, block in FENCED.findall(text):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                each = (shlex.join(shlex.split(c, comments=True)) for c in line.split("&&"))
                yield from (command for command in each if ours(command))
    yield from INLINE.findall(prose(text))


def ours(command: str) -> bool:
    return command.startswith(("qgf-ref ", "python benchmarks/"))


class Parsed(Exception):
    """Raised in place of running a script whose arguments are right."""


def parse_script(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Let a script of benchmarks/ parse its arguments, and no more."""
    source = (ROOT / words[0]).read_text()
    if "argparse" not in source:
        assert len(words) == 1, f"{words[0]} takes no arguments"
        return
    # an extra, and slow: its flags are read, not parsed
    if "\nimport jax" in source or "\nfrom benchmarks.crosscheck import" in source:
        flags = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source))
        assert {word for word in words if word.startswith("--")} <= flags
        return
    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        real(self, *args, **kwargs)
        raise Parsed

    module = importlib.import_module(".".join(Path(words[0]).with_suffix("").parts))
    patch.setattr(argparse.ArgumentParser, "parse_args", stop)
    patch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        module.main()


COMMANDS = sorted({(name(page), command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: str(value)[:60])
def test_commands_parse(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(command)
    if program == "python":
        parse_script(words, monkeypatch)
    elif len(words) == 1 or "--help" in words:  # named in passing, without what it must be given
        assert words[0] in parser().format_help()
    else:
        assert parser().parse_args(words).run


@pytest.mark.parametrize("command", CHEAP)
def test_cheap_commands_run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert any(c == command for _, c in COMMANDS), f"no page shows {command}"
    program, *words = shlex.split(command)
    if program == "qgf-ref":
        assert qgf_ref_command(words) == 0
    else:
        monkeypatch.setattr(sys, "argv", words)
        importlib.import_module(".".join(Path(words[0]).with_suffix("").parts)).main()
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_short_and_without_workshop_words(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n") <= LONGEST, f"{name(page)} has {text.count(chr(10))} lines"
    assert text.count("\n# ") + text.startswith("# ") == 1 or "```" in text
    for words in ("../shared/data", "method.md)", "what was asked", "referee"):
        assert words not in text, f"{name(page)} says {words!r}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in LINK.findall(prose(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(page)}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for dotted in set(MODULE.findall(text)):
        if dotted.startswith("qgf_ref.egg"):
            continue
        assert resolves(dotted), f"{name(page)} names {dotted}"
    for path in FILE.findall(text):
        assert (ROOT / path).exists(), f"{name(page)} names {path}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for depth in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[depth:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def python_blocks(page: Path) -> list[str]:
    return [block for language, block in FENCED.findall(page.read_text()) if language == "python"]


WITH_PYTHON = [p for p in PAGES if python_blocks(p) and p != README]  # README: test_readme.py


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_blocks_run_or_import(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in python_blocks(page):
        if name(page) not in SKETCHES:
            exec(compile(block, name(page), "exec"), scope)
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qgf_ref"):
                for alias in node.names:
                    assert resolves(f"{node.module}.{alias.name}")


def linked(page: Path) -> set[Path]:
    """The files that a page links to."""
    targets = LINK.findall(prose(page.read_text()))
    return {(page.parent / t.partition("#")[0]).resolve() for t in targets if "://" not in t}


def test_every_page_is_linked_from_the_index() -> None:
    assert set(PAGES) - {MAP} == {p for p in linked(MAP) if p.suffix == ".md"} & set(PAGES)
    assert MAP in linked(README)


def test_every_picture_that_is_committed_is_on_a_page() -> None:
    pictures = {path for path in RESULTS.iterdir() if path.suffix in (".png", ".pdf")}
    on_pages = set().union(*(linked(page) for page in PAGES))
    assert pictures <= on_pages, f"on no page: {sorted(p.name for p in pictures - on_pages)}"


def test_the_map_lists_the_public_names() -> None:
    table = MAP.read_text().split("## The API")[1].split("## Glossary")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(qgf_ref.__all__)


def test_the_age_of_results_is_at_a_commit() -> None:
    assert re.search(r"^Since: until commit `[0-9a-f]{7}`\.$", INDEX.read_text(), re.MULTILINE)


def test_extras_and_markers_that_pages_name_exist() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        text = page.read_text()
        for extras in re.findall(r"\[([a-z,]+)\]\"", text):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), (name(page), extra)
        for expression in re.findall(r"pytest -m \"([^\"]+)\"", text):
            for marker in set(re.findall(r"\w+", expression)) - {"and", "not", "or"}:
                assert f'"{marker}: ' in declared, (name(page), marker)
