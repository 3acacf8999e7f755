"""What networks have computed before: most mistakes leave most of what a diagnosis simulates as it
is, and most estimators that an audit checks ask for the same v and ∇Q.

The networks of a checkpoint are run by kernels that remember. A network with the same parameters
and options at the same inputs, to the bit, has the same output and the same products: what is asked
again is looked up. (Networks of somebody's, in a diagnosis: `Answering`.)
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.nets.mlp import MLPCache, MLPOptions, MLPParams, mlp
from qgf_ref.ops.kernels import reference_kernels

ANSWERS, CACHES, PARAMETERS = 2**26, 2**24, 2**26
"""Bytes that are remembered of outputs and products, of what their forwards saved, and of
parameters in another precision or order. Any numbers are right: with smaller ones more is computed
again.
"""


class Recent:
    """The most recently used values, by key, of so many bytes in all; for any number of threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._known: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock, self._asked = Lock(), dict[Any, Lock]()

    def once(self, key: Any, compute: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """What `compute` returned the first time, of `size` bytes; again if it was forgotten.

        Waits where another thread is at it.
        """
        with self._lock:
            asked = self._asked.setdefault(key, Lock())
        with asked:
            with self._lock:
                if key in self._known:
                    self._known.move_to_end(key)
                    return self._known[key][0]
            value = compute()
            with self._lock:
                self._known[key] = value, size(value)
                self.size += self._known[key][1]
                while self.size > self.limit:
                    gone, (_, freed) = self._known.popitem(last=False)
                    self.size -= freed
                    self._asked.pop(gone, None)
        return value


class Forward(NamedTuple):
    """A network's forward, from which its cache can be had again. key: what was asked."""

    params: MLPParams
    x: Array
    options: MLPOptions
    kernels: Any
    key: tuple[Any, ...]

    @property
    def saved(self) -> int:
        """Bytes of its cache, about: six arrays of every layer's width, of every member."""
        columns = sum(layer.bias.size for layer in self.params.layers)
        return 6 * columns * self.x.nbytes // self.x.shape[-1]


class Memory:
    """Kernels that run a network as a whole, unless they remember what comes of it.

    caches  bytes that are remembered of what forwards saved, instead of `CACHES`
    runs    how many forwards of networks, and products of them, were computed
    """

    def __init__(self, caches: int | None = None) -> None:
        self.runs = 0
        self._answers = Recent(ANSWERS)
        self._caches = Recent(CACHES if caches is None else caches)
        self._made = Recent(PARAMETERS)
        self._contents: dict[int, tuple[Any, Any]] = {}

    def __call__(self, primitive: Any, *args: Any, **kwargs: Any) -> Any:
        """What the primitive returns."""
        return primitive(*args, **kwargs)

    def whole(self, function: Any, *args: Any, kernels: Any = reference_kernels) -> Any:
        """`mlp`, whose cache is a `Forward`, or a product of it, which takes that last.

        kernels  that run the inside: `Substituted` ones say what is other there
        What is asked of arrays of another class (`qgf_ref.imaginary`'s, which watch what is done
        with them) is computed as ever.
        """
        if function is mlp:
            params, x, options = args
            if type(x) is not np.ndarray:
                return mlp(params, x, options, kernels)
            inside: frozenset[Any] = getattr(kernels, "inside", frozenset())
            key = self.content(params), options, inside, _digest(x)
            made = Forward(params, x, options, kernels, key)
            return self._answer(made.key, lambda: self._forward(made)[0]), made
        *given, made = args
        if not isinstance(made, Forward):
            return function(*args, kernels)
        if any(type(x) is not np.ndarray for x in given):
            return self._product(function, given, made)
        key = function, made.key, *map(_digest, given)
        return self._answer(key, lambda: self._product(function, given, made))

    def _answer(self, key: tuple[Any, ...], compute: Callable[[], Array]) -> Array:
        """The caller's own copy: whoever asked may change it in place."""
        found: Array = self._answers.once(key, compute, lambda y: y.nbytes)
        return found.copy()

    def _forward(self, made: Forward) -> tuple[Array, MLPCache]:
        def compute() -> tuple[Array, MLPCache]:
            self.runs += 1
            return mlp(made.params, made.x, made.options, made.kernels)

        found: tuple[Array, MLPCache] = self._caches.once(made.key, compute, lambda _: made.saved)
        return found

    def _product(self, function: Any, given: list[Array], made: Forward) -> Array:
        saved = self._forward(made)[1]
        self.runs += 1
        product: Array = function(*given, saved, made.kernels)
        return product

    def content(self, params: MLPParams) -> Any:
        """What stands for the numbers of a network: the same for equal ones, wherever they are.

        A mistake's parameters are made anew in every port that makes it.
        """
        return self._kept(
            params, lambda p: tuple((name, self._kept(x, _digest)) for name, x in p.named())
        )

    def _kept(self, of: Any, find: Callable[[Any], Any]) -> Any:
        """What was found of an object that nobody changes, as long as it lives."""
        known = self._contents.get(id(of))
        if known is None or known[0]() is not of:
            known = self._contents[id(of)] = weakref.ref(of), find(of)
        return known[1]

    def cast(self, checkpoint: Checkpoint, dtype: str) -> Checkpoint:
        """`Checkpoint.astype`: the same in every setting of one diagnosis."""
        key = dtype, *((name, self.content(p)) for name, p in checkpoint.params.items())
        cast: Checkpoint = self._made.once(
            key, lambda: checkpoint.astype(dtype), lambda made: _bytes(*made.params.values())
        )
        return cast

    def reordered(
        self, net: Any, seed: int, rng: np.random.Generator, compute: Callable[[], MLPParams]
    ) -> MLPParams:
        """What `compute` makes of the network's parameters by `rng`, left as it leaves it."""
        bits = rng.bit_generator
        made, bits.state = self._made.once(
            (self.content(net.params), net.options, seed, str(bits.state)),
            lambda: (compute(), bits.state),
            lambda found: _bytes(found[0]),
        )
        reordered: MLPParams = made
        return reordered


def _digest(x: Array) -> tuple[Any, ...]:
    return x.shape, x.dtype.char, blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()


def _bytes(*several: MLPParams) -> int:
    return sum(x.nbytes for params in several for x in params.arrays())
