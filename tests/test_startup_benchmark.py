"""benchmarks/startup.py: its table, and that a process which says the wrong thing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import startup


def content(warm: float) -> dict[str, Any]:
    slow, fast = startup.spread([0.1, 0.123456, 0.2]), startup.spread([0.001234])
    results: dict[str, Any] = {"import": {"first": slow}, "help": {"first": slow}}
    for kind in ("cold", "warm", "jax"):
        results[f"{kind} 4x1024"] = {"first": startup.spread([warm, 2 * warm]), "second": fast}
    return {"rounds": 3, "results": results}


def test_the_table_fits_and_says_what_is_missed() -> None:
    page = startup.table(content(0.5))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert max(map(len, rows)) <= 100
    assert "| `import qgf_ref` | 0.123 s (0.1–0.2) |  | < 0.4 s: reached |" in rows
    assert "missed" not in page
    assert "< 1 s: **missed, 1.5 s**" in startup.table(content(1.0))


@pytest.mark.parametrize(
    ("kind", "said", "error", "message"),
    [
        ("cold", "", 0.0, "must say"),
        ("warm", "qgf_ref: compiling", 0.0, "must not say"),
        ("warm", "", 1e-3, "the action is off by 0.001"),
        ("jax", "", float("nan"), "the action is off by nan"),
    ],
)
def test_a_wrong_process_is_refused(
    kind: str, said: str, error: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(stderr=said, stdout=json.dumps({"first": 1.0, "error": error}))
    monkeypatch.setattr(startup, "run", lambda *_: answer)
    with pytest.raises(SystemExit, match=message):
        startup.ask(kind, Path("model"), Path("cache"))
