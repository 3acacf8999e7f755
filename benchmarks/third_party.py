"""Samplers of public repositories on networks of their own classes, beside the reference.

    python benchmarks/third_party.py    # two minutes; results/third_party.{json,md}

Downloads the files that benchmarks/ports lists, at their commits and of their SHA-256, into a
temporary folder, and *runs them*: read them first if in doubt. Without a network,
QGF_REF_PORTS=FOLDER takes them from clones FOLDER/OWNER/NAME. Needs the `peers` extra and einops.
What cannot be had is said and left out, and nothing is written then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ports import MODULES  # noqa: E402
from benchmarks.ports.sources import NoSource  # noqa: E402
from benchmarks.ports.trials import Trial, clauses, outcome  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "jax", "flax", "einops")


def row(trial: Trial, checked: int) -> dict[str, Any]:
    """One comparison as the result keeps it."""
    said = outcome(trial)
    return {
        "repository": trial.source.repository,
        "revision": trial.source.commit,
        "link": trial.source.title,
        "samples": trial.samples,
        "against": trial.against,
        "clauses": checked,
        "names": said.names,
        "error_over_limit": said.excess,
        "as_expected": said.names == trial.expected,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As the page shows it."""
    cells = [
        [
            r["link"],
            r["samples"],
            r["against"],
            ", ".join(f"`{n}`" if n != "unknown" else n for n in r["names"]) or "agrees",
            "–" if r["error_over_limit"] is None else f"{r['error_over_limit']:.1g}",
        ]
        for r in rows
    ]
    header = ["repository", "what samples", "beside", "verdict", "error / limit"]
    return markdown_table(header, cells) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run every trial; exit code 1 where one does not end as expected."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    import jax
    import torch

    torch.set_num_threads(1)
    # nearly all the time is XLA's, of programs that run for a millisecond
    jax.config.update("jax_disable_most_optimizations", True)
    begun, rows, missing = time.perf_counter(), [], []
    for name in MODULES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                trials = import_module(f"benchmarks.ports.{name}").trials(Path(folder))
            except NoSource as error:
                missing.append(str(error))
                print(f"left out: {error}")
                continue
            passed = {id(t.flow): clauses(t.flow, t.obs) for t in trials}
            for trial in trials:
                rows.append(row(trial, passed[id(trial.flow)]))
                print(f"{trial.samples}, {trial.against}: {rows[-1]['names'] or 'agrees'}")
    if not missing:
        versions = {name: import_module(name).__version__ for name in PACKAGES}
        content = provenance()
        content["versions"] |= versions
        content |= {"seconds": time.perf_counter() - begun, "rows": rows}
        write_json(RESULTS / "third_party.json", content)
        write_atomically(RESULTS / "third_party.md", table(rows).encode())
    return int(not all(r["as_expected"] for r in rows))


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
