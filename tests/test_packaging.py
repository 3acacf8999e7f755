"""What is installed: a light core, extras that commands ask for by name, a true README."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qgf_ref
from qgf_ref.errors import EXTRAS, missing_package
from tests.helpers.some import some

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 has no tomllib")

ROOT = Path(qgf_ref.__file__).parent
REPOSITORY = ROOT.parent
MODULES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))
CORE = {"numpy", "safetensors"}
GRACEFUL = {"threadpoolctl", "tqdm"}
"""Without them threads stay as they are, and progress is told in lines."""
NOT_IN_ALL = {"cluster", "tensorboard", "test", "wandb"}
"""Extras that `all` leaves to those who ask for them."""
BROUGHT = {"adapters/jax_autodiff.py": "jax", "adapters/torch_autodiff.py": "torch"}
"""Modules that nobody reaches without a framework's own objects in hand."""
ONLY_WITH = {
    "backends/numba/": {"numba", "llvmlite"},
    "evaluation/aggregates.py": {"scipy"},
    "evaluation/statistics.py": {"scipy"},
    "flow/distances.py": {"scipy"},
    "data/collection/": {"tqdm"},
    "sweeps/dask_runner.py": {"dask", "distributed"},
    "training/": {"tqdm"},
    "studies/": {"matplotlib", "scipy", "threadpoolctl", "tqdm"},
}
"""What may import a package at its top: nothing that is imported without need of it."""
DISTRIBUTIONS = {"PIL": "pillow", "dask_jobqueue": "dask-jobqueue"}


def project() -> dict[str, Any]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def declared(extra: str | None) -> set[str]:
    """Names of the distributions that the core or an extra brings, without versions."""
    about = project()["project"]
    wanted = about["dependencies"] if extra is None else about["optional-dependencies"][extra]
    names = set()
    for spec in wanted:
        name, others = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?.*", spec).groups()  # type: ignore[union-attr]
        names |= {name} if others is None else set()
        for other in (others or "").split(","):
            names |= declared(other) if other else set()
    return names


def third_party(path: Path) -> Iterator[tuple[str, bool]]:
    """(package, whether its import is run with the module's own) of each import from elsewhere."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "", at_import)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import and not inside and not typing)

    for name, at_import in walk(ast.parse((ROOT / path).read_text()), at_import=True):
        package = name.split(".")[0]
        if package != "qgf_ref" and package not in sys.stdlib_module_names:
            yield package, at_import


IMPORTS = sorted({(str(p), *found) for p in MODULES for found in third_party(p)})


@pytest.mark.parametrize(("path", "package", "at_import"), IMPORTS)
def test_every_import_is_declared_and_none_is_made_without_need(
    path: str, package: str, at_import: bool
) -> None:
    if BROUGHT.get(path) == package:
        return
    extra = EXTRAS.get(package)
    named = DISTRIBUTIONS.get(package, package)
    if package in CORE:
        assert named in declared(None)
    elif package in GRACEFUL:
        assert named in declared("all")
    else:
        assert extra is not None, f"{path} imports {package}, which no extra brings"
        assert named in declared(extra)
        assert extra in NOT_IN_ALL or named in declared("all")
    if at_import and package not in CORE:
        allowed = {
            p for room, packages in ONLY_WITH.items() if path.startswith(room) for p in packages
        }
        assert package in allowed, f"{path} imports {package} at its top"


def light(code: str, *missing: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process in which packages cannot be imported (default: all but CORE)."""
    absent = missing or (*EXTRAS, *GRACEFUL)  # as if they were not installed
    block = f"import sys; sys.modules.update(dict.fromkeys({absent}))"
    return subprocess.run(
        [sys.executable, "-c", f"{block}\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"},
    )


CHECK = """
import numpy as np, qgf_ref, qgf_ref.testing
ck = qgf_ref.load()
def port(obs, noise, weight):
    return qgf_ref.sample(ck.flow, obs, estimator="qgf", weight=weight, noise=noise)
qgf_ref.testing.check_sampler(port, ck, estimator="qgf")
"""


@pytest.mark.slow
def test_a_porter_checks_a_sampler_with_numpy_and_safetensors_alone() -> None:
    done = light(CHECK)
    assert done.returncode == 0, done.stderr


def command(line: str, *missing: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = f"from qgf_ref.cli.main import main; sys.exit(main({line.split()}))"
    return light(code, *missing, cwd=cwd)


@pytest.mark.parametrize(
    ("line", "missing"),
    some(
        [
            ("collect cube-single-play-v0 --episodes 1", "gymnasium"),
            ("collect cube-single-play-v0 --episodes 1", "ogbench"),
            ("train cube-single-play-singletask-task1-v0", "ogbench"),
            ("evaluate --episodes 1", "ogbench"),
            ("evaluate --episodes 1", "scipy"),
            ("bench --smoke", "numba"),
            ("bench --smoke", "llvmlite"),
            ("study noise --quick", "scipy"),
        ],
        2,
    ),
)
def test_a_command_names_the_extra_that_it_lacks(line: str, missing: str, tmp_path: Path) -> None:
    done = command(line, missing, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    extra = {"llvmlite": "numba", "scipy": "studies", "gymnasium": "ogbench"}.get(missing, missing)
    assert f'pip install "qgf_ref[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line",
    some(
        [
            "audit --rows 2 --estimators qgf qgf_jacobian",
            "explain --estimator qgf --step 3",
            "estimators",
            "--help",
        ],
        1,
    ),
)
def test_a_light_installation_does_without(line: str, tmp_path: Path) -> None:
    done = command(line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if line.startswith("audit"):
        assert (
            'no figures: matplotlib is not installed: pip install "qgf_ref[plots]"' in done.stderr
        )
        assert (tmp_path / "qgf_audit" / "report.html").exists()
        assert not list(tmp_path.rglob("*.png"))


def test_ogbench_says_which_pythons_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    assert "Python 3.10 to 3.12, and this is 3.13" in str(missing_package("gymnasium"))
    assert missing_package("scipy.stats") is not None
    assert missing_package("my_module") is None and missing_package(None) is None


def test_the_readme_of_a_package_index_has_no_dead_links() -> None:
    text = (REPOSITORY / "README.md").read_text()
    hook = project()["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", text)
    assert all(target.startswith("https://") for pair in links for target in pair if target)
    assert len(text) > 5000


def test_the_version_is_told_once() -> None:
    version = project()["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{qgf_ref.__version__}"' in (REPOSITORY / version).read_text()
