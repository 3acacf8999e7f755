"""Calling another implementation, and refusing what is no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import require_members
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.probes import Probe
from qgf_ref.errors import InputError
from qgf_ref.interop.trace_file import STEPWISE, recorded_trace

Sampler = Callable[[Array, Array, float], Any]
"""(obs (B, O), noise (B·n, D), weight) → action (B, D), or a mapping of the trace schema."""


def array_of(call: Callable[[], Any], shape: tuple[int, ...], what: str) -> Array:
    """What the call returns, of this shape. Raises CrossCheckError when it raises, or returns
    something else. what: the call, for the message.
    """
    try:
        answer = call()
    except Exception as error:
        raise CrossCheckError(
            f"your function raised {type(error).__name__} on {what}: {error}"
        ) from error
    return _numbers(answer, shape, what)


def _numbers(answer: Any, shape: tuple[int, ...] | None, what: str) -> Array:
    try:
        array = np.asarray(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CrossCheckError(f"on {what}, what came back is no array: {error}") from error
    wrong = array.dtype.kind != "f" or (shape is not None and array.shape != shape)
    if wrong:
        raise CrossCheckError(
            f"on {what}, floats of shape {shape} were expected, {array.dtype} of shape "
            f"{array.shape} came back"
        )
    if not np.isfinite(array).all():
        raise CrossCheckError(
            f"on {what}, {int((~np.isfinite(array)).sum())} values are not finite"
        )
    return array


def called(fn: Sampler, networks: Checkpoint, probe: Probe, on: str) -> RecordedCase:
    """The run of `fn` on a probe, recorded. Raises CrossCheckError when it is none."""
    rows, D = len(probe.obs), networks.flat_action_dim
    what = f"{probe.why} ({rows} observations, weight {probe.weight:g})"
    try:
        answer = fn(probe.obs.copy(), probe.noise.copy(), probe.weight)
    except Exception as error:
        raise CrossCheckError(
            f"on {on}, your sampler raised {type(error).__name__} with {what}: {error}"
        ) from error
    parts = dict(answer) if isinstance(answer, Mapping) else {"action": answer}
    if "action" not in parts:
        raise CrossCheckError(
            f"your sampler returned a mapping without 'action': {', '.join(map(str, parts))}"
        )
    parts["action"] = _numbers(parts["action"], (rows, D), what)
    given = {
        name: _numbers(parts[name], None, f"{what}, {name}")
        for name in ("action", *STEPWISE)
        if parts.get(name) is not None
    }
    try:
        trace = recorded_trace({**given, "obs": probe.obs, "noise": probe.noise}, source=what)
        require_members(trace, networks)
    except InputError as error:
        raise CrossCheckError(str(error)) from error
    if trace.steps not in (None, networks.options.denoise_steps):
        raise CrossCheckError(
            f"on {what}, {trace.steps} denoising steps came back; the checkpoint says "
            f"{networks.options.denoise_steps}"
        )
    return RecordedCase(trace, probe.weight, probe.name)
