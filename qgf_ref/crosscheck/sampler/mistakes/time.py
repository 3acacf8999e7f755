"""Mistakes in the time embedding and in the grid of times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.mistakes.base import NETWORK_ONLY, QUERY_ONLY, Change, Mistake, one
from qgf_ref.crosscheck.sampler.port import Port, Substituted, retimed
from qgf_ref.flow.convention import Retold
from qgf_ref.flow.path import time_grid
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.ops.time_embedding import (
    DIM,
    MAX_PERIOD,
    TIME_SCALE,
    TimeEmbeddingCache,
    time_embedding,
)


def _embedding(by: Callable[..., Any]) -> Mapping[str, Change]:
    def change(net: Any) -> Any:
        return replace(net, kernels=Substituted(net.kernels, {time_embedding: by}))

    return one(lambda port: port.with_policy(change))


def _with_constants(**constants: float) -> Mapping[str, Change]:
    def embed(t: Array, dim: int, precision: Any) -> tuple[Array, TimeEmbeddingCache]:
        return time_embedding(t, dim, precision, **constants)  # type: ignore[arg-type]

    return _embedding(embed)


def _off_by_units(
    scale: float = TIME_SCALE,
    max_period: float = MAX_PERIOD,
    divisor: int = DIM // 2,
    scaled_first: bool = False,
) -> Callable[[tuple[int, ...]], Change]:
    """The family whose float32 frequencies are so many units in the last place off; scaled_first:
    and the angles t·(scale·f) instead of (scale·t)·f.
    """

    def family(offsets: tuple[int, ...]) -> Change:
        def embed(t: Array, dim: int, precision: Any) -> tuple[Array, TimeEmbeddingCache]:
            unscaled = time_embedding(t[:1], dim, "float32", 1.0, max_period, divisor)[1].omega
            freq = (unscaled.view(np.int32) + np.array(offsets, np.int32)).view(np.float32)
            single, factor = np.asarray(t).astype(np.float32)[:, None], np.float32(scale)
            angle = single * (factor * freq) if scaled_first else (single * factor) * freq
            embedding = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
            return embedding, TimeEmbeddingCache(freq * np.float32(scale), embedding)

        return _embedding(embed)[""]

    return family


def _with_columns(order: list[int]) -> Mapping[str, Change]:
    def embed(t: Array, dim: int, precision: Any) -> tuple[Array, TimeEmbeddingCache]:
        embedding, cache = time_embedding(t, dim, precision)
        return embedding[:, order], cache

    return _embedding(embed)


def _embedded_as(times: Callable[[Array, int], Array]) -> Change:
    """Another time for the network alone: k (B,), T → times."""

    def apply(port: Port) -> Port:
        T = port.flow.denoise_steps

        def embed(t: Array, dim: int, precision: Any) -> tuple[Array, TimeEmbeddingCache]:
            # with another mistake in the grid, t may lie beyond it
            k = np.clip(np.rint(t * T), 0, T - 1)
            return time_embedding(times(k, T), dim, precision)

        if port.opaque or not port.embeds_time:
            return port.with_field(lambda field: Retold(field, told(T), 1))
        return _embedding(embed)[""](port)

    def told(T: int) -> Callable[[Any], Any]:
        def instead(t: Any) -> Any:
            k = np.clip(np.rint(np.asarray(t, float) * T), 0, T - 1)
            other = np.asarray(times(k, T), float)
            return float(other) if other.ndim == 0 else other

        return instead

    return apply


def _precision(name: Any) -> Mapping[str, Change]:
    def apply(port: Port) -> Port:
        grid = time_grid(port.flow.denoise_steps, name)
        port = replace(port, flow=retimed(port.flow, grid))
        return port.with_policy(lambda net: replace(net, embedding=name))

    return one(apply)


Time = Callable[[Any, Any, Any], Any]
"""(k, T, the number type) → t_k"""


def _grid(in_query: bool = False, **ways: Time) -> Mapping[str, Change]:
    """Variants that differ in how float32 rounds the same formula, and in which use of t has it.

    in_query   also 1 − t alone, unless a factor of the one-step estimate says the same
    """

    def times(way: Time, port: Port) -> tuple[float, ...]:
        kind = np.float32 if port.flow.time_precision == "float32" else np.float64
        T = port.flow.denoise_steps
        return tuple(float(way(kind(k), kind(T), kind)) for k in range(T))

    def everywhere(way: Time) -> Change:
        return lambda port: replace(port, flow=retimed(port.flow, times(way, port)))

    def in_network(way: Time) -> Change:
        def apply(port: Port) -> Port:
            grid = np.array(times(way, port))
            return _embedded_as(lambda k, T: grid[k.astype(int)])(port)

        return apply

    def in_one_step(way: Time) -> Change:
        def apply(port: Port) -> Port:
            grid = times(way, port)

            def rule(base: Estimator, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
                return base(flow, replace(step, time=grid[step.index]))

            return port.with_rule(rule)

        return apply

    labelled = {label.replace("_", " "): way for label, way in ways.items()}
    variants = {label: everywhere(way) for label, way in labelled.items()}
    variants |= {f"{label}, {NETWORK_ONLY}": in_network(way) for label, way in labelled.items()}
    if in_query:
        variants[QUERY_ONLY] = in_one_step(next(iter(ways.values())))
    return variants


def _accumulated(k: Any, T: Any, kind: Any) -> Any:
    t = kind(0)
    for _ in range(int(k)):
        t = kind(t + kind(1) / T)
    return t


def _several(port: Port) -> bool:
    return port.flow.denoise_steps > 1


def _single(port: Port) -> bool:
    return port.flow.time_precision == "float32"


HALF = DIM // 2
GRID = "the sampler evaluates at t = k/T, k = 0 … T−1"

TIME: tuple[Mistake, ...] = (
    Mistake(
        "time-sin-first", "time", "v",
        "the time embedding has sines first: the official order is [cos×8, sin×8]",
        _with_columns([*range(HALF, DIM), *range(HALF)]),
    ),
    Mistake(
        "time-interleaved", "time", "v",
        "the time embedding interleaves cos, sin, cos, sin …: the official order is [cos×8, sin×8]",
        _with_columns([half + i for i in range(HALF) for half in (0, HALF)]),
    ),
    Mistake(
        "time-unscaled", "time", "v",
        "t is not multiplied by 10000 before the embedding (time_scale); k = 0 does not show it",
        _with_constants(scale=1.0),
    ),
    Mistake(
        "time-scale-1000", "time", "v",
        "t is multiplied by 1000 before the embedding: the official factor is 10000",
        _with_constants(scale=1000.0), family=_off_by_units(scale=1000.0),
    ),
    Mistake(
        "time-half-minus-1", "time", "v",
        "the embedding's frequencies are exp(−ln(10⁴)·i/(h−1)): the official divisor is h = 8",
        _with_constants(divisor=HALF - 1), family=_off_by_units(divisor=HALF - 1),
    ),
    Mistake(
        "time-max-period-1000", "time", "v",
        "the embedding's max_period is 1000: the official one is 10000",
        _with_constants(max_period=1000.0), family=_off_by_units(max_period=1000.0),
    ),
    Mistake(
        "time-index", "time", "v",
        "the network gets the step's index k instead of t = k/T",
        one(_embedded_as(lambda k, T: k)),
    ),
    Mistake(
        "time-float64", "time", "v",
        "the time embedding is computed in float64: its angles reach 10⁴ rad, so that the official "
        "float32 embedding differs by 1e-4; round t, the frequencies and the angle to float32",
        _precision("exact"), _single,
    ),
    Mistake(
        "time-float32", "time", "v",
        "the time embedding is rounded to float32, as the official code does, in a float64 port",
        _precision("float32"), lambda port: not _single(port),
    ),
    Mistake(
        "time-frequencies", "time", "v",
        "the embedding's frequencies are rounded otherwise (another exp, 10000**(−i/8), a float64 "
        "table): each angle is 10⁴ times as far off. Up to 2 units in the last place are "
        "within what a float32 exp may return",
        {}, _single, family=_off_by_units(), harmless=2,
    ),
    Mistake(
        "time-scaled-frequencies", "time", "v",
        "t is multiplied by the frequencies times 10⁴, where the official code multiplies t by 10⁴ "
        "first: float32 rounds the angles otherwise, within what its frequencies leave open",
        one(_off_by_units(scaled_first=True)((0,) * HALF)), _single,
        family=_off_by_units(scaled_first=True), harmless=2, unless="time-frequencies",
    ),
    Mistake(
        "grid-next", "time", "v", f"t = (k+1)/T: {GRID}",
        _grid(
            divided=lambda k, T, f: (k + f(1)) / T,
            times_the_reciprocal=lambda k, T, f: (k + f(1)) * (f(1) / T),
            plus_one_step=lambda k, T, f: k / T + f(1) / T,
            plus_a_float64_step=lambda k, T, f: k / T + f(1 / int(T)),
        ),
    ),
    Mistake(
        "grid-inclusive", "time", "v", f"t = k/(T−1), as linspace(0, 1, T) has it: {GRID}",
        _grid(
            True,
            divided=lambda k, T, f: k / (T - f(1)),
            times_the_reciprocal=lambda k, T, f: k * (f(1) / (T - f(1))),
        ),
        _several,
    ),
    Mistake(
        "grid-reversed", "time", "v", f"t = 1 − k/T (1 is noise in diffusion's convention): {GRID}",
        _grid(
            divided=lambda k, T, f: f(1) - k / T,
            times_the_reciprocal=lambda k, T, f: f(1) - k * (f(1) / T),
            divided_at_once=lambda k, T, f: (T - k) / T,
            at_once_times_the_reciprocal=lambda k, T, f: (T - k) * (f(1) / T),
        ),
    ),
    Mistake(
        "grid-midpoint", "time", "v", f"t = (k+½)/T: {GRID}",
        _grid(
            True,
            divided=lambda k, T, f: (k + f(0.5)) / T,
            times_the_reciprocal=lambda k, T, f: (k + f(0.5)) * (f(1) / T),
            plus_half_a_step=lambda k, T, f: k / T + f(0.5) / T,
        ),
    ),
    Mistake(
        "grid-accumulated", "time", "v",
        "t is accumulated in float32, t += 1/T: rounding moves it by a few units in the last "
        "place, and the embedding multiplies by 10⁴; compute k/T",
        _grid(added=_accumulated), _single,
    ),
)  # fmt: skip
