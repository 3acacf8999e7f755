"""Fill the README's marked sections from the results and from the commands' real output.

    python benchmarks/readme.py

runs `qgf-ref audit` and `qgf-ref explain`, keeps their output in benchmarks/results/, and writes
every section marked <!-- name --> of the README. tests/test_readme.py checks that the README and
the results agree.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from qgf_ref.cli.main import main as qgf_ref_command
from qgf_ref.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
COMMANDS = {
    "audit": ["audit"],
    "explain": ["explain", "--estimator", "qgf_jacobian", "--row", "3", "--step", "5", "--brief"],
}


TABLES = (
    "success_cube-single",
    "success_scene",
    "success_pointmaze",
    "success_embedded",
    "train_speed",
    "verification",
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


def filled(text: str) -> str:
    """The README `text` with its marked sections replaced."""
    for name, body in sections().items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->\n"
        if text.count(start) != 1 or end not in text.split(start)[1]:
            raise SystemExit(f"README.md must hold {start.strip()} … {end.strip()} exactly once")
        before, after = text.split(start)
        text = before + start + body + end + after.split(end, 1)[1]
    return text


def main() -> None:
    """Run the commands, keep their output, write the README."""
    for name in COMMANDS:
        write_atomically(RESULTS / f"{name}.txt", command_output(name).encode())
    write_atomically(README, filled(README.read_text()).encode())
    print(f"wrote {README}")


if __name__ == "__main__":
    main()
