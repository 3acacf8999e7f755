"""How fast is a training update, against the same update jitted by JAX on the same cores?

    python benchmarks/train_speed.py            (some minutes, on an otherwise idle machine)
    python benchmarks/train_speed.py --smoke    (about a minute, noisy, writes nothing)

For all cores and for one: a child process that may use only those cores checks that both
implementations compute the same, then times them in turns (A B A B …) together with a large matrix
product, the measure of what the cores can do. Writes benchmarks/results/train_speed.json and .md.
Needs Linux and the `peers` extra.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.peers import jax_update  # noqa: E402
from benchmarks.peers.compare import (  # noqa: E402
    Contender,
    Jax,
    Ours,
    Sample,
    checkpoint_of,
    disagreement,
    gemm_flops,
    require_equal,
    samples,
)
from qgf_ref.bench.measure import settle, spread  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PRESETS = {"small": ((256,) * 3, 256), "paper": ((1024,) * 4, 1024)}
"""Hidden layers, rows of a batch."""
GEMM = 1024
CPU_BACKENDS = ("numpy", "numba")
"""What JAX on a CPU is compared with; a GPU's training is measured by benchmarks/gpu.py."""
CONTENDERS = (*CPU_BACKENDS, "jax")


class Timing(NamedTuple):
    """Of one round: seconds for one repetition, and cores kept busy (processor time / wall)."""

    seconds: float
    cores: float


def timed(run: Callable[[], object], finish: Callable[[], None], repetitions: int) -> Timing:
    """One round."""
    started, busy = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        run()
    finish()
    seconds = time.perf_counter() - started
    return Timing(seconds / repetitions, (time.process_time() - busy) / seconds)


def measure(preset: str, cores: int, rounds: int, target: float, seed: int) -> dict[str, Any]:
    """One preset in this process, which has `cores`. `target`: seconds for one turn."""
    hidden, rows = PRESETS[preset]
    checkpoint, data = checkpoint_of(hidden, seed), samples(rows, seed + 1)
    hyper = checkpoint.hyperparameters()
    ours = {name: Ours(checkpoint, hyper, name, cores) for name in CPU_BACKENDS}
    theirs = Jax(checkpoint, hyper)
    first, second = (
        timed(lambda: theirs.step(data[0]), theirs.finish, 1).seconds for _ in range(2)
    )
    found = {}
    for name, contender in ours.items():
        theirs.state = jax_update.initial_state(checkpoint)
        found[name] = disagreement(checkpoint, contender, theirs, data)
        require_equal(found[name])

    x = np.random.default_rng(seed).standard_normal((GEMM, GEMM)).astype(np.float32)
    y = jnp.asarray(x)
    product = jax.jit(jnp.matmul)
    turns: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
        **{name: (_cycle(contender, data), contender.finish) for name, contender in ours.items()},
        "jax": (_cycle(theirs, data), theirs.finish),
        "gemm_blas": (lambda: x @ x, lambda: None),
        "gemm_xla": (lambda: product(y, y).block_until_ready(), lambda: None),
    }
    repetitions = {}
    for name, (run, finish) in turns.items():
        part = target / 5 if name.startswith("gemm") else target
        repetitions[name] = max(
            5 if name.startswith("gemm") else 1, math.ceil(part / timed(run, finish, 1).seconds)
        )
    timings: dict[str, list[Timing]] = {name: [] for name in turns}
    with tqdm(total=rounds * len(turns), desc=preset, disable=None) as bar:
        for _ in range(rounds):
            for name, (run, finish) in turns.items():
                settle()
                if name.startswith("gemm"):  # a peak, hence the fastest single product
                    each = (timed(run, finish, 1) for _ in range(repetitions[name]))
                    timings[name].append(min(each))
                else:
                    timings[name].append(timed(run, finish, repetitions[name]))
                bar.update()
    return {
        "preset": preset,
        "hidden": list(hidden),
        "batch": rows,
        "xla_threads": _thread_count("XLAEigen"),
        "blas": [i["num_threads"] for i in threadpool_info() if i.get("user_api") == "blas"],
        "compile_seconds": first - second,
        "disagreement": found,
        "updates_in_a_turn": repetitions,
        **summary(timings, gemm_flops(checkpoint, rows)),
    }


def summary(timings: dict[str, list[Timing]], flops: int) -> dict[str, Any]:
    """Medians, quartiles and extremes of the rounds; ratios are taken within each round."""
    gemm = 2 * GEMM**3
    fastest = {n: min(x.seconds for x in timings[n]) for n in ("gemm_blas", "gemm_xla")}
    peak = gemm / min(fastest.values())
    result: dict[str, Any] = {
        "gemm_flops_per_update": flops,
        "gemm_peak_gflops": peak / 1e9,
        "gemm_gflops": {name: gemm / seconds / 1e9 for name, seconds in fastest.items()},
    }
    for name in CONTENDERS:
        rates = [1 / x.seconds for x in timings[name]]
        result[name] = {
            "updates_per_second": spread(rates),
            "cores_busy": statistics.median(x.cores for x in timings[name]),
            "share_of_gemm_peak": statistics.median(rates) * flops / peak,
            "seconds_of_each_round": [x.seconds for x in timings[name]],
        }
    for name in CPU_BACKENDS:
        pairs = zip(timings[name], timings["jax"], strict=True)
        result[name]["ratio"] = spread([theirs.seconds / ours.seconds for ours, theirs in pairs])
    return result


def child(cores: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every preset in a fresh process that is bound to `cores` cores."""
    available = os.sched_getaffinity(0)
    threads = {f"{n}_NUM_THREADS": str(cores) for n in ("OPENBLAS", "MKL", "OMP")}
    command = [sys.executable, __file__, "--child", str(cores), "--seed", str(args.seed)]
    command += ["--rounds", str(args.rounds), "--seconds", str(args.seconds)]
    os.sched_setaffinity(0, set(sorted(available)[:cores]))  # the child inherits it
    try:
        run = subprocess.run(
            command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.sched_setaffinity(0, available)
    if run.returncode != 0:
        raise SystemExit(f"the measurement on {cores} cores failed; its message is above")
    return json.loads(run.stdout)


def markdown(results: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| preset | cores | backend | qgf_ref updates/s | JAX updates/s | qgf_ref / JAX | "
        "share of GEMM peak: qgf_ref, JAX |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, name in itertools.product(results, CPU_BACKENDS):
        rates = [interval(row[n]["updates_per_second"]) for n in (name, "jax")]
        shares = [f"{row[n]['share_of_gemm_peak']:.0%}" for n in (name, "jax")]
        lines.append(
            f"| `{row['preset']}` ({len(row['hidden'])}×{row['hidden'][0]}, batch {row['batch']}) "
            f"| {row['cores']} | {name} | {rates[0]} | {rates[1]} "
            f"| **{interval(row[name]['ratio'])}** | {shares[0]}, {shares[1]} |"
        )
    lines += ["", "Median (25%–75%) of interleaved rounds; the ratio is taken within each round."]
    if any(row[n]["share_of_gemm_peak"] > 1 for row in results for n in CONTENDERS):
        lines += [
            "",
            "**A share above 100%: the machine was not idle, these numbers mean little.**",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure on all cores and on one, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short, noisy run")
    parser.add_argument("--rounds", type=int, help="of every turn (default 11; smoke 1)")
    parser.add_argument("--seconds", type=float, help="of one turn (default 2; smoke 0.1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help=f"directory (default {RESULTS}; smoke: none)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.smoke else 11)
    args.seconds = args.seconds or (0.1 if args.smoke else 2.0)
    if args.child is not None:
        with threadpool_limits(args.child, user_api="blas"):
            rows = [
                measure(name, args.child, args.rounds, args.seconds, args.seed) for name in PRESETS
            ]
        print(json.dumps(rows))
        return
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("binding a process to cores needs Linux")

    origin = provenance()
    origin["versions"] |= {name: version(name) for name in ("jax", "jaxlib", "numba")}
    load = os.getloadavg()
    everything = len(os.sched_getaffinity(0))
    results = []
    for cores in sorted({everything, 1}, reverse=True):
        for row in child(cores, args):
            results.append({"cores": cores, **row})
            ratios = (f"{n} {row[n]['ratio']['median']:.2f}" for n in CPU_BACKENDS)
            print(f"{row['preset']:6} {cores} cores: qgf_ref/JAX = {', '.join(ratios)}")
    table = markdown(results)
    print(f"\n{table}")
    out = args.out or (None if args.smoke else RESULTS)
    if out is not None:
        settings = {"seed": args.seed, "rounds": args.rounds, "seconds_of_a_turn": args.seconds}
        content = {**settings, "load_average_before": load, "rows": results, **origin}
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "train_speed.json", content)
        write_atomically(out / "train_speed.md", table.encode())
        print(f"wrote {out / 'train_speed.json'} and .md")


def _cycle(contender: Contender, data: list[Sample]) -> Callable[[], object]:
    following = itertools.cycle(data)
    return lambda: contender.step(next(following))


def _thread_count(name: str) -> int:
    tasks = Path("/proc/self/task").iterdir()
    return sum(name in (task / "comm").read_text() for task in tasks)


def interval(values: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{values['median']:.3g} ({values['q25']:.3g}–{values['q75']:.3g})"


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
