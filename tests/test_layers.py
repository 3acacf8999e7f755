"""Imports point downwards only, no autodiff framework is imported, modules stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qgf_ref

ROOT = Path(qgf_ref.__file__).parent
LAYERS = {
    "errors": 0, "imports": 0, "arrays": 0, "files": 0, "provenance": 0, "processes": 0,
    "checks": 0,
    "ops": 1,
    "nets": 2, "ledger": 2, "kernels": 2,
    "flow": 3, "losses": 3,
    "guidance": 4, "compiled": 4,
    "denoising": 5, "accelerated": 5, "sampling": 5, "interop": 5, "data": 5, "plotting": 5,
    "audit": 6, "bench": 6, "evaluation": 6, "crosscheck": 6,
    "explain": 7, "training": 7, "testing": 7,
    "studies": 8,
    "cli": 9, "__main__": 10, "__init__": 10,
}  # fmt: skip
MODULES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
FORBIDDEN = {"jax", "jaxlib", "flax", "optax", "torch", "tensorflow", "autograd"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def layer(module: str) -> int:
    """The layer of a path ("ops/clip.py") or dotted name ("qgf_ref.ops.clip")."""
    parts = module.removesuffix(".py").replace("/", ".").removeprefix("qgf_ref.").split(".")
    return LAYERS[parts[0]]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    own = layer(str(path))
    for name in imports(path):
        assert name.split(".")[0] not in FORBIDDEN, f"{path} imports {name}"
        if str(path) in ("__init__.py", "cli/main.py"):
            continue  # the public face and the entry point (for __version__) see everything
        if name.startswith("qgf_ref."):
            assert layer(name) <= own, f"{path} (layer {own}) imports {name} (layer {layer(name)})"
        assert name != "qgf_ref", f"{path} imports the public face"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_stay_short_and_say_what_they_are(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert text.count("\n") <= 320, f"{path} has {text.count(chr(10))} lines"
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
