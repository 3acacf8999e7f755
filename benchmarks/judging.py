"""Ports with a mistake and right ones, judged in processes: a table, and a result's two files."""

from __future__ import annotations

import argparse
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
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args(argv)
    outcomes: dict[str, list[Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        for kind, (judge, every, stride) in {"broken": broken, "right": right}.items():
            tasks = every[::stride] if args.smoke else every
            said = pool.map(judge, *zip(*tasks, strict=True))
            outcomes[kind] = list(tqdm(said, desc=kind, total=len(tasks), disable=None))
    text = table(outcomes["broken"], outcomes["right"])
    print(text)
    if not args.smoke:
        content = {kind: [vars(o) for o in of_kind] for kind, of_kind in outcomes.items()}
        write_json(RESULTS / f"{name}.json", {**content, **provenance()})
        write_atomically(RESULTS / f"{name}.md", (text + "\n").encode())
    return int(not all(o.named for of_kind in outcomes.values() for o in of_kind))
