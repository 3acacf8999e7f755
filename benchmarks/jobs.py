"""How long do jobs take that a user waits for? Whole processes, beside those of another commit.

    python benchmarks/jobs.py                            these jobs, by this tree alone
    python benchmarks/jobs.py --against 4b0d202          in turns with that commit's
    python benchmarks/jobs.py --only audit compare       some of them
    python benchmarks/jobs.py growth                     how cost grows: one exponent for each size

Each job is the command that a user types, in a process of its own, imports and machine code of the
cache included; one run before the turns fills that cache. Wall time, processor time of all its
processes, and the largest resident set of one. A job that ends with another exit code than it
should is told, and has no number. growth: processor time of one thread of `sample`, doubling one
size at a time; the exponent is that of the last doubling, between the medians of several turns.
Writes benchmarks/results/jobs.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.against import tree_of  # noqa: E402
from benchmarks.command import content_of, positive  # noqa: E402
from qgf_ref import sample  # noqa: E402
from qgf_ref.bench.settings import fresh_checkpoint  # noqa: E402
from qgf_ref.errors import InputError  # noqa: E402
from qgf_ref.files import write_atomically, write_json, write_npz  # noqa: E402
from qgf_ref.interop.native import save_checkpoint  # noqa: E402
from qgf_ref.progress import progress  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.sampling import trace  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
NETWORKS = {"4x256": (256,) * 4, "4x1024": (1024,) * 4}
ROWS = 64
Numbers = dict[str, float]

CHECK_SAMPLER = """
import qgf_ref
from qgf_ref.testing import check_sampler
ck = qgf_ref.load(dtype="float32")
flow = ck.guided_flow(embedding="float32")  # as the official code has it
def mine(obs, noise, weight):
    return qgf_ref.sample(flow, obs, weight=weight, noise=noise)
assert check_sampler(mine, ck).agrees
"""


@dataclass(frozen=True)
class Job:
    """A command after `python`, in which {in} is the prepared inputs and {out} an empty directory.

    code  that it ends with
    says  what it prints, if it does what it should
    """

    name: str
    command: tuple[str, ...]
    code: int = 0
    says: str = ""


class JobFailed(Exception):
    """A job did not do what it should; says what it did."""


def _command(name: str, line: str, code: int = 0, says: str = "") -> Job:
    return Job(name, ("-m", "qgf_ref", *line.split()), code, says)


JOBS = (
    _command("audit", "audit --out {out}/audit"),
    _command(
        "audit, 4x1024",
        "audit --checkpoint {in}/4x1024.safetensors --obs normal --out {out}/audit",
    ),
    _command("compare, right", "compare --trace {in}/right.npz --out {out}/compare"),
    _command(
        "compare, unknown mistake, 4x256",
        "compare --checkpoint {in}/4x256.safetensors --trace {in}/unknown.npz --out {out}/compare",
        1,
        "DIAGNOSIS: unknown",
    ),
    Job("check_sampler, right", ("-c", CHECK_SAMPLER)),
    _command("study correction --quick", "study correction --quick --out {out}/study"),
)


def prepare(place: Path) -> None:
    """The jobs' inputs: fresh networks, a right trace of the embedded one and a wrong one.

    The mistake is one that no bank knows: G is halved where its first number is positive.
    """
    from qgf_ref import estimator, load

    rng = np.random.default_rng(0)
    checkpoints = {name: fresh_checkpoint(hidden, 0) for name, hidden in NETWORKS.items()}
    for name, checkpoint in checkpoints.items():
        save_checkpoint(checkpoint.astype("float32"), place / f"{name}.safetensors")

    def halved(flow: Any, step: Any) -> Any:
        found = estimator("qgf")(flow, step).gradient
        return np.where(found[:, :1] > 0, 0.5 * found, found)

    for name, checkpoint, guided in (
        ("right", load(dtype="float32"), "qgf"),
        ("unknown", checkpoints["4x256"].astype("float32"), halved),
    ):
        obs = rng.standard_normal((ROWS, checkpoint.obs_dim)).astype("f4")
        noise = rng.standard_normal((ROWS, checkpoint.flat_action_dim)).astype("f4")
        found = trace(checkpoint.flow, obs, estimator=guided, weight=0.3, noise=noise)
        known = {"estimator": "qgf", "weight": 0.3, "time_embedding": "exact"}
        write_npz(place / f"{name}.npz", {**vars(found), "metadata": np.array(json.dumps(known))})


WAIT = """
import json, os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
seconds, code = used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "cpu": seconds, "megabytes": used.ru_maxrss / 1024}, file)
"""
"""Between us and a job: what is said of a child's memory is at least that of who started it."""


def run(job: Job, tree: Path, inputs: Path) -> Numbers:
    """One run by a tree: wall and cpu seconds, and MB. Raises JobFailed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "MPLBACKEND": "Agg"}
    with TemporaryDirectory() as place:
        told, out = Path(place) / "told.json", Path(place) / "out"
        out.mkdir()
        given = [p.replace("{in}", str(inputs)).replace("{out}", str(out)) for p in job.command]
        waiting = [sys.executable, "-I", "-S", "-c", WAIT, str(told), sys.executable, *given]
        started = time.perf_counter()
        done = subprocess.run(
            waiting, cwd=out, env=environment, capture_output=True, text=True, check=True
        )
        wall = time.perf_counter() - started
        found: Numbers = json.loads(told.read_text())
    code = found.pop("code")
    if code != job.code:
        raise JobFailed(f"exit code {code}, not {job.code}\n{done.stderr[-800:]}")
    if job.says not in done.stdout:
        raise JobFailed(f"it did not say {job.says!r}\n{done.stdout[-800:]}")
    return {"wall": wall, **found}


def in_turns(jobs: Sequence[Job], trees: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """One row a job: each tree's medians, and how many times as long the other tree takes; of one
    that fails, how.
    """
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as place, progress(len(jobs) * (rounds + 1), "round") as bar:
        prepare(Path(place))
        for job in jobs:
            turns: list[dict[str, Numbers]] = []
            try:
                for i in range(rounds + 1):
                    order = list(trees.items())[:: 1 if i % 2 else -1]
                    turns.append({name: run(job, tree, Path(place)) for name, tree in order})
                    bar.advance()
            except JobFailed as error:
                bar.advance(rounds + 1 - len(turns))
                rows.append({"job": job.name, "failed": str(error)})
            else:
                rows.append({"job": job.name, "rounds": rounds, **_medians(turns[1:], trees)})
    return rows


def _medians(turns: Sequence[dict[str, Numbers]], trees: dict[str, Path]) -> dict[str, Any]:
    """Each tree's, and the ratios; the first turn, which fills caches, is not among them."""
    row: dict[str, Any] = {
        name: {k: median(turn[name][k] for turn in turns) for k in turns[0][name]} for name in trees
    }
    if len(trees) > 1:
        ours, theirs = trees
        for clock in ("wall", "cpu"):
            row[f"{clock} ratio"] = median(t[theirs][clock] / t[ours][clock] for t in turns)
    return row


SIZES: dict[str, tuple[int, ...]] = {
    "batch": (64, 128, 256, 512, 1024),
    "width": (128, 256, 512, 1024),
    "depth": (2, 4, 8),
    "T": (5, 10, 20),
    "E": (1, 2, 4, 8),
    "D": (5, 25, 125),
}
USUAL = {"batch": 256, "width": 256, "depth": 3, "T": 10, "E": 2, "D": 25}


def growth(turns: int, sizes: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """One row a size: seconds of a call at every value, and the exponent of the last step."""
    rows = []
    for name, values in (sizes or SIZES).items():
        calls = [_call({**USUAL, name: value}) for value in values]
        for call in calls:
            call()
        taken: list[list[float]] = [[] for _ in values]
        for _ in range(turns):
            for call, seconds in zip(calls, taken, strict=True):
                before = time.process_time()
                call()
                seconds.append(time.process_time() - before)
        each = [median(seconds) for seconds in taken]
        rows.append(
            {"size": name, "values": values, "seconds": each, "exponent": exponent(values, each)}
        )
    return rows


def exponent(values: Sequence[int], seconds: Sequence[float]) -> float:
    """p of seconds ∝ valueᵖ, over the last step of the values."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(values[-1] / values[-2])


def _call(size: dict[str, int]) -> Callable[[], Any]:
    hidden = (size["width"],) * size["depth"]
    checkpoint = fresh_checkpoint(hidden, 0, action_dim=size["D"], ensemble=size["E"])
    flow, rng = checkpoint.astype("float32").flow, np.random.default_rng(0)
    obs = rng.standard_normal((size["batch"], checkpoint.obs_dim)).astype("f4")
    noise = rng.standard_normal((size["batch"], checkpoint.flat_action_dim)).astype("f4")
    return lambda: sample(
        flow, obs, weight=0.1, noise=noise, denoise_steps=size["T"], backend="numba", threads=1
    )


def replaced(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`old` with the rows of `new` in place of its own of the same jobs, in the jobs' order."""
    rows = {row["job"]: row for row in [*old, *new]}
    return [rows[job.name] for job in JOBS if job.name in rows]


def table(content: dict[str, Any]) -> str:
    """The page's tables."""
    parts = []
    if content.get("jobs"):
        beside = any(row.get("against") for row in content["jobs"])
        header = ["job", "wall s", "processor s", "MB"]
        header += ["beside", "wall, times of it", "processor"] * beside
        lines = []
        for row in content["jobs"]:
            if "failed" in row:
                first = row["failed"].splitlines()[0]
                lines.append([row["job"], f"failed: {first}", *[""] * (len(header) - 2)])
                continue
            own, other = row["this tree"], row.get("against")
            cells = [row["job"], *(f"{own[k]:.3g}" for k in ("wall", "cpu"))]
            cells.append(f"{own['megabytes']:.0f}")
            if other:
                ratios = (f"**{row[f'{clock} ratio']:.2f}**" for clock in ("wall", "cpu"))
                cells += [f"`{other}`", *ratios]
            lines.append(cells + [""] * (len(header) - len(cells)))
        parts.append(markdown_table(header, lines))
    if content.get("growth"):
        lines = [
            [
                row["size"], ", ".join(map(str, row["values"])),
                ", ".join(f"{1e3 * s:.3g}" for s in row["seconds"]), f"{row['exponent']:.2f}",
            ]
            for row in content["growth"]
        ]  # fmt: skip
        parts.append(markdown_table(["size", "values", "ms a call", "exponent"], lines))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="?", choices=("jobs", "growth"), help="default: both")
    parser.add_argument("--against", metavar="COMMIT", help="another commit, or a directory")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="jobs whose name has one of them")
    parser.add_argument("--rounds", type=positive, default=3, help="default: 3")
    parser.add_argument("--results", type=Path, default=RESULTS, help="written there")
    args = parser.parse_args()
    jobs = [j for j in JOBS if not args.only or any(w in j.name for w in args.only)]
    if not jobs:
        raise InputError(f"no such job; there are {'; '.join(j.name for j in JOBS)}")
    if args.what == "growth" and (args.only or args.against):
        raise InputError("growth is measured by this tree, whole: no --only, no --against")
    path = args.results / "jobs.json"
    args.results.mkdir(parents=True, exist_ok=True)  # refused before minutes are spent
    content = content_of(path)
    if args.what != "growth":
        with tree_of(args.against or str(ROOT)) as other:
            trees = {"this tree": ROOT} | ({args.against: other} if args.against else {})
            found = in_turns(jobs, trees, args.rounds)
        made = {"commit": provenance()["commit"], "against": args.against}
        content["jobs"] = replaced(content.get("jobs", []), [{**row, **made} for row in found])
    if args.what != "jobs":
        content["growth"] = growth(args.rounds)
    content |= provenance()
    write_json(path, content)
    page = table(content)
    write_atomically(args.results / "jobs.md", page.encode())
    print(page)
    failed = [row for row in found if "failed" in row] if args.what != "growth" else []
    for row in failed:
        print(f"{row['job']}: {row['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
