"""How fast is it? The parts of `gpu.py` that time, beside JAX and PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu_timing import Clock, OwnClock, Size, Start, timed, told
from qgf_ref import sample
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import TrainState, update
from qgf_ref.backends.cupy.device import device
from qgf_ref.backends.cupy.few_rows import FEW_ROWS
from qgf_ref.backends.cupy.sampler import DeviceSampler, device_sampler, tf32_sampler
from qgf_ref.backends.engine import backend_named
from qgf_ref.backends.program.program import Op
from qgf_ref.backends.program.registers import NETWORK, OP
from qgf_ref.bench.settings import fresh_checkpoint, hidden_of
from qgf_ref.data.windows import Transitions
from qgf_ref.training.config import preset
from qgf_ref.training.loop import training_batch

WEIGHT = 0.1
PRODUCTS = {Op.FORWARD: 1, Op.VJP: 1, Op.JVP: 1, Op.HVP: 3}
"""With each layer's matrix."""


def floor(sampler: DeviceSampler, rows: int) -> dict[str, float]:
    """What a program cannot do without, counted beforehand.

    operations  of its products; of a critic's under min, the rows that attain it
    bytes       each matrix read once a product, each product's rows read and written once
    """
    weights, operations, moved = sampler.tables.weights, 0.0, 0.0
    itemsize = weights.dtype.itemsize
    sparse = sampler.tables.code.asks(Op.REDUCE_MIN)
    for code in sampler.tables.code.table:
        if code[OP] > Op.HVP:
            continue
        net, times = weights.nets[int(code[NETWORK])], PRODUCTS[Op(code[OP])]
        layers = [net.layer(l) for l in range(len(net.rows))]
        taking = net.members * rows
        if net.scalar and code[OP] != Op.FORWARD and sparse:
            taking = rows
        numbers = sum(layer["IN"] * layer["OUT"] for layer in layers)
        ends = sum(layer["IN"] + layer["OUT"] for layer in layers)
        operations += 2.0 * numbers * taking * times
        moved += times * itemsize * (numbers * net.members + ends * taking)
    return {"operations": operations, "bytes": moved}


def contenders(
    size: Size, name: str, state: tuple[Any, Any, Any]
) -> dict[str, Callable[[], Start]]:
    """By name, what makes a peer ready. state: checkpoint, observations, noise."""
    from benchmarks.peers import gpu as peers

    makers: dict[str, Callable[[], Start]] = {
        "JAX": lambda: peers.jax_sampler(*state, name, WEIGHT),
        "JAX, TF32": lambda: peers.jax_sampler(*state, name, WEIGHT, tf32=True),
    }
    for mode in size.modes if name != "bptt" else ("eager",):
        torch = *state, name, WEIGHT, mode, size.platform
        makers[f"PyTorch {mode}"] = partial(peers.torch_sampler, *torch)
    if name == "qgf_jacobian":
        makers["JAX, official Jacobian"] = lambda: peers.jax_sampler(
            *state, name, WEIGHT, formed=True
        )
    return makers


def cell(size: Size, name: str, network: str, batch: int) -> dict[str, Any]:
    """One network, estimator and batch: ours in both ways where both are there, and the peers."""
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
        other.__dict__.update(sampler.__dict__, _ready={}, memory=None, few_rows=False)
        starts["cupy, many launches"] = lambda: other(*there, WEIGHT)
    if batch > FEW_ROWS:  # fewer are not cuBLAS's
        starts["cupy, TF32"] = lambda: sample(
            flow, there[0], noise=there[1], backend="cupy:tf32", **how
        )
    failed = {}
    for contender, make in contenders(size, name, (checkpoint, obs, noise)).items():
        try:
            starts[contender] = make()
        except Exception as error:  # noqa: BLE001
            failed[contender] = told(error)
    row = timed(starts, size, clocks=clocks_of(starts, size))
    row["failed"] |= failed
    if "JAX" in row["seconds"]:
        row["from_jax"] = float(np.abs(ours.get() - np.asarray(starts["JAX"]())).max())
    return {
        "estimator": name, "network": network, "batch": batch, **row, **floor(sampler, batch),
        "weights": sampler.tables.weights.flat.nbytes, "workspace": sampler.bytes,
    }  # fmt: skip


def forget() -> None:
    """Free what samplers hold."""
    for remembered in (device_sampler, tf32_sampler):
        remembered.samplers.clear()


def clocks_of(names: Iterable[str], size: Size) -> dict[str, Clock]:
    """CUDA events for those on whose streams they can be put: ours and, on a GPU, PyTorch's."""
    clocks: dict[str, Clock] = {name: OwnClock() for name in names if name.startswith("cupy")}
    if size.platform == "cuda" and any(name.startswith("PyTorch") for name in names):
        from benchmarks.peers.gpu import TorchClock

        clocks |= {name: TorchClock() for name in names if name.startswith("PyTorch")}
    return clocks


def samplers(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """qgf, the cells that have targets first."""
    for batch in size.batches:
        for network in (only,) if only else size.networks:
            yield cell(size, "qgf", network, batch)
            forget()


def gradients(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """qgf_jacobian, also in the official formulation, and bptt."""
    for batch in size.gradient_batches:
        for name in ("qgf_jacobian", "bptt"):
            yield cell(size, name, only or size.gradient_network, batch)
            forget()


def dataset(rng: np.random.Generator, steps: int) -> Transitions:
    """Episodes of 1000 steps, of cube-single's widths."""
    arrays = [rng.standard_normal((steps, n)).astype(np.float32) for n in (28, 28, 5)]
    ends = (np.arange(steps) % 1000 == 999).astype(np.float32)
    rewards = -np.ones(steps, np.float32)
    return Transitions(arrays[0], arrays[1], arrays[2].clip(-1, 1), rewards, 1 - ends, ends)


def trainings(size: Size, only: str) -> Iterator[dict[str, Any]]:
    """Updates of both presets, the data set on the device, beside JAX's on ready batches."""
    from benchmarks.peers import gpu as peers

    rng = np.random.default_rng(0)
    data = dataset(rng, size.steps)
    for name in ("paper", "small"):
        config = replace(preset(name), task="none", backend="cupy")
        rows, hyper = size.batch or config.batch, config.hyperparameters()
        backend = backend_named("cupy")
        assert backend.residence is not None
        place, checkpoint = backend.residence(), fresh_checkpoint(size.hidden or config.hidden, 0)
        nets = checkpoint.networks(embedding="float32", kernels=backend.kernels(np.float32))
        state = [TrainState.create(RECIPE, nets).map(place.put)]

        def ours(s: Any = state, p: Any = place, n: int = rows, h: Any = hyper) -> None:
            batch, drawn = training_batch(rng, data, n, RECIPE, h, p)
            s[0] = update(RECIPE, s[0], batch, drawn, h)[0]

        batches = []
        for _ in range(8):
            batch, drawn = training_batch(rng, data, rows, RECIPE, hyper)
            batches.append((batch, drawn["x0"], drawn["t"]))
        starts: dict[str, Start] = {"cupy": ours}
        failed = {}
        try:
            starts["JAX"] = peers.jax_training(checkpoint, hyper, batches)
        except Exception as error:  # noqa: BLE001
            failed["JAX"] = told(error)
        row = timed(starts, size, size.training_seconds, 0.2, clocks_of(starts, size))
        row["failed"] |= failed
        with contextlib.suppress(KeyError):
            row["projected_hours"] = 500_000 * row["seconds"]["cupy"]["median"] / 3600
        yield {"preset": name, **row}
