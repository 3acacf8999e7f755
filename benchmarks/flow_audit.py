"""The audit that the adapters' page shows, of the flow that its first example builds.

    python benchmarks/flow_audit.py    # a minute or two; results/flow_audit.{txt,json}

Needs PyTorch (the `peers` extra). The example is taken from the page as it stands there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qgf_ref.cli.main import main as qgf_ref_command  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "qgf_ref" / "adapters" / "README.md"
COMMAND = ["audit", "--flow", "my_policy:build", "--weight", "20"]


def example() -> str:
    """The page's first example as a module with a function `build`."""
    block = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    if block is None:
        raise SystemExit(f"{PAGE} has no example in Python")
    up_to_flow = block.group(1).partition("rows = adapters.row_numbers")[0]
    return f"{up_to_flow}\n\ndef build():\n    return flow\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command, keep what it prints and its report."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "my_policy.py").write_text(example())
        before = Path.cwd()
        os.chdir(place)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                code = qgf_ref_command([*COMMAND, "--out", "audit"])
        finally:
            os.chdir(before)
        printed = out.getvalue()
        if code:
            raise SystemExit(f"qgf-ref {' '.join(COMMAND)} failed:\n{printed}")
        report = json.loads((Path(place) / "audit" / "report.json").read_text())
    kept = "".join(x for x in printed.splitlines(True) if not x.startswith("wrote "))
    write_atomically(RESULTS / "flow_audit.txt", kept.encode())
    write_json(RESULTS / "flow_audit.json", report)
    print(printed)
    return 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
