"""Samplers to be timed: a right one, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.sampling import sample

Run = Callable[[Array, Array], Array]


def right(checkpoint: Any, *, estimator: str, weight: float, denoise_steps: int) -> Run:
    flow = checkpoint.guided_flow(embedding="float32")

    def run(obs: Array, noise: Array) -> Array:
        return sample(
            flow,
            obs,
            estimator=estimator,
            weight=weight,
            noise=noise,
            denoise_steps=denoise_steps,
        )

    return run


def heavier(checkpoint: Any, *, estimator: str, weight: float, denoise_steps: int) -> Run:
    return right(
        checkpoint, estimator=estimator, weight=1.001 * weight, denoise_steps=denoise_steps
    )


def last_row_wrong(checkpoint: Any, **given: Any) -> Run:
    run = right(checkpoint, **given)

    def wrong(obs: Array, noise: Array) -> Array:
        found = run(obs, noise)
        found[-1] = found[0]
        return found

    return wrong


def lacking(checkpoint: Any, **given: Any) -> Run:
    raise NotImplementedError("guidance is for later")


def lacking_when_called(checkpoint: Any, **given: Any) -> Run:
    def run(obs: Array, noise: Array) -> Array:
        raise NotImplementedError("batches are for later")

    return run


def broken(checkpoint: Any, **given: Any) -> Run:
    raise KeyError("policy")


def no_function(checkpoint: Any, **given: Any) -> Any:
    return 3


def transposed(checkpoint: Any, **given: Any) -> Run:
    return lambda obs, noise: noise.T


def doubled(checkpoint: Any, **given: Any) -> Run:
    return lambda obs, noise: noise.astype(np.float64)


def infinite(checkpoint: Any, **given: Any) -> Run:
    return lambda obs, noise: noise * np.float32(np.inf)


def first_answer(checkpoint: Any, **given: Any) -> Run:
    """Computes once for each batch."""
    run = right(checkpoint, **given)
    kept: dict[int, Array] = {}

    def cached(obs: Array, noise: Array) -> Array:
        if len(obs) not in kept:
            kept[len(obs)] = run(obs, noise)
        return kept[len(obs)]

    return cached


def reused_graph(checkpoint: Any, **given: Any) -> Run:
    """As a captured graph whose observations are copied in, and whose noise is forgotten."""
    run = right(checkpoint, **given)
    kept: dict[int, Array] = {}

    def replayed(obs: Array, noise: Array) -> Array:
        return run(obs, kept.setdefault(len(obs), noise))

    return replayed


def known_arrays(checkpoint: Any, **given: Any) -> Run:
    """Takes an array that it has seen for what was in it then, as one that uploads each once."""
    run = right(checkpoint, **given)
    kept: dict[tuple[int, int], Array] = {}

    def remembering(obs: Array, noise: Array) -> Array:
        key = id(obs), id(noise)
        if key not in kept:
            kept[key] = run(obs, noise)
        return kept[key]

    return remembering


def in_its_input(checkpoint: Any, **given: Any) -> Run:
    """Right, and its actions are written where the noise was."""
    run = right(checkpoint, **given)

    def writing(obs: Array, noise: Array) -> Array:
        noise[...] = run(obs, noise)
        return noise

    return writing


def late_failure(checkpoint: Any, **given: Any) -> Run:
    run, calls = right(checkpoint, **given), [0]

    def failing(obs: Array, noise: Array) -> Array:
        calls[0] += 1
        if calls[0] > 1:
            raise RuntimeError("out of memory")
        return run(obs, noise)

    return failing


def narrowed_later(checkpoint: Any, **given: Any) -> Run:
    run, calls = right(checkpoint, **given), [0]

    def narrowing(obs: Array, noise: Array) -> Array:
        calls[0] += 1
        actions = run(obs, noise)
        return actions if calls[0] < 2 else actions.astype(np.float16)

    return narrowing


def euler(flow: Any, *, estimator: str, weight: float, denoise_steps: int, off: float = 0.0) -> Run:
    """`qgf` by somebody's own loop over the networks of a flow."""
    assert estimator == "qgf" and denoise_steps == flow.denoise_steps

    def run(obs: Array, noise: Array) -> Array:
        a = noise
        for t in flow.times:
            v, _ = flow.field.forward(obs, a, t)
            q, cache = flow.critic.forward(obs, np.clip(a + (1 - t) * v, -1, 1))
            g = flow.critic.vjp((q == q.min(axis=0)).astype(a.dtype), cache)
            a = a + (v + (weight + off) * g) / denoise_steps
        return np.clip(a, -1, 1)

    return run


def euler_off(flow: Any, **given: Any) -> Run:
    return euler(flow, **given, off=0.01)
