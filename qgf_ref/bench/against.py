"""A measurement beside an earlier one: ratio, interval and verdict for each cell and contender."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.errors import InputError, reason
from qgf_ref.file_kinds import require_text
from qgf_ref.files import user_path
from qgf_ref.tables import text_table

MARGIN = 1.05
"""A ratio within which nothing is said: the least that a quiet machine tells apart."""
_DRAWS = 2000
_CELL = ("estimator", "dtype", "network", "batch", "threads", "denoise_steps")


def earlier(path: Path) -> dict[str, Any]:
    """The bench.json at `path`. Raises InputError when it is none."""
    try:
        data = user_path(path).read_bytes()
        require_text(data, path)
        content = json.loads(data)
        _seconds(content)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no bench.json of qgf-ref bench ({type(error).__name__}: {error}): give one "
            "that it has written"
        ) from error
    return dict(content)


def against(new: dict[str, Any], old: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each cell and contender of both: `ratio`, new time over old time at the medians,
    with `low` and `high` (95%, bootstrap over the rounds of each); `verdict`; `product`, the same
    ratio of the machine's own matrix product, which tells a slower machine from slower code.
    """
    before = _seconds(old)
    rng = np.random.default_rng(0)
    rows = []
    for key, (seconds, peak) in _seconds(new).items():
        if key not in before:
            continue
        old_seconds, old_peak = before[key]
        medians = [
            np.median(rng.choice(s, (_DRAWS, len(s))), axis=1) for s in (seconds, old_seconds)
        ]
        low, high = (float(x) for x in np.percentile(medians[0] / medians[1], (2.5, 97.5)))
        slower, faster = low > MARGIN, high < 1 / MARGIN
        rows.append(
            {
                **dict(zip((*_CELL, "contender"), key, strict=True)),
                "ratio": float(np.median(seconds) / np.median(old_seconds)),
                "low": low,
                "high": high,
                "verdict": "slower" if slower else "faster" if faster else "not told apart",
                "product": old_peak / peak,
            }
        )
    return rows


def text(rows: list[dict[str, Any]], new: dict[str, Any], old: dict[str, Any]) -> str:
    """The rows as a table of at most 100 columns, and what to know of the two machines."""
    header = [
        "network",
        "batch",
        "contender",
        "estimator",
        "time ÷ old",
        "95%",
        "verdict",
        "product",
    ]
    table = text_table(
        header,
        [
            [
                row["network"], str(row["batch"]), row["contender"][:20], row["estimator"][:22],
                f"{row['ratio']:.2f}", f"{row['low']:.2f}–{row['high']:.2f}", row["verdict"],
                f"{row['product']:.2f}",
            ]
            for row in rows
        ],
        left=(0, 2, 3, 6),
    )  # fmt: skip
    lines = [f"against {old.get('commit', 'an unknown commit')}, {old.get('time', '')}:", table]
    for what in ("processor", "cores"):
        if old.get(what) != new.get(what):
            lines.append(f"another {what}: {old.get(what)} then, {new.get(what)} now")
    lines.append("product: the machine's own matrix product now over then; above 1 it was slower")
    return "\n".join(lines)


def _seconds(content: dict[str, Any]) -> dict[tuple[Any, ...], tuple[list[float], float]]:
    """By cell and contender: the seconds of each round, and the fastest product of the run."""
    return {
        (*(row[name] for name in _CELL), contender): (
            [float(s) for s in entry["seconds_of_each_round"]], float(row["gemm_peak_gflops"])
        )
        for row in content["rows"]
        for contender, entry in row["contenders"].items()
    }  # fmt: skip
