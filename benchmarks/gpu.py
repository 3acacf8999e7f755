"""Everything that can only be known on a GPU, in ten minutes: is it right, and how fast?

    python benchmarks/gpu.py                   (all parts, each in a process of its own)
    python benchmarks/gpu.py --part sampler    (one again; its results replace the old ones)
    python benchmarks/gpu.py --part sampler --only 4x1024   (of one network: the others' stay)
    python benchmarks/gpu.py --smoke           (small sizes: does everything run?)
    python benchmarks/gpu.py --dry             (without a GPU, on the stand-in of the tests)
    python benchmarks/gpu.py --merge A/gpu.json B/gpu.json  (results that came back from a GPU)

Nothing need be installed: it runs from a source checkout where there are CuPy, NumPy, SciPy and
safetensors. Peers that are not there (JAX with flax, PyTorch) are told as failed, the rest is
measured; without matplotlib there is no picture. Results are written after each row, so that a run
that is cut off loses nothing: gpu.json, gpu.md and gpu.png in benchmarks/results (or --out), and in
$OUT where that is set.

With fifteen minutes on a lent machine:
(0) Here, before: `python benchmarks/gpu.py --dry`, a minute: does every part run at all?
(1) 1 minute: `python benchmarks/gpu.py --smoke --part check`. If it fails, mend that first, on the
    processor, against tests/helpers/gpu; nothing else is worth the time.
(2) 10 minutes: `python benchmarks/gpu.py`, one call with a limit of 600 s.
(3) The rest: the part that missed its target once more, for example `--part sampler --only 4x1024`,
    and `ncu --set full -k regex:block` of it for the profile of one kernel.
Give the machine back meanwhile, and `--merge` what came back.

Parts: device (facts, copy bandwidth, float32 product rate); check (kernels, updates, all estimators
against float64 NumPy, fresh inputs, both ways of running, the same bits twice); sampler (qgf at
every batch and network beside JAX and PyTorch); gradients (qgf_jacobian and bptt at three batches);
training (small and paper, beside JAX's update); sanitizer (compute-sanitizer on a short run).
A contender's time is taken by three clocks (`gpu_timing.CLOCKS`): the host's for a call and the
wait for its result, which is how long a caller has to wait; the host's for calls in a queue; CUDA
events, where a contender's stream is in reach (ours, PyTorch's). Ratios are of one clock on both
sides: that of the tables and targets is the first. Contenders take turns, medians and quartiles are
told. float32 is float32, except of contenders and rows that are called TF32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_report import table, targets, write_figure  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PARTS = {
    "device": 30,
    "check": 100,
    "sampler": 215,
    "gradients": 75,
    "training": 75,
    "sanitizer": 85,
}
"""Seconds that each may take: together under ten minutes."""
DRY = 6
"""So many times that without a GPU: what is cut off would not have been seen to run."""
KEYS = "estimator", "network", "batch", "rows", "few", "preset", "tool", "kernels", "dtype", "tf32"
"""What tells one row of a part from another."""


def work(part: str) -> Callable[[Any, str], Iterator[dict[str, Any]]]:
    """What a part does: (size, only) → rows."""
    from benchmarks import gpu_checks, gpu_speed

    return {
        "device": gpu_checks.facts, "check": gpu_checks.check, "sampler": gpu_speed.samplers,
        "gradients": gpu_speed.gradients, "training": gpu_speed.trainings,
        "sanitizer": gpu_checks.sanitizer, "short": gpu_checks.short,
    }[part]  # fmt: skip


def run_part(part: str, name: str, only: str, places: list[Path], seed: int | None = None) -> None:
    """Do one part in this process, and write each row."""
    from benchmarks.gpu_timing import SIZES

    made, rows = provenance(), []
    for row in work(part)(replace(SIZES[name], seed=seed), only):
        rows.append({**row, "commit": made["commit"]})
        print(json.dumps(row, default=str)[:400], flush=True)
        if part != "short":
            write(part, rows, made, name, only, places)


def write(
    part: str, rows: list[dict[str, Any]], made: dict[str, Any], name: str, only: str,
    places: list[Path],
) -> None:  # fmt: skip
    """A part's rows into the results, and the tables anew. only: beside the rows of others."""
    from benchmarks.gpu_timing import CLOCKS

    path = places[0] / file_name(name)
    content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    before = content["parts"].get(part, {}).get("rows", []) if only else []
    content |= {"size": name, "clocks": CLOCKS}
    content["parts"][part] = {"rows": joined(before, rows), "provenance": made}
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / file_name(name), content)
        write_atomically(place / file_name(name, ".md"), table(content).encode())


def joined(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of two runs; of the same cell, the later one."""
    found = {tuple(str(row.get(key)) for key in KEYS): row for row in [*before, *rows]}
    return list(found.values())


def merge(paths: list[Path], out: Path) -> dict[str, Any]:
    """The parts of several results, later ones over earlier ones, written to `out`."""
    content: dict[str, Any] = {"size": "full", "parts": {}}
    for path in paths:
        for part, found in json.loads(path.read_text())["parts"].items():
            before = content["parts"].get(part, {}).get("rows", [])
            content["parts"][part] = {**found, "rows": joined(before, found["rows"])}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / file_name("full"), content)
    write_atomically(out / file_name("full", ".md"), table(content).encode())
    return content


def file_name(name: str, suffix: str = ".json") -> str:
    """Of the results of a size."""
    return ("gpu" if name == "full" else f"gpu_{name}") + suffix


def in_place_of_a_gpu(do: Callable[[], None]) -> None:
    """Call with `import cupy` giving the tests' stand-in."""
    import pytest

    from tests.helpers.gpu import stand_in

    os.environ["JAX_PLATFORMS"] = "cpu"
    with pytest.MonkeyPatch.context() as patched, stand_in.installed(patched):
        do()


def main(argv: list[str] | None = None) -> int:
    """Run one part here, or all of them in processes of their own; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=(*PARTS, "short"))
    parser.add_argument("--only", default="", metavar="LxW", help="this network, or tool, alone")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--dry", action="store_true", help="without a GPU: do all parts run?")
    parser.add_argument("--seed", type=int, help="of check's inputs (default: of the clock, told)")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="FILE", help="gpu.json of runs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: benchmarks/results")
    args = parser.parse_args(argv)
    name = "dry" if args.dry else "smoke" if args.smoke else "full"
    out = args.out or (Path(tempfile.mkdtemp(prefix="gpu_dry_")) if args.dry else RESULTS)
    places = [out, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    if args.merge:
        finish(merge(args.merge, out), [out], "full")
        return 0
    if args.part:

        def do() -> None:
            run_part(args.part, name, args.only, places, args.seed)

        in_place_of_a_gpu(do) if args.dry else do()
        return 0
    failed = []
    for part, seconds in PARTS.items():
        command = [sys.executable, __file__, "--part", part, "--out", str(out)]
        command += ["--smoke"] * args.smoke + ["--dry"] * args.dry
        command += ["--seed", str(args.seed)] if args.seed is not None else []
        command += ["--only", args.only] if args.only and part != "sanitizer" else []
        most = seconds * (DRY if args.dry else 1)
        print(f"== {part}, at most {most} s", flush=True)
        try:
            failed += [part] * (subprocess.run(command, timeout=most, cwd=ROOT).returncode != 0)
        except subprocess.TimeoutExpired:
            print(f"== {part} was cut off; what it had measured is written", flush=True)
    path = out / file_name(name)
    if path.exists():
        finish(json.loads(path.read_text()), places, name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


def finish(content: dict[str, Any], places: list[Path], name: str) -> None:
    """The picture, and the tables on the screen, the targets last."""
    for place in places:
        write_figure(content, place / file_name(name, ".png"))
    print(table(content))
    if name != "dry":
        print(targets(content))


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
