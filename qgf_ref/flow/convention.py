"""Other people's flow conventions, converted at the edges: the core knows one.

The core's: t = 0 is noise and t = 1 the action, v = action − noise, a ← a + (v + w·G)/T at
t = k/T. Another convention differs from it by signs, an affine map of the time, the rounding of its
grid and the units of its actions; nothing here integrates or differentiates anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.flow.path import check_steps
from qgf_ref.nets.velocity import FieldAround, VelocityField

GRIDS = ("exact", "reciprocal", "divided", "accumulated")
Grid = Literal["exact", "reciprocal", "divided", "accumulated"] | tuple[float, ...]
"""How a port computes its times, s_k the distance from its noise end:

exact        s_k = k/T in float64
reciprocal   fl(fl(k)·fl(1/T)) in float32, as XLA compiles a division by a constant
divided      fl(fl(k)/fl(T)) in float32
accumulated  τ_{k+1} = fl(τ_k ± fl(1/T)) in float32, from 1 downwards where 1 is noise
or its own times (T,), from noise to action, 1/T apart: the loop's steps are.
"""
CORE = "qgf"
"""The core's own convention."""
ON_GRID = 1e-4
"""A time within so many steps of k/T is the grid's k: rounding moves it by 1e-6 of a step."""
EVEN = 1e-3
"""Most that a step between times of somebody's own is longer or shorter than 1/T, relative."""


@dataclass(frozen=True)
class Convention:
    """How a port counts time, points its velocity, and adds its guidance.

    noise_time   its flow time τ where a is noise, 0 or 1; its actions are at the other end
    velocity_to  "action": u = action − noise; "noise": u = noise − action. Its steps go to the
                 action either way: dt < 0 where τ falls
    grid         the times at which its sampler asks, see `Grid`
    buckets      N: its network is told the integer ⌊N·τ⌋ in place of τ
    guidance     "velocity": w·G stands beside the velocity, and the step multiplies both by |dt|;
                 "step": w·G is added to a at every step as it is
    source       where it was looked up, and in which version
    Raises InputError on a value that is none of these.
    """

    name: str
    noise_time: Literal[0, 1] = 0
    velocity_to: Literal["action", "noise"] = "action"
    grid: Grid = "exact"
    buckets: int | None = None
    guidance: Literal["velocity", "step"] = "velocity"
    source: str = ""

    def __post_init__(self) -> None:
        if self.noise_time not in (0, 1):
            raise InputError(f"noise_time must be 0 or 1, got {self.noise_time!r}")
        if self.velocity_to not in ("action", "noise"):
            raise unknown_name("velocity_to", self.velocity_to, ("action", "noise"))
        if self.guidance not in ("velocity", "step"):
            raise unknown_name("guidance", self.guidance, ("velocity", "step"))
        if not isinstance(self.grid, str):
            object.__setattr__(self, "grid", self._own_times(self.grid))
        elif self.grid not in GRIDS:
            raise unknown_name("grid", self.grid, GRIDS)
        whole = isinstance(self.buckets, int | np.integer) and self.buckets >= 1
        if self.buckets is not None and (not whole or isinstance(self.buckets, bool)):
            raise InputError(f"buckets must be a whole number ≥ 1, got {self.buckets!r}")

    def _own_times(self, grid: Any) -> tuple[float, ...]:
        try:
            times = tuple(map(float, grid))
        except (TypeError, ValueError):
            raise InputError(
                f"grid must be one of {', '.join(GRIDS)}, or T numbers, got {grid!r}"
            ) from None
        return times

    @property
    def sign(self) -> int:
        """v = sign·u."""
        return 1 if self.velocity_to == "action" else -1

    def times(self, denoise_steps: int) -> tuple[float, ...]:
        """τ_0 … τ_{T−1}, at which the port's sampler asks its field.

        Raises InputError where the convention has times of its own, and not T of them, 1/T apart
        from noise to action.
        """
        T = check_steps(denoise_steps)
        if not isinstance(self.grid, str):
            if len(self.grid) != T:
                raise InputError(f"{self.name} has {len(self.grid)} times, expected T = {T}")
            steps = np.diff(np.abs(self.noise_time - np.array(self.grid))) * T
            if not (np.abs(steps - 1) <= EVEN).all() or not all(0 <= t <= 1 for t in self.grid):
                raise InputError(
                    f"the times of {self.name} must go from noise, t = {self.noise_time}, to the "
                    f"action in steps of 1/T = 1/{T}, as the loop does; got {self.grid}"
                )
            return self.grid
        if self.grid == "exact":
            return tuple(abs(self.noise_time - k / T) for k in range(T))
        f = np.float32
        if self.grid == "accumulated":
            step = f((1 - 2 * self.noise_time) / T)
            times = [f(self.noise_time)]
            for _ in range(T - 1):
                times.append(f(times[-1] + step))
            return tuple(map(float, times))
        away = (f(k) / f(T) if self.grid == "divided" else f(k) * f(1 / T) for k in range(T))
        return tuple(float(f(1) - s if self.noise_time else s) for s in away)

    def time_of(self, t: float | Array, denoise_steps: int) -> float | Array:
        """τ of the core's t () or of any shape: on the grid as the port rounds it, else affine."""
        grid = np.array([*self.times(denoise_steps), 1.0 - self.noise_time])
        s = np.asarray(t, np.float64) * denoise_steps
        k = np.clip(np.rint(s), 0, denoise_steps).astype(int)
        off = np.abs(self.noise_time - s / denoise_steps)
        tau = np.where(np.abs(s - k) <= ON_GRID, grid[k], off)
        return float(tau) if tau.ndim == 0 else tau

    def core_time(self, tau: float | Array) -> float | Array:
        """The core's t of a τ () or of any shape."""
        t = np.abs(self.noise_time - np.asarray(tau, np.float64))
        return float(t) if t.ndim == 0 else t

    def asked(self, tau: float | Array) -> float | Array:
        """What the network is told of τ: itself, or its bucket as a whole number."""
        if self.buckets is None:
            return tau
        bucket = np.floor(np.asarray(tau, np.float64) * self.buckets)
        return float(bucket) if bucket.ndim == 0 else bucket

    def to_core(self, field: VelocityField, denoise_steps: int) -> VelocityField:
        """The core's v(s, a, t) = sign·u(s, a, τ) of a field u in this convention.

        denoise_steps  T of the sampler, on whose grid τ is rounded as the port rounds it
        """
        self.times(denoise_steps)  # refused now, not in the middle of a run
        return Retold(field, lambda t: self.asked(self.time_of(t, denoise_steps)), self.sign, self)

    def from_core(self, field: VelocityField) -> VelocityField:
        """u(s, x, τ) = sign·v(s, x, t) of a field v in the core's convention: `to_core`'s inverse.

        Raises InputError where the network is told buckets, of which several times have one.
        """
        if self.buckets is not None:
            raise InputError(f"{self.name} tells its network buckets: no time comes back from one")
        return Retold(field, self.core_time, self.sign)

    def core_weight(self, weight: float, denoise_steps: int) -> float:
        """The core's w of the weight that the port multiplies its gradient by."""
        return weight * denoise_steps if self.guidance == "step" else weight

    def port_weight(self, weight: float, denoise_steps: int) -> float:
        """The port's weight of the core's: `core_weight`'s inverse."""
        return weight / denoise_steps if self.guidance == "step" else weight

    def trace_to_core(
        self, arrays: Mapping[str, Array], units: Normalisation | None = None
    ) -> dict[str, Array]:
        """A trace that the port recorded, by the names of the trace schema, as the core's.

        units  of its actions, where it records them denormalised: a, a1_hat, action and noise are
               normalised, v and g are changed with them (v by 1/scale, ∇Q by scale)
        """
        changed = dict(arrays)
        if "v" in changed:
            changed["v"] = self.sign * np.asarray(changed["v"])
        if units is None:
            return changed
        for name in ("a", "a1_hat", "action", "noise"):
            if name in changed:
                changed[name] = units.normalised(changed[name])
        for name, factor in (("v", 1 / units.scale), ("g", units.scale)):
            if name in changed:
                changed[name] = factor * np.asarray(changed[name])
        return changed

    def trace_from_core(
        self, arrays: Mapping[str, Array], units: Normalisation | None = None
    ) -> dict[str, Array]:
        """`trace_to_core`'s inverse."""
        return self.trace_to_core(arrays, None if units is None else units.inverse)

    def training_pair(self, noise: Array, action: Array, tau: Array) -> tuple[Array, Array]:
        """The point x_τ and the target u of the port's flow-matching loss, each (B, D).

        noise, action (B, D), tau (B,). Of the same pair at `core_time(tau)` the core's loss is the
        same number: the point is the same, target and prediction change their sign together.
        """
        t = np.asarray(self.core_time(tau)).reshape(-1, 1)
        return (1 - t) * noise + t * action, self.sign * (action - noise)

    def __str__(self) -> str:
        ends = "t = 0 is noise" if self.noise_time == 0 else "t = 1 is noise, dt < 0"
        velocity = "action − noise" if self.velocity_to == "action" else "noise − action"
        grid = self.grid if isinstance(self.grid, str) else f"{len(self.grid)} given"
        told = "" if self.buckets is None else f", the network is told ⌊{self.buckets}·t⌋"
        guided = "w·G beside u" if self.guidance == "velocity" else "w·G added to a at each step"
        return f"{self.name}: {ends}; u = {velocity}; times {grid}{told}; {guided}"


@dataclass(frozen=True)
class Retold(FieldAround):
    """sign·u(s, a, told(t)) of the field `base` u, told another time.

    of  the convention of u that this comes from, if it does
    """

    told: Callable[[float | Array], float | Array]
    sign: int
    of: Convention | None = None

    def for_steps(self, denoise_steps: int) -> VelocityField:
        """The same field on the port's grid of another T."""
        if self.of is None:
            return super().for_steps(denoise_steps)
        return self.of.to_core(self.base, denoise_steps)

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """(B, D), and the base's cache."""
        u, cache = self.base.forward(obs, action, self.told(time))
        return self.sign * u, cache

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """sign·(∂u/∂a) action_dot."""
        return self.sign * self.base.jvp(action_dot, cache)

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """sign·(∂u/∂a)ᵀ velocity_bar."""
        return self.sign * self.base.vjp(velocity_bar, cache)


def own_convention(field: Any) -> Convention:
    """The convention in which the innermost field was written, as far as its wrappers tell."""
    told = CONVENTIONS[CORE]
    while field is not None:
        told = getattr(field, "of", None) or told
        field = getattr(field, "base", None)
    return told


CONVENTIONS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention(CORE, source="method.md; the official code rounds its times as 'reciprocal'"),
        Convention(
            "openpi", 1, "noise", "accumulated",
            source="Physical-Intelligence/openpi, src/openpi/models/pi0.py at 6d5d119: x_t = "
            "t·noise + (1 − t)·actions, u_t = noise − actions, dt = −1/num_steps from time 1.0",
        ),
        Convention(
            "lerobot", 1, "noise", "exact",
            source="huggingface/lerobot, src/lerobot/policies/common/flow_matching.py at 7427f31 "
            "(SmolVLA, pi0, pi0.5): openpi's, but time = 1.0 + k·dt, in float32 for the network; "
            "before 0.4.3 (00f4c86) time += dt in float32: then it is 'openpi'",
        ),
        Convention(
            "gr00t", 0, "action", "exact", 1000,
            source="NVIDIA/Isaac-GR00T, gr00t/model/gr00t_n1d6/gr00t_n1d6.py at 040fccf: "
            "velocity = actions − noise, t = k/N, the network is told int(t·num_timestep_buckets)",
        ),
        Convention(
            "flow_matching", 0, "action", "reciprocal",
            source="facebookresearch/flow_matching, solver/ode_solver.py at 0abac95 with the "
            "CondOT path and method='euler': torchdiffeq's grid arange(T)·step_size in float32",
        ),
    )
}  # fmt: skip
"""The presets, by name."""

ConventionLike = str | Convention


def convention(name: ConventionLike) -> Convention:
    """The convention of this name, or the one given. Raises InputError, listing the names."""
    if isinstance(name, Convention):
        return name
    if not isinstance(name, str) or name not in CONVENTIONS:
        raise unknown_name("convention", name, CONVENTIONS)
    return CONVENTIONS[name]
