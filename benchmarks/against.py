"""Is this tree as fast as another commit, on the same machine, in turns?

    python benchmarks/against.py 4b0d202                         (about ten minutes)
    python benchmarks/against.py 4b0d202 --networks 3x256 --batches 1 --estimators qgf

A commit is exported; a directory with a tree is taken as it is. Each tree runs in a process of its
own, and the two take turns, A B, B A, …, of some calls each, of `sample` or of a training update
(rows 256). A turn counts with its fastest call, in processor time, which other programs disturb
least, and in wall time. Ratios, the other tree's time by this one's, are taken within each round;
above 1 this tree is faster. Bits are compared, too. Needs the `peers` extra.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TREE = "QGF_REF_AGAINST_TREE"
"""Environment variable with the tree that a worker imports."""
sys.path.insert(0, os.environ.get(TREE, str(ROOT)))

NETWORKS, BATCHES, THREADS = ("3x256", "4x512", "4x1024"), (1, 8, 64, 256), (1, 2)
TRAINING, ROWS = "training", 256
"""Stands among the estimators for an update, of so many rows."""
TURN = 0.1
"""Seconds of calls in a turn; at least one call."""
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


class Cell(NamedTuple):
    """What is timed."""

    estimator: str
    network: str
    batch: int
    threads: int


def prepared(cell: Cell) -> Callable[[], Any]:
    """In a worker: what one repetition calls, with imports that both trees know."""
    import qgf_ref
    from benchmarks.peers.compare import Ours, checkpoint_of, samples

    layers, width = map(int, cell.network.split("x"))
    checkpoint = checkpoint_of((width,) * layers, 0)
    data = samples(cell.batch, 1)
    if cell.estimator == TRAINING:
        ours = Ours(checkpoint, checkpoint.hyperparameters(), "numba", cell.threads)
        batches = itertools.cycle(data)
        return lambda: list(ours.step(next(batches)).values())
    batch, drawn = data[0][:2]
    noise = drawn["x0"] if isinstance(drawn, dict) else drawn  # the array itself, in older trees
    flow, threads = checkpoint.flow, cell.threads
    return lambda: qgf_ref.sample(
        flow, batch.obs, estimator=cell.estimator, weight=0.1, noise=noise, backend="numba",
        threads=threads,
    )  # fmt: skip


def work() -> None:
    """In a worker: answers each line, a cell or a number of repetitions, with a line of JSON."""
    call: Callable[[], Any] = list
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any]
        if isinstance(asked, list):
            call = prepared(Cell(*asked))
            bits = hashlib.sha256(np.asarray(call()).tobytes()).hexdigest()
            answer = {"bits": bits, "seconds": min(_clocked(call)["wall"] for _ in range(3))}
        else:
            calls = [_clocked(call) for _ in range(asked)]
            answer = {name: min(each[name] for each in calls) for name in CLOCKS}
        print(json.dumps(answer), flush=True)


def _clocked(call: Callable[[], Any]) -> dict[str, float]:
    before = {name: clock() for name, clock in CLOCKS.items()}
    call()
    return {name: clock() - before[name] for name, clock in CLOCKS.items()}


class Worker(subprocess.Popen[str]):
    """A process that imports one tree."""

    def __init__(self, tree: Path) -> None:
        environment = {**os.environ, TREE: str(tree), "JAX_PLATFORMS": "cpu"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, __file__, "--worker"]
        super().__init__(command, cwd=tree, env=environment, text=True, stdin=-1, stdout=-1)

    def ask(self, question: Any) -> dict[str, Any]:
        """The answer. Raises SystemExit when the process has died."""
        assert self.stdin is not None and self.stdout is not None
        self.stdin.write(json.dumps(question) + "\n")
        self.stdin.flush()
        line = self.stdout.readline()
        if not line:
            raise SystemExit(f"a worker died at {question}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The tree of a commit, exported for as long as this lasts; or a directory, as it is.

    Raises InputError on what is neither: a worker would import whatever is installed.
    """
    from qgf_ref.errors import InputError

    if Path(revision).is_dir():
        if not (Path(revision) / "qgf_ref" / "__init__.py").exists():
            raise InputError(f"{revision} holds no tree of this repository: no qgf_ref in it")
        yield Path(revision).resolve()
        return
    named = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    if subprocess.run(named, stdout=subprocess.DEVNULL, check=False).returncode:
        raise InputError(f"{revision} is neither a commit of this repository nor a directory")
    with tempfile.TemporaryDirectory() as place:
        command = ["git", "-C", str(ROOT), "archive", revision]
        archive = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        yield Path(place)


def measure(cell: Cell, workers: Sequence[Worker], rounds: int) -> dict[str, Any]:
    """One cell. By clock: seconds (least) of the other and of this tree; ratios other/this."""
    from qgf_ref.bench.measure import spread

    first = [worker.ask(cell) for worker in workers]
    repetitions = max(1, math.ceil(TURN / min(answer["seconds"] for answer in first)))
    timings: list[list[dict[str, Any]]] = []
    for n in range(rounds):
        order = (0, 1) if n % 2 else (1, 0)
        answers = {k: workers[k].ask(repetitions) for k in order}
        timings.append([answers[0], answers[1]])
    found: dict[str, Any] = {**cell._asdict(), "repetitions": repetitions, "rounds": rounds}
    for clock in CLOCKS:
        pairs = [(other[clock], this[clock]) for other, this in timings]
        least = [min(times) for times in zip(*pairs, strict=True)]
        ratios = spread([other / this for other, this in pairs])
        found[clock] = {"least": least, "ratio": ratios, "ratio_of_least": least[0] / least[1]}
    return {**found, "same_bits": first[0]["bits"] == first[1]["bits"]}


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    cpu, wall = row["cpu"], row["wall"]
    spread = "{median:.3f} ({q25:.2f}–{q75:.2f})".format(**cpu["ratio"])
    least = f"{cpu['ratio_of_least']:.3f}, {wall['ratio_of_least']:.3f}"
    what = [f"{row[name]}" for name in Cell._fields]
    return [*what, f"{1e3 * wall['least'][1]:.2f}", spread, least, str(row["same_bits"]).lower()]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("revision", nargs="?", default="HEAD", help="a commit, or a directory")
    parser.add_argument("--estimators", nargs="+", default=["qgf", TRAINING])
    parser.add_argument("--networks", nargs="+", metavar="LxW", default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", default=BATCHES)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, metavar="FILE", help="writes JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
        return
    started, rows = time.perf_counter(), []
    wanted = [
        Cell(estimator, network, batch, threads)
        for estimator in args.estimators
        for network in args.networks
        for batch in ((ROWS,) if estimator == TRAINING else args.batches)
        for threads in args.threads
    ]
    with tree_of(args.revision) as other:
        workers = [Worker(tree) for tree in (other, ROOT)]
        try:
            for cell in wanted:
                rows.append(measure(cell, workers, args.rounds))
                print(*cells(rows[-1]), sep="  ", flush=True)
        finally:
            for worker in workers:
                worker.kill()
    from qgf_ref.files import write_json
    from qgf_ref.provenance import provenance
    from qgf_ref.tables import markdown_table

    header = [*Cell._fields, "ms", "× median (25%–75%)", "least: cpu, wall", "same bits"]
    print(f"\n{markdown_table(header, map(cells, rows))}\n")
    if args.out is not None:
        seconds = time.perf_counter() - started
        content = {"against": args.revision, "rows": rows, "seconds": seconds, **provenance()}
        write_json(args.out, content)


if __name__ == "__main__":
    if TREE in os.environ:  # a worker, by a tree that may lack what follows
        main()
    else:
        from benchmarks.command import ended

        sys.exit(ended(main))
