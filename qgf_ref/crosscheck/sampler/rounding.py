"""What rounding explains: our own float32 runs in several summation orders, and their scatter.

The yardstick of every comparison is a three-tensor ratio,
    ‖theirs − truth‖ / ‖ours − truth‖,
with truth the float64 run and ours a float32 run, per quantity and step. Ours is run several times
with the hidden units permuted (the same function, summed in other orders) and with every kernel
moved by a unit in the last place at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.agents.memory import Memory
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.port import Port, Substituted
from qgf_ref.crosscheck.sampler.runs import Predicted
from qgf_ref.crosscheck.sampler.subject import jittered_networks
from qgf_ref.flow.diffusion import DDPM, VPSchedule
from qgf_ref.nets.mlp import LayerParams, MLPOptions, MLPParams
from qgf_ref.ops.activations import ActivationCache, activation_vjp
from qgf_ref.ops.clip import Bound, ClipCache, clip, clip_vjp, limits

UNIT = {np.dtype("float32"): 2.0**-24, np.dtype("float64"): 2.0**-53}
"""Unit roundoff."""

NEAR = 64
"""Units of rounding within which a branch (clip, relu, minimum, argmax) may go either way."""


def permuted(params: MLPParams, rng: np.random.Generator, options: MLPOptions) -> MLPParams:
    """The same function with its hidden units in another order.

    params of any MLP, with or without an ensemble axis; every hidden layer is permuted alike in
    all members, a residual one as the layer whose units it is added to. A table stays, an encoder
    is permuted likewise.
    """
    layers, previous = [], None
    for i, layer in enumerate(params.layers):
        kernel = layer.kernel if previous is None else layer.kernel[..., previous, :]
        rest = layer.parts()[1:]
        if i < len(params.layers) - 1:
            if previous is None or not options.adds_input(params, i):
                previous = rng.permutation(kernel.shape[-1])
            kernel = kernel[..., previous]
            rest = tuple(None if part is None else part[..., previous] for part in rest)
        layers.append(LayerParams(np.ascontiguousarray(kernel), *rest))  # type: ignore[arg-type]
    encoder = None if params.encoder is None else permuted(params.encoder, rng, options)
    return MLPParams(tuple(layers), params.table, encoder)


def jittered(kernel: Array, seed: int) -> Array:
    """A float32 kernel, each number up or down by a unit in the last place, or left.

    Equal numbers move alike, so that tied ensemble members stay tied. Where an order of summation
    makes no difference (two features), this is what stands for rounding.
    """
    bits = kernel.view(np.uint32)
    mixed = (bits ^ np.uint32(seed * 0x9E3779B9 % 2**32)) * np.uint32(0x85EBCA6B)
    units = ((mixed >> np.uint32(16)) % np.uint32(3)).astype(np.int32) - 1
    return np.where(kernel == 0, kernel, (bits.view(np.int32) + units).view(np.float32))


def reordered(port: Port, seed: int, memory: Memory | None = None) -> Port:
    """The same float32 port, its networks summing in another order, its kernels jittered."""
    if port.opaque:
        return replace(port, flow=jittered_networks(port.flow, seed))
    rng, memory = np.random.default_rng(seed), memory or Memory()

    def change(net: Any) -> Any:
        def moved() -> MLPParams:
            params = permuted(net.params, rng, net.options)
            if params.layers[0].kernel.dtype != np.float32:
                return params
            layers = (replace(x, kernel=jittered(x.kernel, seed)) for x in params.layers)
            return replace(params, layers=tuple(layers))

        return replace(net, params=memory.reordered(net, seed, rng, moved))

    port = port.with_policy(change).with_critics(change)
    if isinstance(port.chain, DDPM) and port.flow.field.dtype == np.float32:
        port = port.with_chain(schedule=_multiplied_up(port.chain.schedule, seed))
    return port


def _multiplied_up(schedule: Callable[[int], VPSchedule], seed: int) -> Callable[[int], VPSchedule]:
    """The schedule as float32 code has it, which multiplies rounded α into ᾱ."""

    def rounded(T: int) -> VPSchedule:
        right, one = schedule(T), np.float32(1)
        off = np.random.default_rng(seed).integers(-1, 2, T + 1) * UNIT[np.dtype("float32")]
        alphas = (right.alphas * (1 + off * (right.betas > 0))).astype(np.float32)
        share = np.cumprod(alphas, dtype=np.float32) / np.cumprod(right.alphas)
        return VPSchedule((one - alphas).astype(float), alphas.astype(float),
                          right.alpha_hats * share)  # fmt: skip

    return rounded


class Branches:
    """Rows in which rounding decides a branch of the gradient or of the choice."""

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.kinks: Any = False
        self.edges: Any = False
        self.masked = False
        self.ranked: Array | None = None

    def watching(self, port: Port) -> Port:
        """`port` with its derivatives at kinks, and its ranking, looked at."""

        def watch(net: Any) -> Any:
            if net.options.activation != "relu":  # no other has a kink
                return net
            kernels = Substituted(net.kernels, {activation_vjp: self._slope})
            return replace(net, kernels=kernels)

        def choose(q: Array) -> Array:
            self.ranked = q
            return chosen(q)

        chosen = port.scheme.choose
        if not port.opaque:
            port = port.with_policy(watch).with_critics(watch)
        port = port.with_scheme(choose=choose)
        kernels = Substituted(port.flow.kernels, {clip: self._clip, clip_vjp: self._mask})
        return replace(port, flow=replace(port.flow, kernels=kernels))

    def _slope(self, y_bar: Array, cache: ActivationCache | None) -> Array:
        if isinstance(cache, ActivationCache) and cache.name == "relu":
            x = np.moveaxis(cache.x, -2, 0)
            size = np.sqrt((x * x).mean(axis=-1, keepdims=True))
            near = np.abs(x) <= NEAR * self.unit * size
            self.kinks = self.kinks | near.reshape(len(x), -1).any(axis=1)
        return activation_vjp(y_bar, cache)  # type: ignore[arg-type]

    def _clip(self, x: Array, bound: Bound = 1.0, *args: Any) -> Any:
        near = np.zeros(len(x), bool)
        for end in limits(bound, x):
            off = np.abs(x - end)
            near |= ((off <= NEAR * self.unit * np.abs(end)) & (off > 0)).any(axis=1)
        self.edges = self.edges | near
        return clip(x, bound, *args)

    def _mask(self, x_bar: Array, cache: ClipCache) -> Array:
        self.masked = True
        return clip_vjp(x_bar, cache)

    def undecided(self, rows: int, q: Array | None, q_error: Array | None) -> Array:
        """Rows (B·n,) that rounding decides. q (T, E, B·n); q_error (T,) its measured error."""
        flagged: Array = np.zeros(rows, bool) | self.kinks
        if self.masked:
            flagged |= self.edges
        if q is not None and q_error is not None and q.shape[1] > 1:
            two = np.sort(q, axis=1)[:, :2]
            gap = two[:, 1] - two[:, 0]
            near = gap <= NEAR / 4 * q_error[:, None]
            flagged |= (near & (gap > 0)).any(axis=0)
        return flagged

    def undecided_choice(self, q_error: float) -> Array | None:
        """Observations (B,) whose two best candidates rounding cannot tell apart."""
        if self.ranked is None or self.ranked.shape[1] < 2:
            return None
        two = np.sort(self.ranked, axis=1)[:, -2:]
        gap = two[:, 1] - two[:, 0]
        return (gap <= NEAR / 4 * q_error) & (gap > 0)


@dataclass(frozen=True)
class Scatter:
    """How far our own runs in the port's precision are from the float64 run.

    truth     the float64 run
    rms, peak quantity → (R, T): root mean square and largest error of each of the R runs, by step
    size      quantity → (T,): root mean square of the truth
    decided   (B·n,) rows whose branches rounding does not decide; chosen (B,): whose choice it
              does not
    """

    truth: Predicted
    rms: dict[str, Array]
    peak: dict[str, Array]
    size: dict[str, Array]
    decided: Array
    chosen: Array
    unit: float

    def rows(self, quantity: str) -> Array:
        """The rows of `quantity` that are compared."""
        if quantity == "action":
            return self.chosen
        if quantity in ("g", "a"):
            return self.decided
        return np.ones_like(self.decided)

    def floor(self, quantity: str) -> Array:
        """Half a unit of rounding of the quantity's size, (T,): no run can be closer on purpose."""
        return 0.5 * self.unit * self.size[quantity]

    def typical(self, quantity: str) -> Array:
        """Root mean square of the runs' errors, at least the floor, (T,)."""
        rms = self.rms[quantity]
        return np.maximum(np.sqrt((rms * rms).mean(axis=0)), self.floor(quantity))

    def widened(self, other: Predicted, share: float) -> Scatter:
        """The same with errors of at least this share of the difference from another truth, all
        steps taken together.
        """
        rms, peak = {}, {}
        for name, value in self.truth.items():
            size, top = norms(by_step(name, value - other[name]), self.rows(name))
            rms[name] = np.maximum(self.rms[name], share * np.sqrt((size * size).mean()))
            peak[name] = np.maximum(self.peak[name], share * top.max())
        return replace(self, rms=rms, peak=peak)

    def spread(self, quantity: str) -> Array:
        """Largest over typical of the runs' errors, (T,)."""
        rms = np.maximum(self.rms[quantity], self.floor(quantity))
        typical = np.sqrt((rms * rms).mean(axis=0))
        usual = (typical > 0) & np.isfinite(typical)
        return np.divide(rms.max(axis=0), typical, out=np.ones_like(typical), where=usual)


def by_step(quantity: str, array: Array) -> Array:
    """(T, B·n, width) whatever the quantity: action gets one step, q its members last."""
    if quantity == "action":
        return array[None]
    return np.swapaxes(array, 1, 2) if quantity == "q" else array


def norms(error: Array, rows: Array) -> tuple[Array, Array]:
    """Root mean square and peak over rows and width of (T, rows, width), each (T,)."""
    kept = np.abs(error[:, rows]).reshape(len(error), -1)
    if not kept.shape[1]:
        return np.zeros(len(error)), np.zeros(len(error))
    with np.errstate(over="ignore"):
        return np.sqrt((kept * kept).mean(axis=1)), kept.max(axis=1)


def scatter(
    truth: Callable[[Callable[[Port], Port]], Predicted],
    runs: Sequence[Predicted],
    unit: float,
    best_of: int,
) -> Scatter:
    """Run the truth (with its branches watched), and measure how far our runs are from it.

    truth   runs the float64 port after the given change; runs  of the float32 ports
    unit    of their precision: our float32 errors are scaled by unit/2⁻²⁴
    """
    branches = Branches(unit)
    exact = truth(branches.watching)
    scale = unit / UNIT[np.dtype("float32")]
    every = np.ones(exact["v"].shape[1], bool)
    q_error = np.zeros(len(exact["v"]))
    if "q" in exact:
        errors = [by_step("q", run["q"] - exact["q"]) for run in runs]
        q_error = scale * np.max([norms(error, every)[0] for error in errors], axis=0)
    undecided = branches.undecided(len(every), exact.get("q"), q_error)
    chosen = np.logical_not(undecided.reshape(-1, best_of).any(axis=1))
    tied = branches.undecided_choice(float(q_error.max(initial=0.0)))
    if tied is not None:
        chosen &= ~tied
    start = Scatter(exact, {}, {}, {}, ~undecided, chosen, unit)
    return measured(exact, runs, start)


def measured(exact: Predicted, runs: Sequence[Predicted], like: Scatter) -> Scatter:
    """The scatter of these runs about the truth, `like` another in unit and rows compared."""
    scale = like.unit / UNIT[np.dtype("float32")]
    rms: dict[str, Array] = {}
    peak: dict[str, Array] = {}
    size: dict[str, Array] = {}
    for name, value in exact.items():
        at = by_step(name, value)
        rows = like.rows(name)
        differences = [norms(by_step(name, run[name]) - at, rows) for run in runs]
        rms[name] = scale * np.array([r for r, _ in differences])
        peak[name] = scale * np.array([p for _, p in differences])
        size[name] = norms(at, rows)[0]
    return replace(like, truth=exact, rms=rms, peak=peak, size=size)
