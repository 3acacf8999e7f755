"""Everything that can only be known on a GPU, in ten minutes: is it right, and how fast?

    python benchmarks/gpu.py                   (all parts, each in a process of its own)
    python benchmarks/gpu.py --part sampler    (one again; its results replace the old ones)
    python benchmarks/gpu.py --smoke           (small sizes: does everything run?)

Nothing need be installed but CuPy, JAX, flax, PyTorch, NumPy, SciPy, safetensors: it runs from a
source checkout. Results are written after each row, so that a run that is cut off loses nothing:
gpu.json, gpu.md and gpu.png in benchmarks/results, and in $OUT where that is set.

With fifteen minutes on a lent machine:
(1) 1 minute: `python benchmarks/gpu.py --smoke --part check`. If it fails, mend that first, on the
    processor, against tests/helpers/gpu; nothing else is worth the time.
(2) 10 minutes: `python benchmarks/gpu.py`, one call with a limit of 600 s.
(3) The rest: the part that missed its target once more, for example `--part sampler --only 4x1024`,
    and `ncu --set full -k regex:block` of it for the profile of one kernel.
Give the machine back meanwhile.

Parts: device (facts, copy bandwidth, float32 product rate); check (all estimators against float64
NumPy, fresh inputs, both ways of running, the same bits twice); sampler (qgf at every batch and
network beside JAX and PyTorch); gradients (qgf_jacobian and bptt at three batches); training (small
and paper, beside JAX's update); sanitizer (compute-sanitizer on a short run). A contender's time is
a round of calls and one wait for the device; contenders take turns, medians and quartiles are told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.gpu_report import table, write_figure  # noqa: E402
from qgf_ref import sample  # noqa: E402
from qgf_ref.agents.step import TrainState, update  # noqa: E402
from qgf_ref.backends.cupy.device import Matrices, device  # noqa: E402
from qgf_ref.backends.cupy.sampler import DeviceSampler, device_sampler  # noqa: E402
from qgf_ref.backends.engine import backend_named  # noqa: E402
from qgf_ref.backends.program.program import Op  # noqa: E402
from qgf_ref.backends.program.registers import NETWORK, OP  # noqa: E402
from qgf_ref.bench.settings import fresh_checkpoint, hidden_of  # noqa: E402
from qgf_ref.data.windows import Transitions  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.guidance.registry import estimator, learned_estimator_names  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.training.config import preset  # noqa: E402
from qgf_ref.training.loop import training_batch  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PARTS = {
    "device": 45,
    "check": 100,
    "sampler": 230,
    "gradients": 75,
    "training": 75,
    "sanitizer": 60,
}
"""Seconds that each may take: together under ten minutes."""
NETWORKS = "3x256", "4x512", "4x1024"
BATCHES = 1, 64, 1024, 16384, 65536
WEIGHT = 0.1
TARGET_ERROR = 1e-5
Start = Callable[[], Any]


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def wait() -> None:
    """Until the device has done everything, whoever asked for it."""
    device().xp.cuda.Device().synchronize()


def timed(starts: dict[str, Start], seconds: float, turn: float = 0.02) -> dict[str, Any]:
    """Seconds of one call by contender, taken in turns; a contender that fails says why."""
    again, found, failed = {}, {name: [] for name in starts}, {}  # type: ignore[var-annotated]
    for name, start in list(starts.items()):
        try:
            for _ in range(3):  # compiled, captured, then as it will be
                began = time.perf_counter()
                start()
                wait()
            again[name] = max(1, min(200, int(turn / (time.perf_counter() - began))))
        except Exception as error:  # noqa: BLE001  the others are timed all the same
            failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
    began = time.perf_counter()
    for rounds in range(15):
        if rounds >= 3 and time.perf_counter() - began > seconds:
            break
        for name, count in again.items():
            since = time.perf_counter()
            for _ in range(count):
                starts[name]()
            wait()
            found[name].append((time.perf_counter() - since) / count)
    times = {name: spread(found[name]) | {"calls": again[name]} for name in again}
    ratios = {
        name: spread([b / a for a, b in zip(found["cupy"], found[name])])
        for name in again
        if name != "cupy" and "cupy" in again
    }
    return {"seconds": times, "ratios": ratios, "failed": failed}


def facts(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """Device, copy bandwidth (read and written), float32 product rate."""
    here = device()
    xp, properties = here.xp, here.xp.cuda.runtime.getDeviceProperties(here.number)
    told = {
        "name": properties["name"].decode(), "processors": here.processors,
        "memory": here.memory()[1], "l2": properties["l2CacheSize"], "cupy": xp.__version__,
        "cuda": xp.cuda.runtime.runtimeGetVersion(), "driver": xp.cuda.runtime.driverGetVersion(),
    }  # fmt: skip
    count = 1 << (24 if smoke else 28)
    a, b = xp.ones(count, np.float32), xp.empty(count, np.float32)
    n = 1024 if smoke else 8192
    x = xp.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    out = xp.empty_like(x)
    m = [Matrices(array.data.ptr, n) for array in (x, x, out)]

    def copy() -> None:
        b[...] = a

    def product() -> None:
        here.product(np.dtype(np.float32), (n, n, n), m[0], m[1], m[2])

    times = timed({"copy": copy, "product": product}, 5, 0.1)["seconds"]
    yield {
        **told,
        "bandwidth": 2 * a.nbytes / times["copy"]["median"],
        "product_rate": 2 * n**3 / times["product"]["median"],
    }


def check(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """Every estimator against float64 NumPy on the same float32 networks, both ways, bits twice."""
    from tests.conftest import small_checkpoint

    fresh = np.random.default_rng(time.time_ns())
    names = [name for name in learned_estimator_names() if estimator(name).recordable]
    cases = [("small", small_checkpoint(int(fresh.integers(1 << 31)), dtype="float32"), names)]
    if not smoke:
        cases.append(("4x512", fresh_checkpoint(hidden_of("4x512"), int(fresh.integers(99))),
                      ["qgf", "qgf_jacobian", "bptt"]))  # fmt: skip
    for network, checkpoint, chosen in cases:
        for rows in (1, 3, 16, 17, 257):
            obs = fresh.standard_normal((rows, checkpoint.obs_dim)).astype(np.float32)
            noise = fresh.standard_normal((rows, checkpoint.flat_action_dim)).astype(np.float32)
            flow, exact = checkpoint.flow, checkpoint.astype("float64").flow
            for name in chosen:
                how: dict[str, Any] = {"estimator": name, "weight": WEIGHT, "noise": noise}
                expected = sample(exact, obs.astype(np.float64), **{**how, "noise": noise * 1.0})
                for few in (True, False):
                    DeviceSampler.few_rows = few
                    device_sampler.samplers.clear()
                    runs = [sample(flow, obs, backend="cupy", **how) for _ in range(4)]
                    yield {
                        "network": network, "rows": rows, "estimator": name, "few": few,
                        "error": float(np.abs(runs[0] - expected).max()),
                        "numpy_float32": float(np.abs(sample(flow, obs, **how) - expected).max()),
                        "same_bits": all(np.array_equal(runs[0], run) for run in runs[1:]),
                    }  # fmt: skip
                DeviceSampler.few_rows = True


def operations(sampler: DeviceSampler, rows: int) -> float:
    """Floating-point operations of a program's products, rows without a cotangent left out."""
    weights, total = sampler.tables.weights, 0.0
    sparse = Op.REDUCE_MIN in {Op(op) for op in sampler.tables.code.table[:, OP]}
    for code in sampler.tables.code.table:
        if code[OP] > Op.HVP:
            continue
        net = weights.nets[int(code[NETWORK])]
        layers = [net.layer(l) for l in range(len(net.rows))]
        size = sum(2 * layer["IN"] * layer["OUT"] for layer in layers)
        members = net.members
        if net.scalar and code[OP] != Op.FORWARD and sparse:
            members = 1
        total += size * members * rows * (3 if code[OP] == Op.HVP else 1)
    return total


def cell(name: str, network: str, batch: int, seconds: float, formed: bool) -> dict[str, Any]:
    """One network, estimator and batch: ours in both ways where both are there, and the peers."""
    from benchmarks.peers import gpu as peers

    checkpoint, rng = fresh_checkpoint(hidden_of(network), 0), np.random.default_rng(batch)
    obs = rng.standard_normal((batch, checkpoint.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((batch, checkpoint.flat_action_dim)).astype(np.float32)
    xp, flow = device().xp, checkpoint.flow
    there = xp.asarray(obs), xp.asarray(noise)
    how: dict[str, Any] = {"estimator": name, "weight": WEIGHT}
    ours: Any = sample(flow, there[0], noise=there[1], backend="cupy", **how)
    sampler = list(device_sampler.samplers.values())[-1]
    starts: dict[str, Start] = {
        "cupy": lambda: sampler(*there, WEIGHT),
        "cupy, sample()": lambda: sample(flow, there[0], noise=there[1], backend="cupy", **how),
    }
    if batch <= 64:
        other = DeviceSampler.__new__(DeviceSampler)
        other.__dict__.update(sampler.__dict__, _ready={}, few_rows=False)
        starts["cupy, many launches"] = lambda: other(*there, WEIGHT)
    makers: dict[str, Callable[[], Start]] = {
        "JAX": lambda: peers.jax_sampler(checkpoint, obs, noise, name, WEIGHT),
        "JAX, TF32": lambda: peers.jax_sampler(checkpoint, obs, noise, name, WEIGHT, tf32=True),
    }
    for mode in ("eager", "compiled", "graphs") if name != "bptt" else ("eager",):
        torch = checkpoint, obs, noise, name, WEIGHT, mode
        makers[f"PyTorch {mode}"] = partial(peers.torch_sampler, *torch)
    if formed:
        makers["JAX, official Jacobian"] = lambda: peers.jax_sampler(
            checkpoint, obs, noise, name, WEIGHT, formed=True
        )
    failed = {}
    for contender, make in makers.items():
        try:
            starts[contender] = make()
        except Exception as error:  # noqa: BLE001
            failed[contender] = f"{type(error).__name__}: {str(error)[:200]}"
    row = timed(starts, seconds)
    row["failed"] |= failed
    with contextlib.suppress(KeyError):
        peer = np.asarray(starts["JAX"]())
        row["from_jax"] = float(np.abs(ours.get() - peer).max())
    rate = operations(sampler, batch) / row["seconds"]["cupy"]["median"]
    bytes_read = sampler.tables.weights.flat.nbytes
    return {
        "estimator": name, "network": network, "batch": batch, **row, "operations_rate": rate,
        "weights": bytes_read, "workspace": sampler.bytes,
    }  # fmt: skip


def samplers(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """qgf, the cells that have targets first."""
    networks = [only] if only else ["3x256"] if smoke else ["4x1024", "3x256", "4x512"]
    for batch in (1, 64) if smoke else (1, 16384, 1024, 64, 65536):
        for network in networks:
            yield cell("qgf", network, batch, 0.3 if smoke else 1.5, False)
            device_sampler.samplers.clear()


def gradients(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """qgf_jacobian, also in the official formulation, and bptt."""
    for batch in (1,) if smoke else (1, 64, 1024):
        for name in ("qgf_jacobian", "bptt"):
            network = only or ("3x256" if smoke else "4x512")
            yield cell(name, network, batch, 0.3 if smoke else 1.5, name == "qgf_jacobian")
            device_sampler.samplers.clear()


def trainings(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """Updates of both presets, the data set on the device, beside JAX's on ready batches."""
    from benchmarks.peers import gpu as peers
    from qgf_ref.agents.iql import RECIPE

    rng, steps, O, A = np.random.default_rng(0), 10_000 if smoke else 500_000, 28, 5
    arrays = [rng.standard_normal((steps, n)).astype(np.float32) for n in (O, O, A)]
    ends = (np.arange(steps) % 1000 == 999).astype(np.float32)
    data = Transitions(arrays[0], arrays[1], arrays[2].clip(-1, 1), -np.ones(steps, np.float32),
                       1 - ends, ends)  # fmt: skip
    for name in ("small", "paper"):
        config = replace(preset(name), task="none", backend="cupy")
        hidden = (64, 64) if smoke else config.hidden
        hyper, backend = config.hyperparameters(), backend_named("cupy")
        assert backend.residence is not None
        place, checkpoint = backend.residence(), fresh_checkpoint(hidden, 0)
        nets = checkpoint.networks(embedding="float32", kernels=backend.kernels(np.float32))
        state = [TrainState.create(RECIPE, nets).map(place.put)]

        def ours(s: Any = state, p: Any = place, c: Any = config, h: Any = hyper) -> None:
            batch, drawn = training_batch(rng, data, c.batch, RECIPE, h, p)
            s[0] = update(RECIPE, s[0], batch, drawn, h)[0]

        batches = []
        for _ in range(8):
            batch, drawn = training_batch(rng, data, config.batch, RECIPE, hyper)
            batches.append((batch, drawn["x0"], drawn["t"]))
        starts: dict[str, Start] = {"cupy": ours}
        failed = {}
        try:
            starts["JAX"] = peers.jax_training(checkpoint, hyper, batches)
        except Exception as error:  # noqa: BLE001
            failed["JAX"] = f"{type(error).__name__}: {str(error)[:200]}"
        row = timed(starts, 2 if smoke else 12, 0.2)
        row["failed"] |= failed
        row["projected_hours"] = 500_000 * row["seconds"]["cupy"]["median"] / 3600
        yield {"preset": name, **row}


def sanitizer(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """compute-sanitizer's tools on a short run of this file."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = [program, "--tool", tool, "--error-exitcode", "3", sys.executable, __file__,
                   "--part", "short"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=40, cwd=ROOT)
            told = (done.stdout + done.stderr).strip().splitlines()[-3:]
            yield {"tool": tool, "clean": done.returncode == 0, "said": told}
        except (OSError, subprocess.TimeoutExpired) as error:
            yield {"tool": tool, "clean": None, "said": [str(error)[:300]]}


def short(smoke: bool, only: str) -> Iterator[dict[str, Any]]:
    """What the sanitizer watches: both ways, one step, and one update's kernels."""
    from tests.conftest import small_checkpoint, states

    checkpoint = small_checkpoint(1, dtype="float32")
    for rows in (3, 40):
        obs, noise = states(checkpoint, rows)
        how: dict[str, Any] = {"weight": WEIGHT, "noise": noise, "denoise_steps": 1}
        for name in ("qgf", "qgf_covariance"):
            sample(checkpoint.flow, obs, backend="cupy", estimator=name, **how)
    sample(checkpoint.flow, obs, backend="cupy", estimator="qgf_jacobian_ortho", **how)
    yield {}


WORK = {
    "device": facts, "check": check, "sampler": samplers, "gradients": gradients,
    "training": trainings, "sanitizer": sanitizer, "short": short,
}  # fmt: skip


def places() -> list[Path]:
    """Where results go."""
    out = os.environ.get("OUT")
    return [RESULTS, *([Path(out)] if out else [])]


def write(part: str, rows: list[dict[str, Any]], smoke: bool) -> None:
    """A part's rows into gpu.json, and the tables anew."""
    name = "gpu_smoke" if smoke else "gpu"
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    content["parts"][part] = {"rows": rows, "provenance": provenance()}
    for place in places():
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / f"{name}.json", content)
        write_atomically(place / f"{name}.md", table(content).encode())


def main() -> int:
    """Run one part here, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=tuple(WORK))
    parser.add_argument("--only", default="", metavar="LxW", help="this network alone")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.part:
        rows: list[dict[str, Any]] = []
        for row in WORK[args.part](args.smoke, args.only):
            rows.append(row)
            print(json.dumps(row, default=str)[:400], flush=True)
            if args.part != "short":
                write(args.part, rows, args.smoke)
        return 0
    for part, seconds in PARTS.items():
        command = [sys.executable, __file__, "--part", part]
        command += ["--smoke"] * args.smoke + (["--only", args.only] if args.only else [])
        print(f"== {part}, at most {seconds} s", flush=True)
        try:
            subprocess.run(command, timeout=seconds, cwd=ROOT)
        except subprocess.TimeoutExpired:
            print(f"== {part} was cut off; what it had measured is written", flush=True)
    name = "gpu_smoke" if args.smoke else "gpu"
    content = json.loads((RESULTS / f"{name}.json").read_text())
    for place in places():
        write_figure(content, place / f"{name}.png")
    print(table(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
