"""Figure 9: the paper's claim on model size, and the page's table, from the study `scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reading import RESULTS, Finding, interval, signed, study
from qgf_ref.tables import markdown_table


def scales(at: Path) -> Finding:
    """Figure 9."""
    found = study("scaling", at)
    slope = {(r["ladder"], r["quantity"], r["of"]): r for r in found["slopes"]}
    wide, deep = (
        {of: slope[ladder, "success", of] for of in ("qgf", "edp", "qgf − edp")}
        for ladder in ("width", "depth")
    )
    ends = {ladder: f"{s[0]} to {s[-1]}" for ladder, s in found["ladders"].items()}
    per = "; ".join(
        f"{ends[ladder]}: "
        + ", ".join(f"{of} {signed(row, 'per_doubling')}" for of, row in rows.items())
        for ladder, rows in (("width", wide), ("depth", deep))
    )
    leads = "; ".join(
        f"{r['size']} {signed(r, 'minus_edp')}" for r in found["success"] if r["method"] == "qgf"
    )
    loss = [_told(slope["width", "bc_loss", agent]) for agent in ("iql", "edp")]
    same = loss[0] == loss[1]
    flows = f"both flows {loss[0]}" if same else f"QGF's flow {loss[0]}, EDP's {loss[1]}"
    floor = [
        size
        for size in dict.fromkeys(r["size"] for r in found["success"])
        if not any(r["success"] for r in found["success"] if r["size"] == size)
    ]
    at_floor = f" (nothing succeeds at {', '.join(floor)})" if floor else ""
    return Finding(
        "QGF gains from larger networks, as its training is stable (Fig 9)",
        f"its success {_both(wide['qgf'], deep['qgf'])}{at_floor}; its lead over EDP "
        f"{_both(wide['qgf − edp'], deep['qgf − edp'])}; the reason is not tested",
        f"{found['updates']:,} updates, {len(found['seeds'])} seeds; for twice the parameters, "
        f"{per} (t over seeds); qgf − edp on the same episodes: {leads}; held-out "
        f"cloning loss of {flows}; while it trains, QGF's rises by "
        f"{100 * found['bc_rise']:.1f}% at most",
        "qgf-ref study scaling",
    )


def _told(row: Mapping[str, Any]) -> str:
    """Whether a slope's interval leaves 0 out."""
    if row["per_doubling_low"] > 0:
        return "rises"
    return "falls" if row["per_doubling_high"] < 0 else "cannot be told from level"


def _both(wide: Mapping[str, Any], deep: Mapping[str, Any]) -> str:
    """The slopes along width and along depth in words."""
    one, other = _told(wide), _told(deep)
    if one == other:
        return f"{one} with width and depth"
    return f"{one} with width and {other} with depth"


def scaling_table(results: Path = RESULTS) -> str:
    """A row for each size: success, the difference, losses, speed and memory."""
    found = study("scaling", results)
    by = {(r["method"], r["size"]): r for r in found["success"]}
    cost = {(r["agent"], r["size"]): r for r in found["costs"]}
    lines = []
    for size in dict.fromkeys(r["size"] for r in found["success"]):
        bc, qgf, edp = (by[name, size] for name in ("bc", "qgf", "edp"))
        pair = cost["iql", size], cost["edp", size]

        def both(name: str, form: str, of: Any = pair, unit: float = 1.0) -> str:
            return " / ".join(format(r[name] * unit, form) for r in of)

        lines.append(
            [
                size, f"{qgf['parameters']:,}", f"{bc['success']:.2f}",
                *(f"{interval(r, 'success')}, {r['chosen'].rpartition('=')[2]}"
                  for r in (qgf, edp)),
                signed(qgf, "minus_edp"), both("bc_loss", ".3f"), both("critic_loss", ".1f"),
                both("updates_per_second", ".0f"), both("state_bytes", ".1f", unit=1e-6),
            ]
        )  # fmt: skip
    header = ["size", "parameters", "bc", "qgf, w", "edp, its weight", "qgf − edp", "cloning loss",
              "critic's loss", "updates/s", "state, MB"]  # fmt: skip
    return markdown_table(header, lines) + "\n"
