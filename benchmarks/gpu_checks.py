"""Is it right? The parts of `gpu.py` that compare, and what the sanitizer watches."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_timing import OwnClock, Size, timed
from qgf_ref import sample
from qgf_ref.agents.registry import AGENTS
from qgf_ref.backends.cupy.cublas import Matrices
from qgf_ref.backends.cupy.device import device
from qgf_ref.backends.cupy.few_rows import FEW_ROWS
from qgf_ref.backends.cupy.sampler import DeviceSampler, device_sampler, tf32_sampler
from qgf_ref.bench.settings import fresh_checkpoint, hidden_of
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.dense import DenseRule
from tests.helpers.gpu.checks import BLOCKS, dense_block, small
from tests.helpers.gpu.training import ORDERED, update_errors
from tests.helpers.small import small_checkpoint, states

WEIGHT = 0.1
TOOLS = "memcheck", "racecheck", "synccheck", "initcheck"
SANITIZER_SECONDS = 75
"""Of all tools, which run at the same time."""


def facts(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """Device, copy bandwidth (read and written), float32 product rate."""
    here = device()
    xp, properties = here.xp, here.xp.cuda.runtime.getDeviceProperties(here.number)
    found = {
        "name": properties["name"].decode(), "processors": here.processors,
        "memory": here.memory()[1], "l2": properties["l2CacheSize"], "cupy": xp.__version__,
        "cuda": xp.cuda.runtime.runtimeGetVersion(), "driver": xp.cuda.runtime.driverGetVersion(),
    }  # fmt: skip
    fresh, n = np.random.default_rng(0), size.product
    a = xp.asarray(fresh.standard_normal(min(size.copy, 1 << 20)).astype(np.float32))
    a = xp.concatenate([a] * (size.copy // len(a)))
    b, x = xp.empty_like(a), xp.asarray(fresh.standard_normal((n, n)).astype(np.float32))
    out = xp.empty_like(x)
    m = [Matrices(array.data.ptr, n) for array in (x, x, out)]

    def copy() -> None:
        b[...] = a

    def product() -> None:
        with here.working():
            here.product(np.dtype(np.float32), (n, n, n), m[0], m[1], m[2])

    both = {"copy": copy, "product": product}
    times = timed(both, size, turn=0.1, clocks=dict.fromkeys(both, OwnClock()))
    rates = {
        clock: {
            "bandwidth": 2 * a.nbytes / times[clock]["copy"]["median"],
            "product_rate": 2 * n**3 / times[clock]["product"]["median"],
        }
        for clock in ("seconds", "events")
    }
    yield {**found, **rates["seconds"], "by_events": rates["events"]}


def check(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """Kernels and programs against NumPy, fresh inputs."""
    yield from kernels(size)
    yield from programs(size)


def kernels(size: Size) -> Iterator[dict[str, Any]]:
    """Dense blocks and their products, and updates, in units of the quantity's size."""
    chosen = ACTIVATIONS if size.platform == "cuda" else ("gelu",)
    for dtype in ("float32", "float64"):
        for activation in chosen:
            worst = 0.0
            for members, own, *sizes in BLOCKS:
                for normed, after in ((True, False), (True, True), (False, False)):
                    rule = DenseRule(activation, 1e-3, "fast", after)
                    found = dense_block(members, own, tuple(sizes), rule, normed, dtype)  # type: ignore[arg-type]
                    worst = max(worst, found)
            yield {"kernels": f"dense blocks, {activation}", "dtype": dtype, "error": worst}
    agents: dict[str, Any] = {**AGENTS, "iql, another order": AGENTS["iql"]}
    for name, agent in agents.items():
        if size.platform != "cuda" and name not in ("iql", "qam"):
            continue
        error = max(update_errors(agent, ORDERED if "order" in name else {}))
        yield {"kernels": f"two updates of {name}", "dtype": "float32", "error": error}


def flows(size: Size, seed: int) -> Iterator[tuple[str, GuidedFlow, list[str]]]:
    """Networks in float64 whose numbers are float32's, and the estimators to ask."""
    names = [name for name in learned_estimator_names() if estimator(name).recordable]
    few = ["qgf", "qgf_jacobian", "bptt"]
    if size.platform != "cuda":
        names = few
    yield "small", small(seed)[0], names
    options = {"residual": True, "norm_after_activation": True}
    ordered = small(seed, hidden=(9, 9, 6), options=options)
    yield "residual, norm after", ordered[0], [*few, "qgf_covariance"]
    if size.platform == "cuda":
        both: dict[str, Any] = {"activation": "mish", "critic": {"activation": "relu"}}
        yield "two activations", small(seed, **both)[0], few
    if size.large:
        checkpoint = fresh_checkpoint(hidden_of(size.large), seed % 99)
        yield size.large, checkpoint.astype("float64").flow, few


def programs(size: Size) -> Iterator[dict[str, Any]]:
    """Every estimator in float32, both ways, against float64 NumPy of the same numbers."""
    seed = time.time_ns() % (1 << 31) if size.seed is None else size.seed
    fresh = np.random.default_rng(seed)
    for network, wide, names in flows(size, seed):
        flow = _cast(wide, np.float32)
        exact = _cast(flow, np.float64)
        O, D = flow.field.obs_dim or 0, flow.field.action_dim
        for rows in size.rows:
            obs, noise = (fresh.standard_normal((rows, n)).astype(np.float32) for n in (O, D))
            for name in names:
                how: dict[str, Any] = {"estimator": name, "weight": WEIGHT}
                expected = sample(exact, obs * 1.0, noise=noise.astype(np.float64), **how)
                own = sample(flow, obs, noise=noise, **how)
                for few in (True, False):
                    setattr(DeviceSampler, "few_rows", few)  # noqa: B010
                    device_sampler.samplers.clear()
                    runs = [sample(flow, obs, noise=noise, backend="cupy", **how) for _ in range(4)]
                    yield {
                        "network": network, "rows": rows, "estimator": name, "few": few,
                        "seed": seed,
                        "error": float(np.abs(runs[0] - expected).max()),
                        "numpy_float32": float(np.abs(own - expected).max()),
                        "same_bits": all(np.array_equal(runs[0], run) for run in runs[1:]),
                        "graph": _graph(),
                    }  # fmt: skip
                setattr(DeviceSampler, "few_rows", True)  # noqa: B010
            if rows > FEW_ROWS:
                how = {"estimator": "qgf", "weight": WEIGHT}
                expected = sample(exact, obs * 1.0, noise=noise.astype(np.float64), **how)
                got = sample(flow, obs, noise=noise, backend="cupy:tf32", **how)
                tf32_sampler.samplers.clear()
                error = float(np.abs(got - expected).max())
                yield {
                    "network": network, "rows": rows, "estimator": "qgf", "tf32": True,
                    "seed": seed, "error": error,
                }  # fmt: skip


def _graph() -> bool | None:
    """Whether the last sampler's launches became a graph; None of one launch, or of no program."""
    for sampler in device_sampler.samplers.values():
        for ready in sampler._ready.values():
            return None if sampler.few_rows else ready.graph is not None
    return None


def _cast(flow: GuidedFlow, dtype: Any) -> GuidedFlow:
    def cast(network: Any) -> Any:
        return replace(network, params=network.params.astype(dtype))

    return replace(
        flow,
        field=cast(flow.field),
        critic=cast(flow.critic),
        auxiliary=flow.auxiliary.map(cast, cast),
    )


def sanitizer(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """compute-sanitizer's tools on a short run, all at once."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    began, running = time.monotonic(), {}
    for tool in (only,) if only else TOOLS:
        script = str(Path(__file__).with_name("gpu.py"))
        watched = [sys.executable, script, "--part", "short", "--only", tool]
        command = [program, "--tool", tool, "--error-exitcode", "3", *watched]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            running[tool] = subprocess.Popen(command, text=True, **pipes)
        except OSError as error:
            yield {"tool": tool, "clean": None, "said": [str(error)[:300]]}
    for tool, process in running.items():
        try:
            left = max(1.0, SANITIZER_SECONDS - (time.monotonic() - began))
            said = process.communicate(timeout=left)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            yield {"tool": tool, "clean": None, "said": ["not done in time"]}
            continue
        clean = process.returncode == 0
        yield {"tool": tool, "clean": clean, "said": said.strip().splitlines()[-3:]}


def short(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """What the sanitizer watches: both ways, one step, and a block layer by layer.

    For initcheck widths are multiples of 16 bytes: a row's padding is read, and left out, though
    nobody wrote it.
    """
    even = {"obs_dim": 8, "action_dim": 4, "hidden": (12, 8)}
    sizes: dict[str, Any] = even if only == "initcheck" else {}
    checkpoint = small_checkpoint(1, dtype="float32", **sizes)
    for rows in (3, 40):
        obs, noise = states(checkpoint, rows)
        how: dict[str, Any] = {"weight": WEIGHT, "noise": noise, "denoise_steps": 1}
        for name in ("qgf", "qgf_covariance", "qgf_jacobian_ortho"):
            sample(checkpoint.flow, obs, backend="cupy", estimator=name, **how)
    yield {}
