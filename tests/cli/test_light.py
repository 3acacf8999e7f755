"""What the command line does not import until a command needs it: help comes at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "scipy", "numba", "llvmlite", "ogbench", "mujoco", "gymnasium", "PIL")


@pytest.mark.parametrize(
    "statement",
    [
        "import qgf_ref",
        "import qgf_ref as q; q.sample(q.load().flow, q.embedded_observations(), rng=0, weight=1)",
        "import qgf_ref.cli.main",
        "from qgf_ref.cli.main import parser; parser().format_help()",
        "from qgf_ref.cli.main import main; main(['estimators'])",
    ],
)
def test_heavy_packages_stay_out(statement: str) -> None:
    report = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
