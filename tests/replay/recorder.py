"""What users see of one source tree, written down: run by `test_replay.py` with two of them.

    PYTHONPATH=TREE python recorder.py OUT DATA

Only public names and the command line are used, so that any commit since 4b0d202 can be recorded.
OUT gets one npz or file for each promise; equal promises have equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import qgf_ref
from qgf_ref.cli.main import main

TASK = "pointmaze-medium-navigate-singletask-task1-v0"
NETWORKS = "--hidden", "16", "12", "--batch", "32", "--horizon-length", "3", "--denoise-steps", "6"
LOOP = "--updates", "50", "--log-every", "10", "--checkpoint-every", "20", "--threads", "1"
AUXILIARY = "robust_q", "cfgrl", "distill"
KEPT_FILES = "model.safetensors", "config.json", "state.safetensors", "metrics.csv"
WEIGHT = 0.3

DIE = """
import os, signal, sys
replace, left = os.replace, [{saves}]
def dying(source, target, **rest):
    replace(source, target, **rest)
    left[0] -= str(target).endswith("state.safetensors")
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
from qgf_ref.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command line, which kills itself when it has written the state `saves` times."""


def command(*arguments: str) -> None:
    """Run a command in this process; it must succeed."""
    if code := main(list(arguments)):
        raise SystemExit(f"{arguments}: exit code {code}")


def killed_command(*arguments: str, saves: int) -> None:
    """Run a command in a process of its own, which kills itself after so many saved states."""
    program = [sys.executable, "-c", DIE.format(saves=saves), *arguments]
    ended = subprocess.run(program, capture_output=True, text=True)
    if ended.returncode != -signal.SIGKILL:
        raise SystemExit(f"{arguments}: exit code {ended.returncode}\n{ended.stderr[-2000:]}")


def keep(out: Path, name: str, files: list[Path]) -> None:
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (out / f"{name}.json").write_text(json.dumps(hashes, indent=1))


def record_training(out: Path, data: str, scratch: Path) -> Path:
    """50 updates on both backends, whole and killed after the first save; auxiliary networks."""
    settings = (TASK, "--data", data, *NETWORKS, *LOOP)
    for backend in ("numpy", "numba"):
        whole, broken = scratch / backend, scratch / f"{backend}-broken"
        command("train", *settings, "--backend", backend, "--out", str(whole))
        keep(out, f"train-{backend}", [whole / name for name in KEPT_FILES])
        arguments = ("train", *settings, "--backend", backend, "--out", str(broken))
        killed_command(*arguments, saves=1)
        command("train", "--resume", str(broken))
        keep(out, f"resumed-{backend}", [broken / name for name in KEPT_FILES])
    run = scratch / "numba"
    for network in AUXILIARY:
        command(
            "train-extra", network, "--run", str(run), "--updates", "20", "--batch", "16",
            "--log-every", "10", "--threads", "1",
        )  # fmt: skip
        keep(out, f"extra-{network}", [run / f"{network}.safetensors", run / f"{network}.csv"])
    return run


def record_sampling(out: Path, run: Path) -> None:
    """A trace and actions of every estimator, on both backends."""
    rng = np.random.default_rng(7)
    for dtype in ("float64", "float32"):
        checkpoint = qgf_ref.load(run, dtype=dtype)
        obs = rng.normal(size=(5, checkpoint.obs_dim)) * 10
        noise = rng.normal(size=(10, checkpoint.flat_action_dim))
        for name in qgf_ref.estimator_names():
            if name == "oracle":  # of closed-form flows alone
                continue
            guided: dict[str, Any] = {"estimator": name, "weight": WEIGHT}
            recorded = qgf_ref.trace(checkpoint.flow, obs, noise=noise[:5], **guided)
            arrays: dict[str, Any] = recorded.arrays()
            for best_of in (1, 2):
                for backend in ("numpy", "numba"):
                    arrays[f"{backend}-best-of-{best_of}"] = qgf_ref.sample(
                        checkpoint.flow, obs, noise=noise[: 5 * best_of], best_of=best_of,
                        backend=backend, **guided,
                    )  # fmt: skip
            np.savez(out / f"sample-{name}-{dtype}.npz", **arrays)


def record_closed_form(out: Path) -> None:
    """The exact flow under the estimators that can be asked of it."""
    mixture = qgf_ref.GaussianMixture(
        np.array([0.3, 0.7]),
        np.array([[-0.4, 0.1], [0.5, -0.2]]),
        np.array([[[0.1, 0.02], [0.02, 0.2]], [[0.1, 0.0], [0.0, 0.05]]]),
    )
    critic = qgf_ref.QuadraticCritic(np.array([0.4, 0.1]), np.array([[2.0, 0.3], [0.3, 1.0]]))
    flow = qgf_ref.GuidedFlow(qgf_ref.MixtureFlow(mixture), critic, 7)
    noise = np.random.default_rng(3).normal(size=(6, 2))
    for name in ("qgf", "qgf_jacobian", "bptt", "oracle", "qgf_shifted", "qgf_covariance"):
        traced = qgf_ref.trace(flow, np.zeros((6, 0)), noise=noise, estimator=name, weight=WEIGHT)
        arrays: dict[str, Any] = traced.arrays()
        np.savez(out / f"closed-form-{name}.npz", **arrays)


def record_commands(out: Path, run: Path, scratch: Path) -> None:
    """Exported files, the command line's trace, rollouts and a study's numbers."""
    for suffix in ("safetensors", "pt", "msgpack", "npz"):
        command("convert", str(run), str(scratch / f"converted.{suffix}"))
    keep(out, "convert", sorted(scratch.glob("converted.*")))
    rng = np.random.default_rng(5)
    np.savez(scratch / "in.npz", obs=rng.normal(size=(4, 2)), noise=rng.normal(size=(4, 6)))
    traced = scratch / "trace.npz"
    command(
        "trace", "--checkpoint", str(run), "--input", str(scratch / "in.npz"), "--estimator",
        "qgf_jacobian", "--weight", "0.3", "--out", str(traced),
    )  # fmt: skip
    with np.load(traced) as arrays:
        np.savez(
            out / "trace-command.npz", **{k: a for k, a in arrays.items() if a.dtype.kind == "f"}
        )
    command(
        "evaluate", "--checkpoint", str(run), "--methods", "bc", "qgf", "--weights", "0.1",
        "--selection-episodes", "2", "--episodes", "2", "--envs", "2", "--workers", "1",
        "--out", str(scratch / "evaluation"),
    )  # fmt: skip
    lines = (scratch / "evaluation" / "records.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    timed = ("seconds", "wall", "settings", "version", "provenance", "time")
    kept = [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in rows]
    (out / "evaluate.json").write_text(json.dumps(kept, indent=1, sort_keys=True))
    command(
        "study", "noise", "--quick", "--estimators", "ood", "qgf", "--out", str(scratch / "study")
    )  # fmt: skip
    keep(out, "study", sorted((scratch / "study").glob("*.csv")))


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    target, dataset = Path(sys.argv[1]), sys.argv[2]
    (target / "kept").mkdir(parents=True)
    about = json.dumps({"root": str(Path(qgf_ref.__file__).parent)})
    (target / "kept" / "tree.json").write_text(about)
    trained = record_training(target / "kept", dataset, target)
    record_sampling(target / "kept", trained)
    record_closed_form(target / "kept")
    record_commands(target / "kept", trained, target)
