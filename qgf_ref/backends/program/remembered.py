"""Samplers that an interpreter made, remembered by flow and chain.

Samplers and packed networks are found by the identity of the networks' parameters, for as long as
those live. Arrays of parameters must not be changed in place: the packed copies would not follow.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence, Set
from typing import Any, Generic, TypeVar

from qgf_ref.backends.program.program import CRITIC, Op
from qgf_ref.backends.program.record import Actor, Chain, NotRecordable, networks_of, record
from qgf_ref.backends.program.registers import NETWORK, OP, Code, assign
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.mlp import MLPParams

KEPT = 16
"""Samplers, and packed networks, that are remembered."""
OTHERS = "embedding", "aggregation", "condition"
"""What networks have beside parameters, options and inputs; not all have each."""
W = TypeVar("W")
S = TypeVar("S")


class Remembered(Generic[W, S]):
    """Gives an interpreter's sampler of a flow and a chain.

    pack  (networks, numbers of those that the program uses) → their weights, as the interpreter
          reads them; samplers of the same networks share them. Raises NotRecordable
    make  (code, weights, networks) → the sampler
    """

    def __init__(
        self,
        pack: Callable[[Sequence[Any], Set[int]], W],
        make: Callable[[Code, W, Sequence[Any]], S],
    ) -> None:
        self.pack, self.make = pack, make
        self.samplers: dict[Any, S] = {}
        self.networks: dict[Any, W] = {}
        self._latest: dict[Any, tuple[weakref.ref[Any], weakref.ref[Any]]] = {}
        self._watched: set[int] = set()

    def __call__(self, flow: GuidedFlow | Actor, chain: Chain, key: Any) -> S:
        """The program of `chain` on this flow or actor; the same object for the same and key.

        key  tells chains apart: hashable; chains with equal keys must be the same
        Raises NotRecordable when there is no program for it.
        """
        # the same object again has the same networks, whose names take as long as a small one
        whole = flow.net if isinstance(flow, Actor) else flow
        again = id(whole), key
        try:
            latest = self._latest.get(again)
        except TypeError:
            raise NotRecordable("an estimator that is not hashable") from None
        if latest is not None and latest[0]() is whole:
            known: S | None = latest[1]()
            if any(known is kept for kept in self.samplers.values()):
                return known  # type: ignore[return-value]
        sampler = self._named(flow, chain, key)
        while len(self._latest) >= KEPT:
            self._latest.pop(next(iter(self._latest), None), None)
        self._latest[again] = weakref.ref(whole), weakref.ref(sampler)
        return sampler

    def _named(self, flow: GuidedFlow | Actor, chain: Chain, key: Any) -> S:
        """`__call__` by what the flow is made of."""
        networks = networks_of(flow)
        if type(flow) not in (GuidedFlow, Actor) or not all(hasattr(n, "params") for n in networks):
            raise NotRecordable(f"a {type(flow).__name__} of other networks than ours")
        owners = tuple(network.params for network in networks)
        # parameters by identity, what else a network has by value
        alike = tuple(
            (
                id(n.params),
                type(n),
                n.options,
                n.inputs,
                *(getattr(n, name, None) for name in OTHERS),
            )
            for n in networks
        )
        wanted = alike, _about(flow), key
        sampler = self.samplers.get(wanted)
        if sampler is not None:
            return sampler
        code = assign(record(flow, chain))
        asks = code.table[code.table[:, OP] <= Op.HVP]
        used = frozenset({*range(len(networks))[: CRITIC + 1], *asks[:, NETWORK].tolist()})
        weights = self.networks.get((alike, used))
        if weights is None:
            weights = self.pack(networks, used)
            self._remember(self.networks, (alike, used), weights, owners)
        sampler = self.make(code, weights, networks)
        self._remember(self.samplers, wanted, sampler, owners)
        return sampler

    def _remember(
        self, store: dict[Any, Any], key: Any, value: Any, owners: tuple[MLPParams, ...]
    ) -> None:
        """Keep `value` until an owner dies, whose id may then be another's, or newer crowd it."""
        while len(store) >= KEPT:
            store.pop(next(iter(store), None), None)
        store[key] = value
        for owner in owners:
            if id(owner) not in self._watched:
                self._watched.add(id(owner))
                weakref.finalize(owner, self._forget, id(owner))

    def _forget(self, owner: int) -> None:
        self._watched.discard(owner)
        for store in (self.samplers, self.networks):
            for key in [k for k in list(store) if any(owner == params for params, *_ in k[0])]:
                store.pop(key, None)


def _about(flow: GuidedFlow | Actor) -> tuple[Any, ...]:
    """What else than its networks decides a flow's programs; an actor's key says it all."""
    if isinstance(flow, Actor):
        return ()
    climbs = type(flow.critic)  # the networks are the same of a logit and of its probability
    return flow.denoise_steps, flow.action_bound, flow.time_precision, climbs
