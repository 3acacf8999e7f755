"""A plain NumPy port with errors planted in single lines, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.interop.trace_file import recorded_trace
from tests.crosscheck.ports import inputs, lively, setting
from tests.helpers.numpy_sampler import NumpySampler

CHECKPOINT = lively()
CHOSEN = setting(CHECKPOINT)
GIVEN = inputs(CHECKPOINT)
T, W = 5, np.float32(0.3)
RIGHT = NumpySampler(CHECKPOINT)
Trace = dict[str, Array]
Line = Callable[..., Any]


def recorded(weight: float = 0.3, only: tuple[str, ...] = (), **lines: Any) -> RecordedCase:
    trace = NumpySampler(CHECKPOINT, **lines)(GIVEN.obs, GIVEN.noise, weight)
    kept = {name: x for name, x in trace.items() if not only or name in only}
    whole = recorded_trace({**kept, "obs": GIVEN.obs, "noise": GIVEN.noise})
    return RecordedCase(whole, weight, "test")


def compared(**options: Any) -> Comparison:
    case = recorded(**options)
    return compare(CHECKPOINT, case.trace, estimator="qgf", weight=float(case.weight))


def named(case: RecordedCase) -> list[str]:
    return [str(e.mistakes[0]) for e in diagnose(CHOSEN, [case])[2].explanations]


def transposed(x: Array) -> Array:
    return x.reshape(*x.shape[:-1], 2, 2).swapaxes(-1, -2).reshape(x.shape)
