"""The pages' findings: each claim of the paper against the numbers in benchmarks/results.

    python benchmarks/readme.py

writes them. Verdicts are worked out here from the studies' JSON and CSV: nothing is typed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.findings_ours import continues, forgiving, helps, nearer
from benchmarks.findings_scaling import scales
from benchmarks.reading import RESULTS, Finding, interval, rows, study, suite, verdict

PAPERS_RIVALS = ("ood", "bptt", "qgf_jacobian")


def biased_ood(at: Path) -> Finding:
    """Figure 2, first half."""
    cells = {
        c["T"]: (c["holds"], c["of"])
        for c in study("didactic", at)["claims"]
        if c["claim"].startswith("OOD is biased") and c["field"] == "exact"
    }
    many, few = max(cells), min(cells)
    return Finding(
        "OOD guidance misses the target law at every weight (Fig 2)",
        verdict(*cells[many]) + f" at T = {many}, " + verdict(*cells[few]) + f" at T = {few}",
        f"W1 over 3 times the exact guidance's in {cells[many][0]} of {cells[many][1]} cells (3 "
        f"critics × 8 weights), exact v, T = {many}; in {cells[few][0]} at T = {few}, where "
        "Euler's own error is of that size",
        "qgf-ref study didactic",
    )


def nearest_qgf(at: Path) -> Finding:
    """Figure 2, second half."""
    claims = [
        c
        for c in study("didactic", at)["claims"]
        if c["claim"].startswith("qgf is nearer") and (c["field"], c["T"]) == ("learned", 10)
    ]
    counts = ", ".join(f"{c['claim'].split()[-1]} {c['holds']}/{c['of']}" for c in claims)
    total, of = sum(c["holds"] for c in claims), sum(c["of"] for c in claims)
    return Finding(
        "QGF comes nearer to the target law than the others (Fig 2)",
        verdict(total, of),
        f"three modes, learned v, T = 10: W1 smaller than that of {counts} (3 critics × 8 weights)",
        "qgf-ref study didactic",
    )


def unstable_bptt(at: Path) -> Finding:
    """Figure 14."""
    found = study("didactic", at)["divergence"]
    cases = {(c["field"], c["estimator"]): c for c in found["cases"]}
    peak = max(cases["exact", "bptt"]["largest_a_t"], cases["learned", "bptt"]["largest_a_t"])
    others = max(c["largest_a_t"] for (_, name), c in cases.items() if name != "bptt")
    return Finding(
        "BPTT is unstable (Fig 14)",
        "holds" if peak > 10 * others else "not seen",
        f"w = {found['weight']:g}, T = {found['T']}: |a_t| up to {peak:.0f} (the others: "
        f"{others:.1f}); "
        f"|G| is the Jacobian product, up to {cases['exact', 'bptt']['largest_g']:.0f}; the "
        f"continuous flow's is {found['largest_product_of_the_continuous_flow']:.0e}",
        "qgf-ref study didactic",
    )


def least_sensitive(at: Path) -> Finding:
    """Figure 3."""
    lead = [r for r in rows("noise_qgf_lead", at) if r["time"] == "all"]
    behind = sorted({r["other"] for r in lead if r["high"] and float(r["high"]) < 0})
    level = {
        r["estimator"]: float(r["value"])
        for r in rows("noise", at)
        if (r["measure"], r["time"]) == ("cosine", "all") and float(r["sigma"]) == 0.1
    }
    shown = ", ".join(f"{n} {level[n]:.3f}" for n in ("qgf", *PAPERS_RIVALS))
    rivals = [n for n in behind if n in PAPERS_RIVALS]
    text = "holds" if not behind else "holds against these three" if not rivals else "contradicted"
    others = f"; behind {', '.join(behind)} at some σ" if behind else "; never behind any"
    return Finding(
        "QGF is least sensitive to noise in a_t (Fig 3)",
        text,
        f"cosine of G(a_t), G(a_t + 0.1ξ): {shown}; {len(level)} estimators{others} "
        "(95%, over all t)",
        "qgf-ref study noise",
    )


def highest_q(at: Path) -> Finding:
    """Figures 4 and 15."""
    summary = {r["estimator"]: r for r in study("q_optimizer", at)["summary"]}
    by_q = sorted(summary, key=lambda n: -summary[n]["gain_there"])
    by_success = sorted(summary, key=lambda n: -summary[n]["success"])
    first = "highest Q: yes, on the mean" if by_q[0] == "ood" else f"highest Q: {by_q[0]}"
    last = "lowest success: yes" if by_success[-1] == "ood" else "lowest success: no"
    top = "; ".join(f"{n} {summary[n]['gain_there']:+.1f}" for n in by_q[:3])
    return Finding(
        "OOD reaches the highest Q and the lowest success (Fig 4, 15)",
        f"{first}; {last}",
        f"Q of the final action above BC's, at best: {top}. Held-out success at its own w: ood "
        f"{interval(summary['ood'], 'success')}, qgf {interval(summary['qgf'], 'success')}, lowest "
        f"{by_success[-1]} {interval(summary[by_success[-1]], 'success')}",
        "qgf-ref study q-optimizer",
    )


def leaves_data(at: Path) -> Finding:
    """Figure 17."""
    found = rows("ood_distance", at)
    data = {
        (r["estimator"], float(r["weight"])): r
        for r in found
        if r["measure"] == "data" and r["weight"]
    }
    weights = sorted({w for _, w in data})
    farthest = [
        w
        for w in weights
        if max((n for n, x in data if x == w), key=lambda n: float(data[n, w]["value"])) == "ood"
    ]
    w, most = (1.0 if 1.0 in weights else weights[-1]), weights[-1]
    q = {
        (r["estimator"], float(r["weight"])): float(r["value"])
        for r in found
        if r["measure"] == "q" and r["weight"]
    }
    still = "".join(
        f"; {n} at w = {most:g}: {float(data[n, most]['value']):.2f}, Q {q[n, most]:.1f}"
        for n in ("ood", "qgf_shifted")
        if (n, most) in data
    ).replace("Q -", "Q −")
    shown = ", ".join(
        f"{n} {interval(data[n, w])}" for n in ("ood", "qgf", "qgf_jacobian") if (n, w) in data
    )
    return Finding(
        "OOD goes farthest from the data (Fig 17)",
        verdict(len(farthest), len(weights)) + " (means)",
        f"farthest at {len(farthest)} of {len(weights)} weights; distance to the nearest data "
        f"action at w = {w:g}: {shown}{still}",
        "qgf-ref study ood-distance",
    )


def plateau(at: Path) -> Finding:
    """Figure 20."""
    summary = [r for r in study("weights", at)["summary"] if not r.get("own_grid")]
    widest = max(summary, key=lambda r: r["width"])
    own = next(r for r in summary if r["estimator"] == "qgf")
    shown = ", ".join(
        f"{r['estimator']} {r['plateau_low']:g}–{r['plateau_high']:g}"
        for r in summary
        if r["estimator"] in ("qgf", "ood", "bptt", "qgf_jacobian", "qgf_shifted")
    )
    return Finding(
        "QGF's success has a plateau in w, and too large a w destroys it (Fig 20)",
        "holds" if own["width"] > 1 and own["collapse"] is not None else "mixed",
        f"weights within the best one's 95% interval: {shown}; qgf falls to half its best at w = "
        f"{own['collapse']}; widest: {widest['estimator']}",
        "qgf-ref study weights",
    )


def compute(at: Path) -> Finding:
    """Figures 6 and 7."""
    found = study("compute", at)["rows"]

    def best(family: str) -> dict[str, Any]:
        mine = [r for r in found if r["method"].startswith(family)]
        top = max(r["success"] for r in mine)
        chosen: dict[str, Any] = min(
            (r for r in mine if r["success"] == top), key=lambda r: r["flops_nominal"]
        )
        return chosen

    names = {"qgf": "qgf", "bfn": "bfn-", "gradstep": "gradstep"}
    tops = {label: best(start) for label, start in names.items()}
    shown = "; ".join(
        f"{label} ({r['method']}, {r['number']}): {interval(r, 'success')} for "
        f"{r['flops_nominal'] / 1e6:.1f} MFLOP"
        for label, r in tops.items()
    )
    qgf, climb, draws = tops["qgf"], tops["gradstep"], tops["bfn"]
    over = [
        n
        for n, r in (("BFN", draws), ("GradStep", climb))
        if r["success_high"] < qgf["success"] and r["flops_nominal"] >= qgf["flops_nominal"] / 4
    ]
    return Finding(
        "QGF is the better use of test-time compute (Fig 6, 7)",
        ("holds against " + " and ".join(over)) if over else "not shown here",
        f"the highest success of each (number: N, L or T): {shown}",
        "qgf-ref study compute",
    )


def jacobian_dropped(at: Path) -> Finding:
    """The ablation and the boundary."""
    bias = study("bias_variance", at)
    plain, scheduled = bias["qgf_jacobian"], bias["qgf_jacobian_scheduled"]
    strain = scheduled["strain"]
    return Finding(
        "Dropping the Jacobian is better than keeping it",
        f"as an estimate of the exact G: {share(plain)} against the paper's, {share(scheduled)} "
        "against the scheduled Jacobian, unless v is wrong",
        f"{plain['problems']} problems, n = 1…25, exact v and Q: `qgf` nearer to the exact "
        f"guidance than `qgf_jacobian` in {plain['won']}, than `qgf_jacobian_scheduled` in "
        f"{scheduled['won']}; than the latter from a strain of v's error (√n·sd/length) of "
        f"{min(strain):.2g}–{max(strain):.2g} on, median {median(strain):.2g}. "
        "Samples do not always follow: see the page",
        "qgf-ref study bias-variance",
    )


def share(numbers: Mapping[str, Any]) -> str:
    """What the count of problems in which qgf is nearer amounts to."""
    part = numbers["won"] / numbers["problems"]
    return "holds" if part > 0.9 else "contradicted" if part < 0.1 else "mixed"


def clean_ablation(at: Path) -> Finding:
    """The 2×2 comparison."""
    found = [r for r in rows("ablation", at) if r["split"] == "held-out"]
    effect = {r["term"]: r for r in found if r["measure"] == "success"}
    names = {"mask": "mask", "Jacobian": "Jacobian", "interaction": "interaction"}
    shown = ", ".join(
        f"{names[t]} {float(effect[t]['value']):+.2f} ({float(effect[t]['low']):+.2f} to "
        f"{float(effect[t]['high']):+.2f})"
        for t in names
        if t in effect
    )
    matters = any(
        float(effect[t]["low"]) > 0 or float(effect[t]["high"]) < 0 for t in ("mask", "interaction")
    )
    return Finding(
        "The published QGF-Jacobian ablation is confounded by the clip's mask",
        "it does matter here" if matters else "it does not show in success here",
        f"effects on held-out success, 2×2: {shown}",
        "qgf-ref study ablation",
    )


def methods(at: Path) -> Finding:
    """Sections 3 and 4, in success."""
    found = suite("methods", at)
    better = [n for n, r in found.items() if r["minus_qgf"] is not None and r["minus_qgf_low"] > 0]
    worse = [n for n, r in found.items() if r["minus_qgf"] is not None and r["minus_qgf_high"] < 0]
    same = [n for n in found if n not in (*better, *worse, "qgf")]
    parts = [f"qgf {interval(found['qgf'], 'success')}"]
    for title, group in (("worse", worse), ("better", better), ("not told apart", same)):
        if group:
            parts.append(f"{title}: " + ", ".join(f"{n} {found[n]['success']:.2f}" for n in group))
    return Finding(
        "QGF has the highest success; Jacobian, chain and distilled variants are worse",
        "contradicted" if better else "not told apart from several" if same else "holds",
        "; ".join(parts) + " (paired, 95%)",
        "python benchmarks/success.py methods",
    )


FINDINGS: tuple[Callable[[Path], Finding], ...] = (
    biased_ood,
    nearest_qgf,
    unstable_bptt,
    least_sensitive,
    highest_q,
    leaves_data,
    plateau,
    compute,
    scales,
    methods,
    jacobian_dropped,
    clean_ablation,
    nearer,
    helps,
    forgiving,
    continues,
)


def findings(results: Path = RESULTS) -> str:
    """The table, as markdown."""
    lines = ["| claim | here | evidence | command |", "|---|---|---|---|"]
    for made in FINDINGS:
        f = made(results)
        cells: Sequence[str] = (f.claim, f"**{f.verdict}**", f.evidence, f"`{f.command}`")
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"
