"""Fill every generated section of the README and of the pages from benchmarks/results.

    python benchmarks/readme.py            run qgf-ref audit and explain first (two minutes)
    python benchmarks/readme.py --pages    only fill: the results have changed, not the commands
    python benchmarks/readme.py --age      only fill, and state the results' ages at this commit

A section stands between <!-- name --> and <!-- end -->, on any page; `SECTIONS` says what each is.
Sentences and small tables come from benchmarks/sentences.py, findings from benchmarks/findings.py,
the index of results from benchmarks/all.py. tests/test_readme.py checks that pages and results
agree.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import itertools
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import all as every  # noqa: E402
from benchmarks import banks, sentences  # noqa: E402
from benchmarks.findings import findings  # noqa: E402
from benchmarks.findings_scaling import scaling_table  # noqa: E402
from qgf_ref.cli.main import main as qgf_ref_command  # noqa: E402
from qgf_ref.files import write_atomically  # noqa: E402
from qgf_ref.guidance.registry import estimator, estimator_names  # noqa: E402
from qgf_ref.studies.registry import STUDIES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
README, INDEX = ROOT / "README.md", ROOT / "benchmarks" / "README.md"
COMMANDS = {
    "audit": ["audit"],
    "explain": ["explain", "--estimator", "qgf_jacobian", "--row", "3", "--step", "5", "--brief"],
}
SHORT = ("checkpoint", "estimator ", "ood ", "qgf ", "qgf_jacobian ", "bptt ")
"""The beginnings of the audit's lines that the README shows."""
MARKED = re.compile(r"(<!-- ([\w-]+) -->\n)((?:(?!<!-- ).)*)(<!-- end -->\n)", re.DOTALL)


def pages() -> list[Path]:
    """The README, the changelog, and every page beside code, benchmarks and tests."""
    beside = (page for room in ("qgf_ref", "benchmarks", "tests", "findings")
              for page in (ROOT / room).rglob("*.md"))  # fmt: skip
    return [README, ROOT / "CHANGELOG.md", *sorted(p for p in beside if RESULTS not in p.parents)]


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


def printed(command: str, text: str) -> str:
    """A command and what it printed."""
    return f"```text\n$ {command}\n{text}```\n"


def output(name: str) -> str:
    """What `qgf-ref audit` or `explain` printed."""
    text = (RESULTS / f"{name}.txt").read_text()
    return printed(f"qgf-ref {' '.join(COMMANDS[name])}", text) + origin("audit")


def audit_short() -> str:
    """The audit's output with some of its estimators, without its second table."""
    lines = (RESULTS / "audit.txt").read_text().splitlines()
    wanted = ("derivative checks", "Report: ")
    chosen: list[str] = []
    second = next(i for i, line in enumerate(lines) if line.startswith("w‖G‖"))
    for line in [*lines[:second], *lines[-3:]]:
        goes_on = line.startswith("  ") and chosen and wanted[0] in chosen[-1]
        if line.startswith(SHORT) or any(w in line for w in wanted) or goes_on:
            chosen.append(line)
    return printed("qgf-ref audit", "\n".join(chosen) + "\n")


def origin(name: str) -> str:
    """What made a result, and when."""
    entry = every.result(name)
    return f"\nMade by `{every.shown(entry.commands[-1])}`: {every.made(entry)}.\n"


def written(name: str) -> str:
    """A table that another benchmark wrote as benchmarks/results/NAME.md, and its making."""
    text = (RESULTS / f"{name}.md").read_text()
    said = f"\nAt {every.made(every.result(name))}.\n"
    return text + (said if "Made by `" in text else origin(name))


def study(name: str) -> str:
    """What a study decides, and its making."""
    return sentences.findings_of(f"qgf-ref study {name}") + origin(
        f"study_{name.replace('-', '_')}"
    )


def estimators() -> str:
    """Every registered estimator and its formula."""
    rows = [[f"`{name}`", estimator(name).summary] for name in estimator_names()]
    return sentences.page_table(["name", "G(s, a_t, t)"], rows)


def studies() -> str:
    """The list of studies."""
    rows = [[f"`{name}`", entry.summary, entry.on, entry.paper] for name, entry in STUDIES.items()]
    return sentences.page_table(["study", "what it asks", "on", "in the paper"], rows)


def rooms() -> str:
    """The rooms from the ground up, each with what its docstring says it holds."""
    from tests.test_layers import ROOMS

    rows = []
    for room in ROOMS:
        at = ROOT / "qgf_ref" / room.replace(".", "/")
        file = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
        says = ast.get_docstring(ast.parse(file.read_text())) or ""
        shown = f"[`{room}`]({at.relative_to(ROOT / 'qgf_ref')}/README.md)"
        page = at.is_dir() and (at / "README.md").exists()
        rows.append([shown if page else f"`{room}`", " ".join(says.split("\n\n")[0].split())])
    return sentences.page_table(["room", "what it holds"], rows[:-1])


def scripts() -> str:
    """What each script of findings/ says at its head."""
    rows = []
    for script in sorted((ROOT / "findings").glob("*.sh")):
        head = script.read_text().splitlines()[1:]
        said = " ".join(itertools.takewhile(str.strip, (line.lstrip("# ") for line in head)))
        rows.append([f"[`{script.name}`]({script.name})", said])
    return sentences.page_table(["script", "what it shows"], rows)


def index() -> str:
    """Every result and its age, at the commit that the page states (--age sets it anew)."""
    stated = re.search(r"Since: until commit `(\w+)`", INDEX.read_text())
    return every.index(stated.group(1) if stated else every.head())


SECTIONS: dict[str, Callable[[], str]] = {
    "audit": partial(output, "audit"),
    "audit_short": audit_short,
    "explain": partial(output, "explain"),
    "success": lambda: sentences.success_table() + origin(f"success_{sentences.HEADLINE}"),
    "success_sentences": sentences.success_sentences,
    "goals_sentences": sentences.goals_sentences,
    "guides_sentences": sentences.guides_sentences,
    "goals_critic_sentences": sentences.goals_critic_sentences,
    "success_sentences_short": partial(sentences.success_sentences, first=2),
    **{
        entry.name: partial(written, entry.name)
        for entry in every.RESULTS_IN_ORDER
        if entry.name.startswith(("success_", "startup", "train_speed", "verification"))
    },
    "speed": partial(written, "speed"),
    "speed_short": lambda: sentences.speed_table() + origin("speed"),
    "speed_sentences": sentences.speed_sentences,
    "speed_epyc_sentences": lambda: sentences.speed_sentences("speed_epyc") + origin("speed_epyc"),
    "crosscheck": partial(written, "crosscheck"),
    "adapter_overhead": partial(written, "adapter_overhead"),
    "goal_batches": partial(written, "goal_batches"),
    "sweep_cost": partial(written, "sweep_cost"),
    "fig5": lambda: (RESULTS / "fig5" / "table.md").read_text() + origin("fig5"),
    "fig10": lambda: sentences.critics_table() + origin("fig10"),
    "fig5_longer": lambda: (
        (RESULTS / "fig5_longer" / "table.md").read_text() + origin("fig5_longer")
    ),
    "fig5_longer_sentence": sentences.longer_sentence,
    "fig5_costs": lambda: sentences.cost_table("fig5_longer") + origin("fig5_longer"),
    "jobs": partial(written, "jobs"),
    "agents_speed": partial(written, "agents_speed"),
    "fig5_actions": partial(written, "fig5_actions"),
    "crosscheck_flow": partial(written, "crosscheck_flow"),
    "crosscheck_training": partial(written, "crosscheck_training"),
    "crosscheck_samplers": partial(written, "crosscheck_samplers"),
    "flow_audit": lambda: (
        printed(
            "qgf-ref audit --flow my_policy:build --weight 20",
            (RESULTS / "flow_audit.txt").read_text(),
        )
        + origin("flow_audit")
    ),
    "third_party": partial(written, "third_party"),
    "crosscheck_sentence": lambda: sentences.crosscheck_sentence(len(banks.BANK)),
    "compare": lambda: printed(
        "qgf-ref compare --trace theirs.npz --out compare", (RESULTS / "compare.txt").read_text()
    ),
    "bank": banks.bank,
    "other_bank": banks.other_bank,
    "network_options": banks.network_options,
    "training_bank": banks.training_bank,
    "agent_banks": banks.agent_banks,
    "dqc_bank": banks.dqc_bank,
    "sampler_banks": banks.sampler_banks,
    "batch_bank": banks.batch_bank,
    "goal_sampler_bank": banks.goal_sampler_bank,
    "size": banks.size,
    "findings": sentences.findings_short,
    **{f"study_{name.replace('-', '_')}": partial(study, name) for name in STUDIES},
    **{
        f"found_{name}": partial(sentences.findings_of, f"python benchmarks/success.py {name}")
        for name in ("methods", "corrections")
    },
    "scaling_table": scaling_table,
    "estimators": estimators,
    "studies": studies,
    "rooms": rooms,
    "scripts": scripts,
    "index": index,
}


def filled(text: str) -> str:
    """A page's text with its generated sections written again.

    Raises SystemExit on a section that `SECTIONS` does not have.
    """

    def body(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in SECTIONS:
            raise SystemExit(f"no section {name!r}; expected one of {', '.join(SECTIONS)}")
        return start + SECTIONS[name]() + end

    return MARKED.sub(body, text)


def main() -> None:
    """Run the commands, keep their output, fill the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pages", action="store_true", help="do not run the commands")
    what.add_argument("--age", action="store_true", help="nor keep the commit of the ages")
    args = parser.parse_args()
    if not (args.pages or args.age):
        for name in COMMANDS:
            write_atomically(RESULTS / f"{name}.txt", command_output(name).encode())
    write_atomically(RESULTS / "findings.md", findings().encode())
    if args.age:
        stated = re.compile(r"Since: until commit `\w+`")
        text = stated.sub(f"Since: until commit `{every.head()}`", INDEX.read_text())
        write_atomically(INDEX, text.encode())
    for page in pages():
        text = page.read_text()
        if (new := filled(text)) != text:
            write_atomically(page, new.encode())
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
