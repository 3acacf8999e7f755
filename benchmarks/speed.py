"""How fast is the sampler, against JAX and PyTorch on the same cores, and against the machine?

    python benchmarks/speed.py             (about 25 minutes, on an otherwise idle machine)
    python benchmarks/speed.py --isa avx2  (where the processor has more: `benchmarks.isa`)
    python benchmarks/speed.py --smoke     (about a minute, noisy, writes nothing)

`qgf-ref bench` with our own peers (benchmarks/peers/speed_*.py): all contenders are compared with
the float64 reference, then timed in turns. qgf at every batch; qgf_jacobian, also in the official
formulation (the whole Jacobian for each row), and bptt at some. Writes
benchmarks/results/speed.json, .md and .png, or speed_avx2. Needs Linux and the `peers` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.isa import SETS, environment, ran  # noqa: E402
from qgf_ref.bench.measure import spread  # noqa: E402
from qgf_ref.bench.report import ABOVE, interval, markdown, number, over, share, text  # noqa: E402
from qgf_ref.bench.roofline import roofline  # noqa: E402
from qgf_ref.bench.run import benchmark, ceilings, origin  # noqa: E402
from qgf_ref.bench.settings import NETWORKS, BenchSettings, Peer  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.plotting import png  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
HELD = "QGF_REF_BENCHMARK_ISA"
"""Set in a process whose libraries are held to an instruction set."""
OURS, OURS_NUMPY, JAX, FORMED = "numba", "numpy", "JAX", "JAX, official Jacobian"
TORCH = ("PyTorch", "PyTorch compiled", "PyTorch autotuned")
DEPLOYED = ("ONNX Runtime", "OpenVINO")
PEERS = (
    Peer(JAX, "benchmarks.peers.speed_jax:sampler"),
    Peer(FORMED, "benchmarks.peers.speed_jax:official_jacobian"),
    Peer(TORCH[0], "benchmarks.peers.speed_torch:eager"),
    Peer(TORCH[1], "benchmarks.peers.speed_torch:compiled"),
    Peer(TORCH[2], "benchmarks.peers.speed_torch:autotuned"),
    Peer(DEPLOYED[0], "benchmarks.peers.speed_onnx:onnxruntime"),
    Peer(DEPLOYED[1], "benchmarks.peers.speed_onnx:openvino"),
)
BATCHES = {
    "qgf": (1, 16, 64, 256, 1024, 4096),
    "qgf_jacobian": (1, 64, 256),
    "bptt": (1, 64, 256),
}
OTHER_BATCHES = (1, 64, 256)
"""Of an estimator that is not in `BATCHES`."""
MOST_NUMPY = 256
"""Rows, above which the NumPy backend is left out: it is the reference, not a contender."""


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All estimators: rows, notes and origin, as `benchmark` gives them for one."""
    common = BenchSettings(
        networks=tuple(args.networks or (("3x256",) if args.smoke else NETWORKS)),
        peers=tuple(p for p in PEERS if args.autotuned or p.name != TORCH[2]),
        skip=((OURS_NUMPY, MOST_NUMPY),),
        rounds=args.rounds or (3 if args.smoke else 9),
        cell=2.0 if args.smoke else 5.0,
        memory=args.memory,
        seed=args.seed,
        threads=(args.threads,) if args.threads else (),
    )
    started, found = time.perf_counter(), None
    for name in args.estimators or (("qgf",) if args.smoke else tuple(BATCHES)):
        usual = (1, 64) if args.smoke else BATCHES.get(name, OTHER_BATCHES)
        settings = replace(common, estimators=(name,), batches=tuple(args.batches or usual))
        part = benchmark(settings, first=found is None)
        if part["refused"]:
            raise SystemExit("; ".join(part["refused"].values()))
        if found is None:
            found = part
        else:
            found["rows"] += part["rows"]
            found["notes"] += [note for note in part["notes"] if note not in found["notes"]]
    assert found is not None
    ceilings(found["rows"])
    found["seconds"] = time.perf_counter() - started
    found["isa"] = {"asked": args.isa, "ran": ran(args.isa)}
    where = origin()
    for row in found["rows"]:
        row["commit"], row["time"] = where["commit"], where["time"]
    return {**found, **where}


def replaced(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the rows of `new` in place of its own for the same cells.

    Ratios and shares are within a row, and each row says which commit it is of.
    """

    def cell(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("estimator", "network", "batch", "dtype", "threads"))

    rows = {cell(row): {"commit": old["commit"], "time": old["time"], **row} for row in old["rows"]}
    unknown = [cell(row) for row in new["rows"] if cell(row) not in rows]
    if unknown:
        raise SystemExit(f"the results have no such cells to replace: {unknown}")
    rows |= {cell(row): row for row in new["rows"]}
    notes = list(dict.fromkeys([*old["notes"], *new["notes"]]))
    seconds = old["seconds"] + new["seconds"]
    return {**new, "rows": list(rows.values()), "notes": notes, "seconds": seconds}


def table(content: dict[str, Any]) -> str:
    """The page's table: ours, and how many times as long the others take."""
    parts = []
    for name in dict.fromkeys(row["estimator"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["estimator"] == name]
        formed = any(FORMED in row["contenders"] for row in rows)
        header = ["network", "batch", "samples/s", "ms a call", "faster than JAX"]
        header += ["than the official formulation"] * formed
        others = [n for n in DEPLOYED if any(n in row["contenders"] for row in rows)]
        header += ["than PyTorch", *(f"than {n}" for n in others), "of the ceiling"]
        parts += [
            f"`{name}`:",
            "",
            markdown_table(header, (_cells(row, formed, others) for row in rows)),
            "",
        ]
    row = content["rows"][0]
    parts.append(
        f"{row['threads']} threads, {row['dtype']}, T = {row['denoise_steps']}. Rounds of all in "
        "turn: medians; ratios, taken within each round, with 25%–75%. PyTorch: its fastest mode "
        "(e eager, c compiled, a autotuned and frozen). Ceiling: the fastest matrix product of the "
        f"same run ({row['gemm_peak_gflops']:.0f} GFLOP/s); at batch 1 the rate of reading as many "
        f"bytes as the networks have ({_reads(content['rows'])}). {steadiness(content['rows'])}"
    )
    if "isa" in content:
        parts += ["", vectors(content["isa"])]
    if over(content["rows"]):
        parts += ["", ABOVE]
    return "\n".join(parts) + "\n"


def steadiness(rows: Sequence[dict[str, Any]]) -> str:
    """How far the machine's own product was from its fastest, which says how idle it was."""
    slowest, middle = (
        min(row["gemm_gflops"][which] / row["gemm_peak_gflops"] for row in rows)
        for which in ("q25", "median")
    )
    return (
        f"That product, timed in the same rounds, ran in no cell below {middle:.0%} of its fastest "
        f"(a quarter of the rounds: {slowest:.0%})."
    )


def vectors(isa: dict[str, Any]) -> str:
    """Which instruction set each contender ran."""
    told = "; ".join(f"{who} {each['says']}" for who, each in isa["ran"].items())
    wider = [who for who, each in isa["ran"].items() if each["wider"]]
    line = f"Instruction sets: {told}."
    if not wider:
        return line
    return (
        f"{line} Asked for {isa['asked']}, {' and '.join(wider)} multiplied matrices faster than "
        "it can: they ran wider vectors."
    )


def _cells(row: dict[str, Any], formed: bool, others: Sequence[str]) -> list[str]:
    ours = row["contenders"][OURS]
    which, torch = better(row)
    measured = "read" if row["batch"] == 1 else "gemm"
    unit = "reading" if row["batch"] == 1 else "products"
    cells = [
        row["network"],
        str(row["batch"]),
        number(ours["samples_per_second"]["median"]),
        interval(ours["seconds"], 1e3),
        _times(row, JAX),
    ]
    cells += [_times(row, FORMED)] * formed
    cells.append(f"**{interval(torch)}** {which}" if torch else "–")
    cells += [_times(row, name) for name in others]
    return [*cells, f"{share(ours, f'share_of_{measured}_peak')} {unit}"]


def better(row: dict[str, Any]) -> tuple[str, dict[str, float] | None]:
    """PyTorch's mode of the smallest median, "e", "c" or "a", and how many times ours it takes."""
    found = {name: row["contenders"][name] for name in TORCH if name in row["contenders"]}
    if not found:
        return "", None
    fastest = min(found, key=lambda name: found[name]["seconds"]["median"])
    return "eca"[TORCH.index(fastest)], _against(row, fastest)


def _against(row: dict[str, Any], name: str) -> dict[str, float]:
    pair = {n: row["contenders"][n]["seconds_of_each_round"] for n in (name, OURS)}
    return spread([theirs / ours for theirs, ours in zip(*pair.values(), strict=True)])


def _times(row: dict[str, Any], name: str) -> str:
    return f"**{interval(_against(row, name))}**" if name in row["contenders"] else "–"


def _reads(rows: Sequence[dict[str, Any]]) -> str:
    found = {row["network"]: row["read_peak_gbytes"] for row in rows}
    return ", ".join(f"{name} {rate:.0f} GB/s" for name, rate in found.items())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short, noisy run")
    parser.add_argument("--networks", nargs="+", metavar="LxW", help=f"default {NETWORKS}")
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="of all estimators")
    parser.add_argument("--estimators", nargs="+", metavar="E", help=f"default {tuple(BATCHES)}")
    parser.add_argument("--rounds", type=int, help="at most (default 9; smoke 3)")
    parser.add_argument("--threads", type=int, help="cores (default all)")
    parser.add_argument(
        "--autotuned", action="store_true", help=f"also {TORCH[2]}, which compiles long"
    )
    parser.add_argument("--isa", choices=tuple(SETS), default="native", help="hold all to it")
    parser.add_argument("--memory", action="store_true", help="also peak memory: minutes more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--replace", action="store_true", help="measure some cells again, keep the others' results"
    )
    parser.add_argument("--out", type=Path, help=f"directory (default {RESULTS}; smoke: none)")
    args = parser.parse_args()
    if SETS[args.isa] and os.environ.get(HELD) != args.isa:
        env = {**environment(args.isa), HELD: args.isa}
        os.execve(sys.executable, [sys.executable, *sys.argv], env)
    name = "speed" if args.isa == "native" else f"speed_{args.isa}"
    content = measure(args)
    if args.replace:
        old = json.loads(((args.out or RESULTS) / f"{name}.json").read_text())
        content = replaced(old, content)
    print(text(content))
    page = table(content)
    print(f"\n{page}\n{content['seconds']:.0f} s")
    out = args.out or (None if args.smoke else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", content)
        write_atomically(out / f"{name}.md", page.encode())
        write_atomically(out / f"{name}_all.md", markdown(content, f"{name}.png").encode())
        write_atomically(out / f"{name}.png", png(roofline(content["rows"])))
        print(f"wrote {out / name}.json, {name}.md, {name}_all.md and {name}.png")


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
