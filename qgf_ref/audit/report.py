"""The audit's report: what was found, as JSON and as the tables and sentences of its pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qgf_ref.audit.coverage import Coverage
from qgf_ref.audit.profile import Profile
from qgf_ref.audit.strength import Strength, strength_lines
from qgf_ref.checks import Check
from qgf_ref.tables import KEPT, Table, formatted


@dataclass(frozen=True)
class AuditReport:
    """Everything that an audit found, and how it was run. profile: empty without a flow."""

    checkpoint: dict[str, Any]
    settings: dict[str, Any]
    checks: list[Check]
    coverage: dict[str, Coverage]
    profile: Profile
    precision: dict[str, dict[str, list[float]]]
    seconds: float
    provenance: dict[str, Any]
    strength: dict[str, Strength] = field(default_factory=dict)

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
            "strength": {label: asdict(s) for label, s in self.strength.items()},
            "precision": self.precision,
            "seconds": self.seconds,
            **self.provenance,
        }


def verdict(report: AuditReport) -> str:
    """One line: how many checks, how many passed, the largest error by oracle, what was left."""
    worst: dict[str, float] = {}
    for check in report.checks:
        worst[check.oracle] = max(worst.get(check.oracle, 0.0), check.error)
    errors = ", ".join(f"{oracle.replace('_', ' ')} {e:.1e}" for oracle, e in worst.items())
    count, missing = len(report.checks), report.unchecked
    state = "all passed" if report.passed else f"{len(report.failed)} FAILED"
    line = f"{count} derivative checks in float64: {state} (largest errors: {errors})"
    total = len(report.coverage)
    if missing:
        line += f"; G of {total - len(missing)} of {total} estimators checked, NOT CHECKED: "
        line += ", ".join(missing)
    return line


def unchecked_lines(report: AuditReport) -> list[str]:
    """Of each estimator of which nothing was checked: why, what it resembles, what to do."""
    return [
        f"{label}: NOT CHECKED, there is no formula to compare it with; on these states it "
        f"{report.coverage[label].resembles}. Derive it from Estimator and give `potential`, "
        "register a definition (qgf_ref.testing.defines), or use check_estimator(…, like=…)."
        for label in report.unchecked
    ]


def remark_lines(report: AuditReport) -> list[str]:
    """What limits the oracles: of the checks that passed, and of the curls."""
    lines = [f"{check.name}: {check.remark}" for check in report.checks if check.remark]
    return lines + [text for texts in report.profile.remarks.values() for text in texts]


def coverage_rows(report: AuditReport) -> Table:
    """What was checked of each estimator, and what not: header and rows."""
    return ["estimator", "G checked against", "not against", "without a formula"], [
        [
            label,
            " and ".join(covered.checked) or "NOTHING",
            ", ".join(f"{kind} ({why})" for kind, why in covered.unchecked.items()),
            covered.resembles,
        ]
        for label, covered in report.coverage.items()
    ]


TABLE_WIDTHS = {0: 24, 2: 22}
"""Of the estimator table's columns: it then has at most 100."""


def estimator_rows(report: AuditReport) -> Table:
    """The estimator table: header and rows; none without a flow."""
    p = report.profile
    header = ["estimator", "checked", "products per call", "ms", "‖G‖", "cos", "noise", "curl", "Q"]
    nearest, middle = _shown_weight(report, p), len(p.times) // 2
    rows = []
    level = p.noise_levels.index(0.1)
    for name, norm in p.norm.items():
        with_qgf, noise, curl = p.cosine[name].get("qgf"), p.noise_cosine[name], p.departure[name]
        endless = "∞" if p.curled[name] else "–"
        rows.append(
            [
                name,
                " ".join(kind[:3] for kind in report.coverage[name].checked) or "NOTHING",
                ", ".join(count.replace(" ", KEPT) for count in p.products[name].split(" + ")),
                f"{p.milliseconds[name]:.1f}",
                f"{norm[middle]:.2g}",
                formatted(with_qgf, ".2f"),
                formatted(noise[level], ".3f"),
                endless if curl is None else formatted(curl, ".1e" if curl < 0.01 else ".2f"),
                f"{p.q[name][nearest][0]:.2f}",
            ]
        )
    return header, rows


def _shown_weight(report: AuditReport, p: Profile) -> int:
    weight = report.settings["weight"]
    return min(range(len(p.weights)), key=lambda i: abs(p.weights[i] - weight))


def estimator_note(report: AuditReport) -> str:
    """What the columns of the estimator table are."""
    p = report.profile
    if not p.norm:
        return "An agent without a flow: no estimators."
    return (
        "checked: G against its definition (def), its potential's gradient (pot); products: "
        "beyond the sampler's own v; ms: one call on all rows; ‖G‖: median at mid-chain; cos: "
        "cosine to qgf; noise: cosine of G(a_t) and G(a_t + 0.1ε); curl: ‖A − Aᵀ‖/‖A + Aᵀ‖ of "
        "A = ∂G/∂a_t, 0 for the gradient of a scalar; Q: the target critic of the final actions "
        f"at w = {p.weights[_shown_weight(report, p)]:g}."
    )


def conclusions(report: AuditReport) -> list[str]:
    """What the numbers say of the estimators, in sentences."""
    p = report.profile
    if not p.norm:
        return []
    fields = [name for name, curl in p.departure.items() if curl is not None and curl < FIELD]
    others = [name for name, curled in p.curled.items() if curled and name not in fields]
    still = [name for name, curled in p.curled.items() if not curled]
    sentences = []
    if fields or others:
        sentences.append(
            f"{_all_of(fields)} the gradient of a scalar here; {_all_of(others)} not: no "
            "potential exists there."
        )
    if still:
        sentences.append(f"Whether {_all_of(still)} the gradient of a scalar is undecided here.")
    sentences += strength_lines(report.strength)
    level = p.noise_levels.index(0.1)
    steadiness = {
        n: c for n, c in ((n, v[level]) for n, v in p.noise_cosine.items()) if c is not None
    }
    if len(steadiness) > 1:
        most, least = (f(steadiness, key=lambda n: steadiness[n]) for f in (max, min))
        sentences.append(
            f"Noise of 0.1 in a_t turns {least} most (cosine {steadiness[least]:.3f}) and {most} "
            f"least ({steadiness[most]:.3f})."
        )
    ends = {name: rows["a, exact embedding"][-1] for name, rows in report.precision.items()}
    worst = max(ends, key=lambda name: ends[name])
    sentences.append(
        f"float32 moves the last step's actions by at most {ends[worst]:.1e} of their norm "
        f"({worst})."
    )
    return sentences


FIELD = 1e-6
"""Curl below which G is said to be a gradient field: differences measure 1e-9, complex steps 1e-15;
the least that any other estimator had is 1e-3."""


def _all_of(names: list[str]) -> str:
    return f"{', '.join(names) or 'none'} {'is' if len(names) < 2 else 'are'}"


def worst_checks(report: AuditReport) -> list[Check]:
    """The ten checks that come nearest to their tolerance, or exceed it by most."""
    ranked = sorted(report.checks, key=lambda c: -c.error / c.tolerance)
    return ranked[:10]
