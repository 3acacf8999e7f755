"""The audit's report: a table for the terminal, JSON, and a self-contained HTML page."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from qgf_ref.audit import plots
from qgf_ref.audit.coverage import Coverage
from qgf_ref.audit.profile import Profile
from qgf_ref.checks import Check
from qgf_ref.files import write_atomically, write_json
from qgf_ref.plotting import Figure, can_draw, png
from qgf_ref.tables import formatted


@dataclass(frozen=True)
class AuditReport:
    """Everything that an audit found, and how it was run."""

    checkpoint: dict[str, Any]
    settings: dict[str, Any]
    checks: list[Check]
    coverage: dict[str, Coverage]
    profile: Profile
    precision: dict[str, dict[str, list[float]]]
    seconds: float
    provenance: dict[str, Any]

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failed

    @property
    def unchecked(self) -> list[str]:
        """The estimators of which nothing could be checked."""
        return [label for label, covered in self.coverage.items() if not covered.checked]

    def as_json(self) -> dict[str, Any]:
        """The whole report; infinite errors as the string "inf"."""
        checks = [
            {**asdict(c), "error": c.error if c.error < float("inf") else "inf", "passed": c.passed}
            for c in self.checks
        ]
        return {
            "passed": self.passed,
            "checkpoint": self.checkpoint,
            "settings": self.settings,
            "checks": checks,
            "coverage": {label: asdict(covered) for label, covered in self.coverage.items()},
            "profile": asdict(self.profile),
            "precision": self.precision,
            "seconds": self.seconds,
            **self.provenance,
        }


def verdict(report: AuditReport) -> str:
    """One line: how many checks, how many passed, the largest error by oracle."""
    worst: dict[str, float] = {}
    for check in report.checks:
        worst[check.oracle] = max(worst.get(check.oracle, 0.0), check.error)
    errors = ", ".join(f"{oracle.replace('_', ' ')} {e:.1e}" for oracle, e in worst.items())
    count = len(report.checks)
    state = "all passed" if report.passed else f"{len(report.failed)} FAILED"
    missing = f"; NOT CHECKED: {', '.join(report.unchecked)}" if report.unchecked else ""
    return f"{count} derivative checks in float64: {state} (largest errors: {errors}){missing}"


def unchecked_lines(report: AuditReport) -> list[str]:
    """Of each estimator of which nothing was checked: why, what it resembles, what to do."""
    return [
        f"{label}: NOT CHECKED, there is no formula to compare it with; on these states it "
        f"{report.coverage[label].resembles}. Derive it from Estimator and give `potential`, "
        "register a definition (qgf_ref.testing.defines), or use check_estimator(…, like=…)."
        for label in report.unchecked
    ]


def coverage_rows(report: AuditReport) -> tuple[list[str], list[list[str]]]:
    """What was checked of each estimator: header and rows."""
    return ["estimator", "G checked against", "without a formula"], [
        [label, " and ".join(covered.checked) or "nothing", covered.resembles]
        for label, covered in report.coverage.items()
    ]


def estimator_rows(report: AuditReport) -> tuple[list[str], list[list[str]]]:
    """The estimator table: header and rows."""
    p, middle = report.profile, len(report.profile.times) // 2
    weight = report.settings["weight"]
    nearest = min(range(len(p.weights)), key=lambda i: abs(p.weights[i] - weight))
    header = [
        "estimator",
        "products per call",
        "ms",
        "‖G‖",
        "cos qgf",
        "cos noise",
        "curl",
        f"Q w={p.weights[nearest]:g}",
    ]
    rows = []
    level = p.noise_levels.index(0.1)
    for name, norm in p.norm.items():
        with_qgf, noise, curl = p.cosine[name].get("qgf"), p.noise_cosine[name], p.departure[name]
        rows.append(
            [
                name,
                p.products[name],
                f"{p.milliseconds[name]:.1f}",
                f"{norm[middle]:.2g}",
                formatted(with_qgf, ".2f"),
                formatted(noise[level], ".3f"),
                "∞" if curl is None else formatted(curl, ".1e" if curl < 0.01 else ".2f"),
                f"{p.q[name][nearest][0]:.2f}",
            ]
        )
    return header, rows


ESTIMATOR_NOTE = (
    "ms: one call on all rows; ‖G‖: median at mid-chain; cos noise: cosine between G(a_t) and "
    "G(a_t + 0.1ε); curl: ‖A − Aᵀ‖/‖A + Aᵀ‖ of A = ∂G/∂a_t, 0 for the gradient of a scalar."
)


def figures(report: AuditReport) -> dict[str, tuple[Figure, str]]:
    """Every figure with a sentence on how to read it; none without Matplotlib."""
    if not can_draw():
        return {}
    p = report.profile
    return {
        "checks": (
            plots.checks_figure(report.checks),
            "Each point is a derivative compared with an oracle that does not know how it was "
            "written; the dash above it is what it must stay below.",
        ),
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
    pages = []
    for name, (figure, caption) in figures(report).items():
        image = png(figure)
        write_atomically(out / f"{name}.png", image)
        data = base64.b64encode(image).decode()
        pages.append(
            f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    write_json(out / "report.json", report.as_json())
    page = out / "report.html"
    write_atomically(page, _html(report, pages).encode())
    return page


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html(report: AuditReport, figures_html: list[str]) -> str:
    checks = _table(
        ["check", "oracle", "error", "tolerance", "verdict"],
        [
            [c.name, c.oracle.replace("_", " "), f"{c.error:.1e}", f"{c.tolerance:.0e}",
             "ok" if c.passed else "WRONG"]
            for c in report.checks
        ],
    )  # fmt: skip
    facts = _table(["", ""], [[k.replace("_", " "), str(v)] for k, v in report.checkpoint.items()])
    origin = _table(
        ["", ""], [[k.replace("_", " "), str(v)] for k, v in
                   {**report.settings, **report.provenance}.items()]
    )  # fmt: skip
    chain = _table(
        ["estimator", "products of a whole chain, beyond its T forwards of v"],
        [[name, products] for name, products in report.profile.chain_products.items()],
    )
    state = "passed" if report.passed and not report.unchecked else "failed"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>qgf_ref audit</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }}
th, td {{ text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #ddd; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; }}
figcaption, .note {{ color: #444; font-size: 13.5px; }}
.verdict {{ padding: .6rem 1rem; border-left: 6px solid; }}
.passed {{ border-color: #009E73; background: #eef8f4; }}
.failed {{ border-color: #D55E00; background: #fdf1ea; }}
</style></head><body>
<h1>Audit of a Q-Guided Flow checkpoint</h1>
<p class="verdict {state}">{escape(verdict(report))}. {report.seconds:.0f} s.</p>
<h2>Checkpoint</h2>{facts}
<h2>Estimators</h2>{_table(*estimator_rows(report))}{_table(*coverage_rows(report))}
<p class="note">{escape(ESTIMATOR_NOTE)}</p>{chain}
<h2>Figures</h2>{"".join(figures_html)}
<h2>Derivative checks</h2>
<details{"" if report.passed else " open"}><summary>{len(report.checks)} checks</summary>
{checks}</details>
<h2>How this was made</h2>{origin}
</body></html>
"""
