"""Reading what studies and suites left in benchmarks/results, and saying it shortly."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"


class Finding(NamedTuple):
    """A claim, what our numbers say of it, the numbers, and the command that makes them."""

    claim: str
    verdict: str
    evidence: str
    command: str


def study(name: str, results: Path = RESULTS) -> dict[str, Any]:
    """A study's JSON."""
    found: dict[str, Any] = json.loads((results / f"study_{name}.json").read_text())
    return found


def rows(name: str, results: Path = RESULTS) -> list[dict[str, str]]:
    """A study's CSV."""
    with (results / f"study_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def suite(name: str, results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """A success suite's rows by method."""
    found = json.loads((results / f"success_{name}.json").read_text())["rows"]
    return {row["method"]: row for row in found}


def mean_curves(name: str, results: Path = RESULTS) -> dict[str, dict[float, float]]:
    """Of a success suite: success on the selection episodes by method and weight, mean of tasks."""
    tasks = json.loads((results / f"success_{name}.json").read_text())["tasks"]
    found: dict[str, dict[float, list[float]]] = {}
    for row in (r for t in tasks for r in t["selection"]):
        found.setdefault(row["method"], {}).setdefault(row["weight"], []).append(row["success"])
    return {m: {w: sum(x) / len(x) for w, x in sorted(c.items())} for m, c in found.items()}


def goal_curve(name: str, method: str, results: Path = RESULTS) -> dict[float, list[float]]:
    """Of a suite on goals: success on the selection episodes by weight, goal by goal."""
    (task,) = json.loads((results / f"success_{name}.json").read_text())["tasks"]
    found: dict[float, list[float]] = {}
    for row in task["by_goal"]:
        if (row["method"], row["split"]) == (method, "selection"):
            found.setdefault(row["weight"], []).append(row["success"])
    return found


def verdict(holds: int, of: int) -> str:
    """Everywhere, nowhere, or in between."""
    return "holds" if holds == of else "contradicted" if holds == 0 else "mixed"


def interval(row: Mapping[str, Any], name: str = "") -> str:
    """0.85 (0.81–0.88)."""
    value = row[name] if name else row["value"]
    low, high = (row[f"{name}_{end}"] if name else row[end] for end in ("low", "high"))
    return f"{float(value):.2f} ({float(low):.2f}–{float(high):.2f})"


def signed(row: Mapping[str, Any], name: str) -> str:
    """+0.03 (−0.01 to +0.07)."""
    text = f"{row[name]:+.2f} ({row[f'{name}_low']:+.2f} to {row[f'{name}_high']:+.2f})"
    return text.replace("-", "−")
