"""The trace schema: what another implementation writes down to be compared with this one.

An npz, version 1, of real numbers:

    obs      (B, O)     observations
    noise    (B·n, D)   a_0; n = best_of, the candidates of one observation in consecutive rows
    action   (B, D)     the result
and any of, with a leading axis over the T denoising steps,
    a        (T, B·n, D)  before the step
    v        (T, B·n, D)  velocity
    a1_hat   (T, B·n, D)  the point at which the critic was asked
    q        (T, E, B·n)  every member there
    g        (T, B·n, D)  the estimator's output, before weighting
of a policy without a flow (DAC, QSM, FQL): v, what its network says there; a1_hat, the clean
estimate as it enters the next state; of one that adds noise on its way, and required of it,
    z        (T, B, D)    that noise, unscaled, in the order of the steps (the last may lack)
and
    metadata  a JSON object as a string: version, estimator, weight, denoise_steps, best_of;
              convention, in which v was written (of `qgf_ref.flow.convention`); precision, if the
              networks computed in less than float32 (`PRECISIONS`); time_embedding, "exact" if
              float32 networks are told times embedded in float64; of GradStep, gradient_steps,
              gradient_step_size and gradient_step_sign. Any of them may be missing and be given to
              the comparison instead.

`qgf-ref trace` writes the same schema. Other arrays in the file are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array, require_finite
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError, listing, unknown_name
from qgf_ref.files import read_npz
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.interop.real_tensors import text_of
from qgf_ref.ops.time_embedding import PRECISIONS as TIME_PRECISIONS

VERSION = 1
REQUIRED = ("obs", "noise", "action")
STEPWISE = ("a", "v", "a1_hat", "q", "g")
CAUSAL = (*STEPWISE[1:], "a", "action")
"""What a trace holds in the order in which it arises; `a` is the state after the update."""
MAX_ELEMENTS = 1 << 28
"""More numbers in one array than any trace has; a larger one would only eat memory."""
LARGEST = 1e18
"""No sampler gets there, and float32 networks overflow not far beyond."""
_LARGEST_ITEM = 8
_LONGEST = 200

PRECISIONS = {"float16": 2.0**-13, "bfloat16": 2.0**-10}
"""A quarter of the unit roundoff of what networks compute in, where that is less than float32. As
products are summed in float32, right ports would reach 0.07 of the limit that a whole unit sets."""


@dataclass(frozen=True)
class RecordedTrace:
    """A trace of any implementation, as its file has it.

    obs, noise, action and stepwise arrays: see the module. metadata: estimator, weight,
    denoise_steps, best_of, convention, as far as known. Raises InputError when shapes contradict
    each other, or a number is not finite or beyond ±1e18.
    """

    obs: Array
    noise: Array
    action: Array
    stepwise: dict[str, Array] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = "memory"
    z: Array | None = None

    def __post_init__(self) -> None:
        if self.z is not None:
            self._check("z", self.z, 3)
            if self.z.shape[1:] != self.noise.shape:
                raise InputError(
                    f"{self.source}: z has shape {self.z.shape}, expected (T, B, D) with noise's "
                    f"B, D = {self.noise.shape}"
                )
        for name in REQUIRED:
            self._check(name, getattr(self, name), 2)
        unknown = set(self.stepwise) - set(STEPWISE)
        if unknown:
            raise InputError(
                f"{self.source}: unknown quantity {', '.join(sorted(unknown))}; "
                f"the stepwise ones are: {', '.join(STEPWISE)}"
            )
        rows, width = self.noise.shape
        if not len(self.obs):
            raise InputError(f"{self.source} holds no observations: obs has shape {self.obs.shape}")
        if rows % len(self.obs) or self.action.shape != (len(self.obs), width):
            raise InputError(
                f"{self.source}: obs {self.obs.shape}, noise {rows, width} and action "
                f"{self.action.shape} contradict each other; expected (B, O), (B·n, D) and (B, D)"
            )
        for name, array in self.stepwise.items():
            self._check(name, array, 3)
            expected = (array.shape[1], rows) if name == "q" else (rows, width)
            if array.shape[1:] != expected or not array.size:
                layout = "(T, E, B·n)" if name == "q" else "(T, B·n, D)"
                raise InputError(
                    f"{self.source}: {name} has shape {array.shape}, expected {layout} with "
                    f"B·n = {rows}, D = {width}{_reordered(name, array.shape, expected, rows)}"
                )
        steps = {name: len(array) for name, array in self.stepwise.items()}
        if len(set(steps.values())) > 1:
            counts = ", ".join(f"{count} in {name}" for name, count in steps.items())
            T = min(steps.values())
            longer = [f"{name}[:T]" for name, count in steps.items() if count == T + 1]
            way = f"; write {', '.join(longer)}, T = {T}: states before a step" if longer else ""
            raise InputError(
                f"{self.source}: one number of steps T was expected, got {counts}{way}"
            )

    def _check(self, name: str, array: Array, axes: int) -> None:
        real = array.dtype.kind in "fiu" and array.dtype.itemsize <= _LARGEST_ITEM
        if not real or array.ndim != axes or array.size > MAX_ELEMENTS:
            raise InputError(
                f"{self.source}: {name} must hold real numbers (float64 or narrower) with {axes} "
                f"axes, got {listing([str(array.dtype)])} of shape {array.shape}"
                f"{_as_numbers(name, array, axes, real)}"
            )
        require_finite(array, f"{self.source}: {name}", InputError)
        if (np.abs(array.astype(np.float64)) > LARGEST).any():
            raise InputError(f"{self.source}: {name} has values beyond ±{LARGEST:g}")

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {x.shape}" for name, x in self.stepwise.items()) or "no steps"
        return f"RecordedTrace({self.source}, {len(self.obs)} rows × {self.best_of}, {held})"

    @property
    def best_of(self) -> int:
        """n, candidates for each observation."""
        return len(self.noise) // len(self.obs)

    @property
    def gradient_steps(self) -> GradientSteps | None:
        """GradStep's, where the metadata says that they follow the flow.

        Raises InputError where they are none.
        """
        steps, size = (self.metadata.get(f"gradient_step{end}") for end in ("s", "_size"))
        if steps is None and size is None:
            return None
        if steps is None or size is None:
            raise InputError(
                f"{self.source}: the metadata must give gradient_steps and gradient_step_size, or "
                "neither"
            )
        return GradientSteps(steps, float(size), self.metadata.get("gradient_step_sign", False))

    @property
    def steps(self) -> int | None:
        """T as far as the stepwise arrays tell."""
        return next((len(array) for array in self.stepwise.values()), None)

    @property
    def single_precision(self) -> bool:
        """Whether every computed number is a float32 (or narrower), whatever dtype holds it."""
        return set(self._fitting(np.float32)) == {"action", *self.stepwise}

    @property
    def in_half_precision(self) -> list[str]:
        """The computed quantities of which every number is a float16, whole ones aside."""
        computed = {**self.stepwise, "action": self.action}
        return [
            name
            for name in self._fitting(np.float16)
            if np.unique(computed[name][computed[name] % 1 != 0]).size > 8
        ]

    def _fitting(self, kind: type[np.floating[Any]]) -> list[str]:
        computed = {**self.stepwise, "action": self.action}
        with np.errstate(over="ignore"):
            return [name for name, x in computed.items() if (x.astype(kind) == x).all()]


def recorded_trace(
    arrays: dict[str, Any], metadata: dict[str, Any] | None = None, source: str = "memory"
) -> RecordedTrace:
    """A `RecordedTrace` from arrays by name. Raises InputError on what is missing or malformed."""
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        held = ", ".join(sorted(str(name) for name in arrays)) or "nothing"
        raise InputError(f"{source} lacks {', '.join(missing)}; it holds {held}")
    found: dict[str, Array] = {}
    for name in (*REQUIRED, *STEPWISE):
        if arrays.get(name) is not None:
            try:
                found[name] = np.asarray(arrays[name])
            except (ValueError, TypeError):
                raise InputError(f"{source}: {name} is no array of numbers") from None
    if found.get("q", np.zeros(0)).shape[1:2] == (0,):
        del found["q"]  # of a flow without a critic
    outer = {name: found.pop(name) for name in REQUIRED}
    z = arrays.get("z")
    return RecordedTrace(
        **outer,
        z=None if z is None else np.asarray(z),
        stepwise=found,
        metadata=_checked(metadata or {}, source),
        source=source,
    )


def read_trace(path: str | Path) -> RecordedTrace:
    """The trace in the npz at `path`. Nothing in it is unpickled.

    Raises InputError when it cannot be read, lacks an array, or contradicts itself.
    """
    names = (*REQUIRED, *STEPWISE, "z", "metadata")
    arrays = read_npz(Path(path), REQUIRED, only=names)
    text = arrays.pop("metadata", None)
    metadata: dict[str, Any] = {}
    if text is not None:
        if text.ndim or text.dtype.kind not in "US":
            raise InputError(f"{path}: metadata must be one string, got {text.dtype} {text.shape}")
        content = text_of(text, f"{path}: metadata")
        metadata = json_object(content, f"{path}: metadata")
    return recorded_trace(arrays, metadata, str(path))


def _as_numbers(name: str, array: Array, axes: int, real: bool) -> str:
    """How to write an array of another dtype, or with the axes of chunks, of one row, of a min."""
    raw = array.dtype.kind == "V" and array.dtype.itemsize == 2 and not array.dtype.names
    if not real and (raw or array.dtype.kind in "bfOSU"):
        what = " (bfloat16, which an npz cannot name)" if raw else ""
        return f"{what}; write {name}.astype(numpy.float32)"
    if real and array.ndim == axes - 1:
        return (
            f"; write every member, {name} (T, E, B·n)"
            if name == "q"
            else f"; for one row, write {name}[{':, ' if axes == 3 else ''}None]"
        )
    if not real or array.ndim != axes + 1 or name in ("q", "obs"):
        return ""
    to = ", ".join(map(str, (*array.shape[:-2], array.shape[-2] * array.shape[-1])))
    return f"; write {name}.reshape({'T, ' if axes == 3 else ''}B, H*A), here ({to})"


def _reordered(name: str, shape: tuple[int, ...], expected: tuple[int, ...], rows: int) -> str:
    """How to write a stepwise array whose axes come in another order."""
    if shape[0] == rows and shape[-1] == expected[-1] and name != "q":
        return f"; it begins with the rows: write numpy.swapaxes({name}, 0, 1)"
    if name == "q" and rows in shape[:2]:
        return f"; rows come last: write numpy.moveaxis(q, {shape.index(rows)}, 2)"
    return ""


def _checked(metadata: dict[str, Any], source: str) -> dict[str, Any]:
    version = metadata.get("version", VERSION)
    if version != VERSION:
        raise InputError(
            f"{source}: trace schema version {listing([repr(version)])}; this reads {VERSION}"
        )
    kinds: dict[str, tuple[type, ...]] = {
        "estimator": (str,),
        "convention": (str,),
        "precision": (str,),
        "time_embedding": (str,),
        "weight": (int, float),
        "denoise_steps": (int,),
        "best_of": (int,),
        "gradient_steps": (int,),
        "gradient_step_size": (int, float),
        "gradient_step_sign": (bool,),
    }
    known = {}
    for name, kind in kinds.items():
        value = metadata.get(name)
        if value is None:
            continue
        right = isinstance(value, kind) and isinstance(value, bool) == (bool in kind)
        if not right or len(str(value)) > _LONGEST:
            raise InputError(
                f"{source}: {name} in the metadata must be a {kind[-1].__name__}, got "
                f"{listing([repr(value)])}"
            )
        known[name] = value
    for name, valid in (("precision", PRECISIONS), ("time_embedding", TIME_PRECISIONS)):
        if name in known and known[name] not in valid:
            raise unknown_name(f"{source}: {name}", known[name], valid)
    return known
