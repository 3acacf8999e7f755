"""What runs samplers and updates: a backend, found by the name of its folder, and its threads.

A folder beside this module with a `backend.py` that defines `BACKEND` is a backend; nothing else
needs to know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.interface import Backend
from qgf_ref.backends.program.record import Actor, Chain, NotRecordable
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.scheme import ALGORITHM_1, Scheme
from qgf_ref.nets.networks import forward_only
from qgf_ref.nets.probability import ProbabilityCritic, logits_of
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.threads import thread_count


@cache
def backend_names() -> tuple[str, ...]:
    """The names of all backends, the reference first."""
    names = {path.parent.name for path in Path(__file__).parent.glob("*/backend.py")}
    return "numpy", *sorted(names - {"numpy"})


def require_backend(name: str) -> None:
    """Raise InputError, listing the valid names, unless `name` is a backend or a way of one."""
    if name in backend_names():
        return
    base, colon, _ = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or base not in backend_names():
        every = [way for base in backend_names() for way in _ways(base)]
        raise unknown_name("backend", name, every)
    if name not in _ways(base):
        raise unknown_name(f"way of backend {base}", name, _ways(base))


def _ways(base: str) -> dict[str, Backend]:
    """A backend and its ways, by name."""
    own: Backend = import_module(f"{__package__}.{base}.backend").BACKEND
    return {backend.name: backend for backend in (own, *own.ways)}


@cache
def backend_named(name: str) -> Backend:
    """The backend of that name.

    Raises InputError as `require_backend`, and where what it needs is missing.
    """
    require_backend(name)
    base = name.partition(":")[0]
    chosen = _ways(base)[name]
    for package in chosen.packages:
        if find_spec(package) is None:
            raise InputError(
                f'backend {name} needs {package}: pip install "qgf_ref[{base}]", or use numpy'
            )
    if chosen.require is not None:
        chosen.require()
    return chosen


@dataclass(frozen=True)
class Engine:
    """A backend and its number of threads; None: the rule of `qgf_ref.threads`.

    Raises InputError on threads that are not a number from 1, or that the backend does not have.
    """

    backend: Backend
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is None:
            return
        if not self.backend.threaded:
            raise InputError(
                f"threads is for backend numba, not {self.backend.name}; NumPy's own are set with "
                "threadpoolctl or OPENBLAS_NUM_THREADS"
            )
        thread_count(self.threads)

    @classmethod
    def of(cls, name: EngineLike = "numpy", threads: int | None = None) -> Engine:
        """The engine of a backend's name; or an engine, as it is, unless threads are given."""
        if isinstance(name, Engine):
            return name if threads is None else replace(name, threads=threads)
        return cls(backend_named(name), threads)

    @property
    def concurrency(self) -> int:
        """How many threads run at once."""
        return thread_count(self.threads) if self.backend.threaded else 1

    @property
    def single(self) -> Engine:
        """The same backend on one thread."""
        return replace(self, threads=1 if self.backend.threaded else None)

    def run(
        self,
        flow: GuidedFlow,
        chain: Chain,
        key: Any,
        estimator: Estimator,
        obs: Array,
        noise: Array,
        weight: float | Array,
        scheme: Scheme = ALGORITHM_1,
    ) -> tuple[Array, ...]:
        """The results of `chain`: as a program where it is one, else layer by layer.

        obs (B/n, O), noise (B, D), weight () or (B, 1), all checked. Raises whatever the chain
        raises; InputError, unless the backend is the reference, on a flow without networks, with
        kernels of its own, or on another scheme than Algorithm 1.
        """
        recorded, draws = self.backend.executor, len(noise) // max(len(obs), 1)
        if recorded is None:
            return chain(flow, scheme.spread(obs, draws), noise, weight)
        _require_algorithm_1(flow, scheme, self.backend.name)
        try:
            if not estimator.recordable:
                raise NotRecordable(f"the estimator {estimator.label}")
            program = recorded(flow, chain, key)
        except NotRecordable:
            flow = estimator.on(_layer_by_layer(flow, self.backend))
        else:
            results = program(obs, noise, weight, self.concurrency)
            if results is not None:
                return results
            # run once more as the reference, which says what left the finite numbers, and when
        if isinstance(obs, np.ndarray) or self.backend.residence is None:
            return chain(flow, scheme.spread(obs, draws), noise, weight)
        place = self.backend.residence()
        obs, noise, weight = (place.get(x) for x in (obs, noise, weight))
        return tuple(map(place.put, chain(flow, scheme.spread(obs, draws), noise, weight)))

    def run_actor(
        self, actor: Actor, chain: Chain, key: Any, obs: Array, noise: Array
    ) -> tuple[Array, ...]:
        """The results of `chain` on an actor, whose network has the reference's kernels: as a
        program where it is one, else layer by layer in the backend's.

        obs (B, O), noise (B, D), `actor.z` (n, B, D), all of the network's dtype
        """
        recorded = self.backend.executor
        if recorded is not None:
            try:
                program = recorded(actor, chain, key)
            except NotRecordable:
                kernels = self.backend.kernels(actor.net.dtype)
                actor = replace(actor, net=forward_only(replace(actor.net, kernels=kernels)))
            else:
                results = program(obs, noise, 0.0, self.concurrency, actor.z)
                if results is not None:
                    return results  # else the reference says what came of it
        return chain(actor, obs, noise, 0.0)

    def taken(self, array: Any) -> Any:
        """An array of a GPU as the backend's own; all else as it is.

        Raises InputError on a GPU's array unless the backend works there.
        """
        if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
            return array
        if int(array.__dlpack_device__()[0]) == _PROCESSOR:
            return array
        own = None if self.backend.own_array is None else self.backend.own_array(array)
        if own is None:
            raise InputError(
                f"backend {self.backend.name} takes NumPy arrays, and this {type(array).__name__} "
                "is on another device: use backend cupy for one of a GPU, or copy it"
            )
        return own

    def beside(self, obs: Any, array: Any) -> Any:
        """The array where obs, which `taken` took, is: in NumPy's memory or on the device."""
        place = self.backend.residence
        if place is None or isinstance(obs, np.ndarray) == isinstance(array, np.ndarray):
            return array
        return place().get(array) if isinstance(obs, np.ndarray) else place().put(array)

    def given(self, result: Any, like: Any) -> Any:
        """A result as `like` was, which `taken` took: NumPy's, or an array of its library."""
        if isinstance(result, np.ndarray) or type(result) is type(like):
            return result
        if not hasattr(like, "__dlpack__"):
            return result
        # JAX's arrays are of jaxlib, which cannot make any
        if hasattr(like, "__array_namespace__"):
            library = like.__array_namespace__()
        else:
            library = sys.modules[type(like).__module__.partition(".")[0]]
        return library.from_dlpack(result) if hasattr(library, "from_dlpack") else result


_PROCESSOR = 1
"""The kind of device that DLPack calls the processor."""
EngineLike = str | Engine
"""What `Engine.of` takes: a backend's name, or an engine."""


def _require_algorithm_1(flow: GuidedFlow, scheme: Scheme, name: str) -> None:
    if scheme is not ALGORITHM_1 or flow.kernels is not reference_kernels:
        raise InputError(f"backend {name} runs Algorithm 1 with the reference kernels only")
    if not hasattr(flow.field, "params") or not hasattr(logits_of(flow.critic), "params"):
        raise InputError(
            f"backend {name} runs networks; this flow has a {type(flow.field).__name__} and a "
            f"{type(flow.critic).__name__}: use backend numpy"
        )


def _layer_by_layer(flow: GuidedFlow, backend: Backend) -> GuidedFlow:
    """The flow whose networks run in the backend's kernels, one layer after another.

    Or the flow itself, if its parameters are not finite: the reference says best what is wrong.
    """
    networks: tuple[Any, ...] = (flow.field, logits_of(flow.critic))
    if not all(np.isfinite(a).all() for network in networks for a in network.params.arrays()):
        return flow
    kernels = backend.kernels(flow.field.dtype)
    return replace(with_networks(flow, lambda net: replace(net, kernels=kernels)), kernels=kernels)


def with_networks(flow: GuidedFlow, changed: Callable[[Any], Any]) -> GuidedFlow:
    """The flow of the same networks, each of them changed: of a probability, its logits."""
    critic = changed(logits_of(flow.critic))
    if logits_of(flow.critic) is not flow.critic:
        critic = ProbabilityCritic(critic)
    auxiliary = flow.auxiliary.map(changed, changed)
    return replace(flow, field=changed(flow.field), critic=critic, auxiliary=auxiliary)
