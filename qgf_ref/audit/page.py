"""The audit's report on disk: JSON, figures, and a self-contained HTML page."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from qgf_ref.audit import plots
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
from qgf_ref.checks import Check
from qgf_ref.files import write_atomically, write_json
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


NUMBER = re.compile(r"[-−]?[\d.,]+(e[-+]?\d+)?%?|[–∞]|inf|nan")


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A table; columns of numbers are aligned to the right."""
    right = [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows)]

    def line(cells: list[str], tag: str) -> str:
        ends = right or [False] * len(cells)
        marked = (
            f"<{tag}{' class=n' if n else ''}>{escape(c)}</{tag}>" for c, n in zip(cells, ends)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def _checks_table(checks: list[Check]) -> str:
    return _table(
        ["check", "oracle", "error", "tolerance", "verdict", "remark"],
        [
            [c.name, c.oracle.replace("_", " "), f"{c.error:.1e}", f"{c.tolerance:.0e}",
             "ok" if c.passed else "WRONG", c.remark]
            for c in checks
        ],
    )  # fmt: skip


def _html(report: AuditReport, figures_html: list[str]) -> str:
    facts = _table(["", ""], [[k.replace("_", " "), str(v)] for k, v in report.checkpoint.items()])
    origin = _table(
        ["", ""], [[k.replace("_", " "), str(v)] for k, v in
                   {**report.settings, **report.provenance}.items()]
    )  # fmt: skip
    estimators = ""
    if report.profile.norm:
        chain = _table(
            ["estimator", "products of a whole chain, beyond its T forwards of v"],
            [[name, products] for name, products in report.profile.chain_products.items()],
        )
        estimators = (
            f"<h2>Estimators</h2>{_table(*estimator_rows(report))}"
            f'<p class="note">{escape(estimator_note(report))}</p>'
            f"{_table(*coverage_rows(report))}{chain}"
        )
    said = [*conclusions(report), *unchecked_lines(report), *remark_lines(report)]
    state = "passed" if report.passed and not report.unchecked else "failed"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>qgf_ref audit</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }}
th, td {{ text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid #ddd; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.n {{ text-align: right; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; }}
figcaption, .note {{ color: #444; font-size: 13.5px; }}
.verdict {{ padding: .6rem 1rem; border-left: 6px solid; }}
.passed {{ border-color: #009E73; background: #eef8f4; }}
.failed {{ border-color: #D55E00; background: #fdf1ea; }}
</style></head><body>
<h1>Audit of a Q-Guided Flow checkpoint</h1>
<p class="verdict {state}">{escape(verdict(report))}. {report.seconds:.0f} s.</p>
{"".join(f"<p>{escape(sentence)}</p>" for sentence in said)}
<h2>Checkpoint</h2>{facts}
{estimators}
<h2>Figures</h2>{"".join(figures_html)}
<h2>Derivative checks</h2>
<p>Nearest to their tolerance:</p>{_checks_table(worst_checks(report))}
<details{"" if report.passed else " open"}><summary>all {len(report.checks)} checks</summary>
{_checks_table(report.checks)}</details>
<h2>How this was made</h2>{origin}
</body></html>
"""
