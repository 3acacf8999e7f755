"""The audit's report on disk: JSON, figures, and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_ref.audit import plots
from qgf_ref.audit.flow_report import FLOW_NOTE, FlowReport, estimator_table, summary_lines
from qgf_ref.audit.report import (
    AuditReport,
    conclusions,
    coverage_rows,
    estimator_note,
    estimator_rows,
    remark_lines,
    unchecked_lines,
    verdict,
    worst_checks,
)
from qgf_ref.audit.strength import strength_note, strength_rows
from qgf_ref.checks import Check
from qgf_ref.files import write_atomically, write_json
from qgf_ref.page import facts, figure, html_table, note, page
from qgf_ref.plotting import Figure, can_draw, png


def figures(report: AuditReport) -> dict[str, tuple[Figure, str]]:
    """Every figure with a sentence on how to read it; none without Matplotlib."""
    if not can_draw():
        return {}
    p = report.profile
    checks = (
        plots.checks_figure(report.checks),
        "Each point is a derivative compared with an oracle that does not know how it was written; "
        "the dash above it is what it must stay below.",
    )
    if not p.norm:
        return {"checks": checks}
    return {
        "checks": checks,
        "norms": (
            plots.norms_figure(p),
            "How strongly each estimator pushes, step by step. Those that multiply by the field's "
            "Jacobian shrink where its singular values are below 1 (see below); the scheduled one "
            "divides by t.",
        ),
        "cosine": (
            plots.cosine_figure(p),
            "Which estimators point the same way on the same states.",
        ),
        "noise": (
            plots.noise_figure(p),
            "The lower a curve falls, the more the estimator's direction changes when a_t moves.",
        ),
        "jacobian": (
            plots.jacobian_figure(p),
            "qgf replaces J by the identity: it is a good approximation where all singular values "
            "are near 1, and an exact velocity field has J₀ = 0 at t = 0.",
        ),
        "final_q": (
            plots.final_q_figure(p),
            "What the critic thinks of the final actions. A high Q is not a high return: the "
            "critic errs far from its data.",
        ),
        "precision": (
            plots.precision_figure(report.precision, p.times),
            "A float32 port cannot be expected to agree with float64 better than this. The time "
            "embedding's angles reach 10⁴ rad, so how it is rounded matters most.",
        ),
    }


def write_report(report: AuditReport, out: Path) -> Path:
    """Write report.json, the PNGs and report.html into `out`; returns the page's path."""
    pictures = []
    for name, (drawn, caption) in figures(report).items():
        image = png(drawn)
        write_atomically(out / f"{name}.png", image)
        pictures.append(figure(image, caption))
    write_json(out / "report.json", report.as_json())
    path = out / "report.html"
    write_atomically(path, _html(report, pictures))
    return path


def write_flow_report(report: FlowReport, facts_of: Mapping[str, Any], out: Path) -> Path:
    """Write report.json and report.html of a foreign flow into `out`; returns the page's path."""
    write_json(out / "report.json", {**report.as_json(), **facts_of})
    first, *others = summary_lines(report)
    sections = {"Flow": facts({"flow": report.flow, **report.settings})}
    if report.estimators:
        sections["Estimators"] = html_table(*estimator_table(report)) + note(FLOW_NOTE)
    if report.checks:
        sections["Derivative checks"] = _checks_table(report.checks)
    sections["How this was made"] = facts(facts_of)
    path = out / "report.html"
    title = "Audit of a guided flow"
    write_atomically(path, page(title, first, report.passed, sections, others))
    return path


def _checks_table(checks: list[Check]) -> str:
    return html_table(
        ["check", "oracle", "error", "tolerance", "verdict", "remark"],
        [
            [c.name, c.oracle.replace("_", " "), f"{c.error:.1e}", f"{c.tolerance:.0e}",
             "ok" if c.passed else "WRONG", c.remark]
            for c in checks
        ],
        wrong="WRONG",
    )  # fmt: skip


def _html(report: AuditReport, pictures: list[str]) -> bytes:
    sections = {"Checkpoint": facts(report.checkpoint)}
    if report.profile.norm:
        chain = html_table(
            ["estimator", "products of a whole chain, beyond its T forwards of v"],
            list(report.profile.chain_products.items()),
        )
        tables = html_table(*estimator_rows(report)), html_table(*coverage_rows(report))
        strength = html_table(*strength_rows(report.strength, report.profile.times))
        sections["Estimators"] = (
            f"{tables[0]}{note(estimator_note(report))}{strength}"
            f"{note(strength_note(report.settings['weight']))}{tables[1]}{chain}"
        )
    sections["Figures"] = "".join(pictures)
    sections["Derivative checks"] = (
        f"<p>Nearest to their tolerance:</p>{_checks_table(worst_checks(report))}"
        f"<details{'' if report.passed else ' open'}><summary>all {len(report.checks)} checks"
        f"</summary>{_checks_table(report.checks)}</details>"
    )
    sections["How this was made"] = facts({**report.settings, **report.provenance})
    return page(
        "Audit of a Q-Guided Flow checkpoint",
        f"{verdict(report)}. {report.seconds:.0f} s.",
        report.passed and not report.unchecked,
        sections,
        [*conclusions(report), *unchecked_lines(report), *remark_lines(report)],
    )
