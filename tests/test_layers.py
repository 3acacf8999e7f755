"""Imports point downwards only, no autodiff framework is imported, modules stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qgf_ref

ROOT = Path(qgf_ref.__file__).parent
ROOMS = (
    "errors", "arrays", "contracts", "tables", "progress", "user_code", "threads", "sharing",
    "file_kinds", "files", "plotting", "page", "tracking", "provenance", "processes", "imaginary",
    "trees", "relations", "quotients", "oracles", "checks", "ops", "backends.numba.kernels", "nets",
    "ledger", "flow", "losses", "guidance", "adapters", "denoising", "backends.program",
    "backends.interface", "backends.engine", "backends.numpy", "backends.numba", "backends.cupy",
    "backends", "sampling", "agents", "interop", "data", "bench", "audit", "evaluation",
    "crosscheck", "training", "testing", "sweeps", "studies", "kernels", "cli",
    "__main__", "__init__",
)  # fmt: skip
"""From the ground up: a room imports from itself and from rooms before it."""
MODULES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
FORBIDDEN = {"jax", "jaxlib", "flax", "optax", "torch", "tensorflow", "autograd"}
AUTODIFF = {"adapters/torch_autodiff.py": "torch", "adapters/jax_autodiff.py": "jax"}
"""Modules that may import a framework, because nothing imports them before a user asks for it."""


@cache
def parsed(path: Path) -> ast.Module:
    """A module's tree, which several tests look at."""
    return ast.parse((ROOT / path).read_text())


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All within, on every level; not their expressions, which are most of the nodes."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


def imports(path: Path) -> set[str]:
    names = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def room(module: str) -> str:
    """The innermost room of a path ("ops/clip.py") or dotted name ("qgf_ref.ops.clip")."""
    name = module.removesuffix(".py").replace("/", ".").removeprefix("qgf_ref.")
    fitting = [r for r in ROOMS if f"{name}.".startswith(f"{r}.")]
    assert fitting, f"{module} is in no room of tests/test_layers.py"
    return max(fitting, key=len)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    own = room(str(path))
    for name in imports(path):
        framework = name.split(".")[0]
        allowed = AUTODIFF.get(str(path)) == framework
        assert framework not in FORBIDDEN or allowed, f"{path} imports {name}"
        if str(path) in ("__init__.py", "cli/main.py"):
            continue  # the public face and the entry point (for __version__) see everything
        if name.startswith("qgf_ref."):
            below = ROOMS[: ROOMS.index(own) + 1]
            assert room(name) in below, f"{path} (room {own}) imports {name} (room {room(name)})"
        assert name != "qgf_ref", f"{path} imports the public face"


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from outside_functions(child)


def test_frameworks_are_imported_by_functions_alone() -> None:
    """What imports a framework is itself imported in a function's body, when it is called."""
    lazy = {f"qgf_ref.{name.removesuffix('.py').replace('/', '.')}" for name in AUTODIFF}
    for path in MODULES:
        for node in outside_functions(parsed(path)):
            if isinstance(node, ast.Import):
                assert not lazy & {alias.name for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                assert not lazy & {node.module, *full}, path


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_stay_short_and_say_what_they_are(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert text.count("\n") <= 320, f"{path} has {text.count(chr(10))} lines"
    assert ast.get_docstring(parsed(path)), f"{path} has no docstring"


TESTS = Path(__file__).parent
BETWEEN_PEERS = "tests.peers.test_"
"""Their jitted functions, which take long to compile, are shared between modules."""


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS))
)
def test_no_test_imports_another(path: Path) -> None:
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(BETWEEN_PEERS):
            words = (node.module or "").split(".")
            assert words[0] != "tests" or not words[-1].startswith("test_"), f"{path}: {words}"


def test_no_public_class_name_occurs_twice() -> None:
    """One word, one meaning: a reader who has met a name knows what it is."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path))
    assert {name: at for name, at in places.items() if len(at) > 1} == {}
