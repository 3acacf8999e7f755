"""What a backend gives: kernels, an executor of programs, a place for training's arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from qgf_ref.arrays import Array
from qgf_ref.backends.program.record import Actor, Chain
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.losses.batch import AnyBatch, Batch
from qgf_ref.ops.kernels import Kernels

B = TypeVar("B", bound=AnyBatch)


class Executor(Protocol):
    """A chain, ready to be run."""

    def __call__(
        self,
        obs: Array,
        noise: Array,
        weight: Array | float,
        threads: int,
        drawn: Array | None = None,
    ) -> tuple[Array, ...] | None:
        """The chain's results for obs (B/n, O), each for n rows of noise (B, D), weight () or
        (B, 1), and an actor's drawn noise (m, B, D); None when something on the way was not finite.
        """
        ...


class Residence(Protocol):
    """Where a training's arrays are, other than in NumPy's memory."""

    def put(self, array: Array) -> Any:
        """A copy there."""
        ...

    def get(self, array: Any) -> Array:
        """A copy of what is there."""
        ...

    def windows(
        self,
        data: Any,
        starts: Array,
        horizon: int,
        discount: float,
        on_host: Callable[[], Batch],
    ) -> Batch:
        """`qgf_ref.data.windows.windows` there, float32; on_host makes it in NumPy."""
        ...

    def upload(self, batch: B) -> B:
        """A batch of NumPy's arrays there, its floats in float32."""
        ...


@dataclass(frozen=True)
class Backend:
    """How primitives and recorded programs are run.

    kernels   dtype or None → the kernels, compiled for that dtype (None: at their first use)
    executor  (flow or actor, chain, key) → the chain's program, ready to be run; chains with equal
              keys are the same. Raises NotRecordable where it has none. None: every chain runs as
              it stands
    threaded  whether a number of threads can be given
    packages  whose versions decide last bits; each must be installed
    require   raises InputError where the backend cannot run here
    own_array an array of another library → the backend's own, on its device; None where it is
              none of this backend's
    residence where a training's arrays are; None: with NumPy
    ways      the same backend, told to work otherwise: each is named NAME:WAY
    double    whether it computes in float64, too
    coarser   how many times as coarse as float32 the factors of its float32 products are rounded
    """

    name: str
    kernels: Callable[..., Kernels]
    executor: Callable[[GuidedFlow | Actor, Chain, Any], Executor] | None = None
    threaded: bool = False
    packages: tuple[str, ...] = ()
    require: Callable[[], None] | None = None
    own_array: Callable[[Any], Any] | None = None
    residence: Callable[[], Residence] | None = None
    ways: tuple[Backend, ...] = ()
    double: bool = True
    coarser: float = 1.0
