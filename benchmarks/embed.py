"""Put a training run's checkpoint inside the package.

    python benchmarks/success.py embedded --data data
    python benchmarks/embed.py qgf_runs/embedded/runs/cube-single-play-singletask-task1-v0/iql/seed0

copies the checkpoint to qgf_ref/assets and keeps the run's record and losses as
benchmarks/results/embedded_checkpoint.json. With --observations, it also draws 256 real
observations from the validation episodes of the run's data set, on which `qgf-ref audit` works.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from qgf_ref import load
from qgf_ref.arrays import Array
from qgf_ref.data.datasets import find_dataset, load_transitions
from qgf_ref.data.tasks import Task, task
from qgf_ref.files import write_json, write_npz
from qgf_ref.interop.load import EMBEDDED
from qgf_ref.interop.native import MODEL, save_checkpoint
from qgf_ref.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "qgf_ref" / "assets"
LARGEST = 3_000_000
OBSERVATIONS = 256


def observations(problem: Task, data: Path | str | None) -> Array:
    """OBSERVATIONS rows of the validation episodes."""
    found = find_dataset(problem.dataset, data)
    if found.validation is None:
        raise SystemExit(f"{problem.dataset} has no validation file to draw observations from")
    held_out = load_transitions(found.validation, problem)
    rows = np.random.default_rng(0).choice(len(held_out), size=OBSERVATIONS, replace=False)
    return held_out.observations[np.sort(rows)]


def main() -> None:
    """Parse the command line and copy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--observations", action="store_true", help="draw new ones")
    parser.add_argument("--data", type=Path, help="of the run, if it has moved")
    args = parser.parse_args()
    origin = provenance()
    record = json.loads((args.run / "train.json").read_text())
    size = (args.run / MODEL).stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{args.run / MODEL} has {size} bytes, more than {LARGEST}")
    path = ASSETS / f"{EMBEDDED}.safetensors"
    save_checkpoint(load(args.run, dtype="float32"), path)
    if args.observations:
        config = record["config"]
        write_npz(
            ASSETS / f"{EMBEDDED}-observations.npz",
            {"obs": observations(task(config["task"]), args.data or config["data"])},
        )
    metrics = (args.run / "metrics.csv").read_text().splitlines()
    content = {"metrics": metrics, "training": record, **origin}
    write_json(ROOT / "benchmarks" / "results" / "embedded_checkpoint.json", content)
    print(f"wrote {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from benchmarks.command import ended

    sys.exit(ended(main))
