"""Ports with a mistake and right ones, judged in processes: a table, and a result's two files."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qgf_ref.files import write_atomically, write_json
from qgf_ref.provenance import provenance

RESULTS = Path(__file__).resolve().parent / "results"
Tasks = Sequence[tuple[Any, ...]]


def run(
    name: str,
    about: str | None,
    argv: list[str] | None,
    broken: tuple[Callable[..., Any], Tasks, int],
    right: tuple[Callable[..., Any], Tasks, int],
    table: Callable[[list[Any], list[Any]], str],
) -> int:
    """Judge, print the table, write results/NAME.{json,md} unless a part was run; 1 if an outcome
    is not `named`.

    broken, right  what judges a port, its arguments for each, and how many `--smoke` passes over
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a part; nothing is written")
    parser.add_argument("--only", metavar="WORD", help="what begins so; the other rows stay")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args(argv)
    outcomes: dict[str, list[Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        for kind, (judge, every, stride) in {"broken": broken, "right": right}.items():
            tasks = [t for t in every if t[0].startswith(args.only or "")]
            tasks = tasks[::stride] if args.smoke else tasks
            said = pool.map(judge, *zip(*tasks, strict=True))
            outcomes[kind] = list(tqdm(said, desc=kind, total=len(tasks), disable=None))
    origin: dict[str, Any] = provenance()
    if args.only and not args.smoke:
        origin = _with_the_others(name, args.only, outcomes, origin)
    text = table(outcomes["broken"], outcomes["right"])
    for row in origin.get("rows", ()):
        text += f"\n* `{row['only']}…`: made alone, by `--only {row['only']}`, at `{row['commit']}`"
    print(text)
    if not args.smoke:
        content = {kind: [vars(o) for o in of_kind] for kind, of_kind in outcomes.items()}
        write_json(RESULTS / f"{name}.json", {**content, **origin})
        write_atomically(RESULTS / f"{name}.md", (text + "\n").encode())
    return int(not all(o.named for of_kind in outcomes.values() for o in of_kind))


def _with_the_others(
    name: str, only: str, outcomes: dict[str, list[Any]], origin: dict[str, Any]
) -> dict[str, Any]:
    """Put the result's other outcomes before the new ones; its provenance, and theirs in `rows`."""
    earlier = json.loads((RESULTS / f"{name}.json").read_text())
    for kind, new in outcomes.items():
        told = [{k: tuple(v) if isinstance(v, list) else v for k, v in o.items()}
                for o in earlier.pop(kind)]  # fmt: skip
        others = [
            type(new[0])(**o) for o in told if not str(next(iter(o.values()))).startswith(only)
        ]
        outcomes[kind] = [*others, *new]
    rows = [row for row in earlier.pop("rows", []) if not row["only"].startswith(only)]
    return {**earlier, "rows": [*rows, {"only": only, **origin}]}
