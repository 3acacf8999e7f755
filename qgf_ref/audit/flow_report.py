"""What the audit of a flow found: numbers, a table, and sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qgf_ref.audit.flow_direction import Direction
from qgf_ref.audit.strength import WEAK, weak_line
from qgf_ref.checks import Check
from qgf_ref.tables import KEPT, Table, formatted

FLOW_NOTE = (
    "‖G‖: median at mid-chain; w‖G‖/‖v‖: least and most of its medians by step; cos: to qgf; "
    "noise: cosine of G(a_t) and G(a_t + 0.1ε); curl: ‖A − Aᵀ‖/‖A + Aᵀ‖ of A = ∂G/∂a_t; Q: of the "
    "final actions; control: with random directions as long as G is on the chain."
)


@dataclass
class EstimatorProfile:
    """One estimator on the chain; None where the budget ended or a product is missing.

    products  of one call at mid-chain; norm (T,): median ‖G‖ by step; strength (T,): median of
    w‖G‖/‖v‖; cos: mean cosine to qgf; noise: mean cosine of G(a_t) and G(a_t + 0.1ε); curl:
    ‖A − Aᵀ‖/‖A + Aᵀ‖ of A = ∂G/∂a_t at mid-chain, from xᵀAy ∓ yᵀAx of random pairs, whose mean
    squares are those norms', the median over rows; q, control: mean Q of the final actions with
    G, and with random directions of the length that G has on the chain; still: where no curl is
    """

    products: str | None = None
    norm: list[float] | None = None
    strength: list[float] | None = None
    cos: float | None = None
    noise: float | None = None
    curl: float | None = None
    q: float | None = None
    control: float | None = None
    says: str = ""
    still: str = ""


@dataclass
class FlowReport:
    """What the audit of a flow found. expected: the clauses of the contract; held, broken,
    unchecked: what came of them; interrupted: the stage in which Ctrl-C came. singular: step →
    median smallest and largest singular value of J₀ = I + (1 − t)∂v/∂a_t; unguided: mean Q of the
    final actions without guidance.
    """

    flow: str
    settings: dict[str, Any]
    broken: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    estimators: dict[str, EstimatorProfile] = field(default_factory=dict)
    singular: dict[int, tuple[float, float]] = field(default_factory=dict)
    unguided: float | None = None
    skipped: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    interrupted: str = ""
    direction: Direction | None = None
    calls: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether some clause was checked, and nothing is broken."""
        return bool(self.held) and not self.broken

    @property
    def unreached(self) -> list[str]:
        """Clauses that the audit did not come to."""
        broken = {line.removeprefix("flow: ").partition(":")[0] for line in self.broken}
        known = {*self.held, *self.unchecked, *broken}
        return [name for name in self.expected if name not in known]

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return {"passed": self.passed, **asdict(self)}


def estimator_table(report: FlowReport) -> Table:
    """The estimators: header and rows."""
    header = [
        "estimator",
        "products per call",
        "‖G‖",
        "w‖G‖/‖v‖",
        "cos",
        "noise",
        "curl",
        "Q",
        "control",
    ]
    rows = []
    for label, e in report.estimators.items():
        middle = None if e.norm is None else e.norm[len(e.norm) // 2]
        strength = "–" if e.strength is None else f"{min(e.strength):.1g} to {max(e.strength):.1g}"
        curl = formatted(e.curl, ".1e" if (e.curl or 0) < 0.01 else ".2f")
        rows.append([
            label, ", ".join(p.replace(" ", KEPT) for p in (e.products or "–").split(" + ")),
            formatted(middle, ".2g"), strength,
            formatted(e.cos, ".2f"), formatted(e.noise, ".3f"), curl, formatted(e.q, ".3f"),
            formatted(e.control, ".3f"),
        ])  # fmt: skip
    return header, rows


def summary_lines(report: FlowReport) -> list[str]:
    """Everything but the table, a sentence a line."""
    worst = max(report.checks, key=lambda c: c.error / c.tolerance, default=None)
    state = f"{len(report.broken)} BROKEN" if report.broken else "all hold"
    if not (report.held or report.broken):
        state = "NOTHING CHECKED"
    lines = [f"stopped in {report.interrupted}; known by then:"] if report.interrupted else []
    lines += [
        f"{len(report.held) + len(report.broken)} clauses of the networks' contract, "
        f"{len(report.checks)} of them derivatives: {state}"
        + (f"; nearest to its tolerance: {worst}" if worst else "")
    ]
    if any("float32" in check.remark for check in report.checks):
        lines.append(
            "the networks compute in float32, where differences are good to 1e-2 or so: in float64 "
            "(module.double(), jax_enable_x64) they are checked to 1e-6"
        )
    if report.unreached:
        lines.append(f"NOT COME TO: {', '.join(report.unreached)}")
    lines += report.broken
    if report.direction is not None and report.direction.correlation[0] > -0.5:
        lines.append(f"{report.direction}: it is not trained, or not in its convention")
    lines += [f"not checked: {name}: {why}" for name, why in report.unchecked.items()]
    lines += [
        f"{label}: not profiled: {e.says}" for label, e in report.estimators.items() if e.says
    ]
    lines += [f"G of {label} {e.still}" for label, e in report.estimators.items() if e.still]
    for k, (least, most) in report.singular.items():
        lines.append(f"singular values of ∂â₁/∂a_t at step {k}: {least:.2g} to {most:.2g}")
    for label, e in report.estimators.items():
        if e.strength is not None and max(e.strength) < WEAK:
            lines.append(weak_line(label, e.strength))
    if report.unguided is not None:
        lines.append(f"mean Q of the final actions without guidance: {report.unguided:.3f}")
    if report.skipped:
        lines.append(f"left out, the budget being spent: {', '.join(report.skipped)}")
    lines.append(f"{report.calls} calls of a network, {report.seconds:.0f} s")
    return lines
