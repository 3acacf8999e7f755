"""Fill the README's marked sections from the results and from the commands' real output.

    python benchmarks/readme.py

runs `qgf-ref audit` and `qgf-ref explain`, keeps their output in benchmarks/results/, and writes
every section marked <!-- name --> of the README and of the pages of the cross-check and the
laboratory. The README's findings are worked out from the studies' numbers (benchmarks/findings.py).
tests/test_readme.py checks that pages and results agree.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.findings import findings  # noqa: E402
from qgf_ref.cli.main import main as qgf_ref_command  # noqa: E402
from qgf_ref.crosscheck.sampler.mistakes.bank import BANK  # noqa: E402
from qgf_ref.crosscheck.sampler.mistakes.base import AREAS  # noqa: E402
from qgf_ref.files import write_atomically  # noqa: E402
from qgf_ref.studies.base import file_name  # noqa: E402
from qgf_ref.studies.registry import STUDIES  # noqa: E402

README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
CROSSCHECK = ROOT / "qgf_ref" / "crosscheck" / "README.md"
LABORATORY = ROOT / "qgf_ref" / "studies" / "README.md"
COMMANDS = {
    "audit": ["audit"],
    "explain": ["explain", "--estimator", "qgf_jacobian", "--row", "3", "--step", "5", "--brief"],
}


TABLES = (
    "success_cube-single",
    "success_scene",
    "success_pointmaze",
    "success_embedded",
    "success_corrections",
    "success_methods",
    "findings",
    "speed",
    "startup",
    "train_speed",
    "verification",
    "crosscheck",
)
"""Sections that another benchmark writes as benchmarks/results/NAME.md."""


def command_output(name: str) -> str:
    """What the command prints, with this machine's paths taken out."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()) as out:
        extra = ["--out", f"{place}/qgf_audit"] if name == "audit" else []
        if qgf_ref_command([*COMMANDS[name], *extra]) != 0:
            raise SystemExit(f"qgf-ref {name} failed:\n{out.getvalue()}")
        if name == "audit":
            report = Path(place, "qgf_audit", "report.json").read_text().replace(f"{ROOT}/", "")
            write_atomically(RESULTS / "audit.json", report.encode())
        return out.getvalue().replace(f"{place}/", "").replace(f"{ROOT}/", "")


def sections() -> dict[str, str]:
    """The text of every generated section, from benchmarks/results."""
    found = {
        name: f"```text\n$ qgf-ref {' '.join(COMMANDS[name])}\n"
        f"{(RESULTS / f'{name}.txt').read_text()}```\n"
        for name in COMMANDS
    }
    for name in TABLES:
        found[name] = (RESULTS / f"{name}.md").read_text()
    return found


def crosscheck_sections() -> dict[str, str]:
    """The text of every generated section of the cross-check's page."""
    example = (RESULTS / "compare.txt").read_text()
    command = "$ qgf-ref compare --trace theirs.npz --out compare"
    bank = ["| mistake | first seen in | what is wrong |", "|---|---|---|"]
    bank += [f"| `{m.name}` | `{m.first}` | {m.says.replace('|', chr(92) + '|')} |" for m in BANK]
    return {
        "compare": f"```text\n{command}\n{example}```\n",
        "crosscheck": (RESULTS / "crosscheck.md").read_text(),
        "bank": "\n".join(bank) + "\n",
        "size": f"{len(BANK)} mistakes, in {len(AREAS)} areas: {', '.join(AREAS)}.\n",
    }


def laboratory_sections() -> dict[str, str]:
    """The text of every generated section of the laboratory's page: what each study printed."""
    found = {}
    for name in STUDIES:
        path = RESULTS / file_name(name, "", "txt")
        found[path.stem] = f"```text\n$ qgf-ref study {name}\n{path.read_text()}```\n"
    return found


def filled(text: str, found: dict[str, str]) -> str:
    """A page's `text` with its marked sections replaced."""
    for name, body in found.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->\n"
        if text.count(start) != 1 or end not in text.split(start)[1]:
            raise SystemExit(f"the page must hold {start.strip()} … {end.strip()} exactly once")
        before, after = text.split(start)
        text = before + start + body + end + after.split(end, 1)[1]
    return text


def main() -> None:
    """Run the commands, keep their output, write the README."""
    for name in COMMANDS:
        write_atomically(RESULTS / f"{name}.txt", command_output(name).encode())
    write_atomically(RESULTS / "findings.md", findings().encode())
    for page, found in (
        (README, sections()),
        (CROSSCHECK, crosscheck_sections()),
        (LABORATORY, laboratory_sections()),
    ):
        write_atomically(page, filled(page.read_text(), found).encode())
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
