"""Recording: the reference loop is run once on stand-ins, and what it asks of them is the program.

No algorithm is written a second time. The stand-in networks answer with arbitrary arrays of the
right shape and write down who asked for what, by the identity of the arrays that come back as
arguments. What the loop computes from an array behind the recorder's back would be lost; hence
only estimators that are `recordable` are recorded, and an unknown array ends the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.program.program import FIELD, Kind, Op, Program, saved
from qgf_ref.backends.program.recorder import NotRecordable, ProgramRecorder, Typed, number_of
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.probability import ProbabilityCritic, logits_of


@dataclass(frozen=True)
class Actor:
    """What a sampler of one network runs on: that, and the noise z (n, B, D) of its steps."""

    net: Any
    z: Any = None


Chain = Callable[[Any, Array, Array, Any], tuple[Array, ...]]
"""(GuidedFlow or Actor, obs (B, O), noise (B, D), weight () or (B, 1)) → the arrays wanted."""


def networks_of(flow: GuidedFlow | Actor) -> tuple[Any, ...]:
    """The networks as programs number them: field, critic (of a probability, its logits'), then the
    auxiliary ones; of an actor its own.
    """
    if isinstance(flow, Actor):
        return (flow.net,)
    networks: list[Any] = [flow.field, logits_of(flow.critic)]

    def add(network: Any) -> Any:
        if network is not flow.field:  # CFGRL's v₀ is both
            networks.append(network)
        return network

    flow.auxiliary.map(add, add)
    return tuple(networks)


def record(flow: GuidedFlow | Actor, chain: Chain) -> Program:
    """The program of `chain` on flows, or actors, of these sizes. Raises NotRecordable."""
    if isinstance(flow, Actor):
        recorder = ProgramRecorder(flow.net.action_dim, 1)
        standing: Any = Actor(_Network(recorder, FIELD, Kind.ACTION, ""), _Drawn(recorder))
    else:
        members = getattr(getattr(logits_of(flow.critic), "params", None), "ensemble", None) or 1
        recorder = ProgramRecorder(flow.field.action_dim, members)
        standing = _stand_ins(recorder, flow)
    obs, weight = np.zeros((1, 0)), np.ones((1, 1))
    recorder.obs = obs
    noise = recorder.define(recorder.arbitrary(Kind.ACTION), Kind.ACTION)
    recorder.define(weight, Kind.SCALAR)
    try:
        arrays = chain(standing, obs, noise, weight)
        results = tuple(recorder.value(array) for array in arrays)
    except (AttributeError, TypeError, ValueError) as error:
        # it asked the stand-ins for what only networks have, or wrote into a recorded array
        raise NotRecordable(str(error)) from error
    return Program(tuple(recorder.instructions), tuple(recorder.kinds), results)


def _stand_ins(recorder: ProgramRecorder, flow: GuidedFlow) -> GuidedFlow:
    """The flow, its networks and kernels those that write down what is asked of them."""
    stand_ins: list[_Network] = []

    def stand_in(kind: Kind) -> _Network:
        stand_ins.append(_Network(recorder, len(stand_ins), kind, flow.critic.aggregation))
        return stand_ins[-1]

    own, critic = stand_in(Kind.ACTION), stand_in(Kind.MEMBERS)
    auxiliary = flow.auxiliary.map(
        lambda network: own if network is flow.field else stand_in(Kind.ACTION),
        lambda _: stand_in(Kind.SCALAR),
    )
    climbed: Any = critic if logits_of(flow.critic) is flow.critic else ProbabilityCritic(critic)
    return replace(flow, field=own, critic=climbed, kernels=recorder, auxiliary=auxiliary)


class _Saved:
    """Stands for what a forward saved."""


@dataclass(frozen=True)
class _Drawn:
    """Stands for the noise of an actor's steps."""

    recorder: ProgramRecorder

    def __getitem__(self, n: int) -> Array:
        def write() -> Array:
            drawn = self.recorder.arbitrary(Kind.ACTION)
            self.recorder.note(Op.DRAW, (), ((drawn, Kind.ACTION),), numbers=(number_of(n),))
            return drawn

        return self.recorder.once(Op.DRAW, (n,), write)


@dataclass(frozen=True, eq=False)
class _Network:
    """A network that answers anything and writes down the question."""

    recorder: ProgramRecorder
    number: int
    answer: Kind
    aggregation: str
    obs_dim = 0
    dtype = np.dtype(np.float64)

    @property
    def action_dim(self) -> int:
        return self.recorder.action_dim

    @property
    def kernels(self) -> ProgramRecorder:
        return self.recorder

    def forward(self, obs: Array, action: Array, time: Any = None) -> tuple[Array, Any]:
        if obs is not self.recorder.obs:
            raise NotRecordable("a network asked at other observations than the sampler's")
        return self.recorder.once(
            (Op.FORWARD, self.number), (action, time), lambda: self._forward(action, time)
        )

    def _forward(self, action: Array, time: Any) -> tuple[Array, Any]:
        y, cache = self.recorder.arbitrary(self.answer), _Saved()
        asked: tuple[Typed, ...] = ((action, Kind.ACTION),)
        numbers: tuple[float, ...] = ()
        if isinstance(time, np.ndarray):
            asked = (*asked, (time, Kind.SCALAR))
        elif time is not None:
            numbers = (number_of(time),)
        outputs = (y, self.answer), (cache, saved(self.number))
        self.recorder.note(Op.FORWARD, asked, outputs, network=self.number, numbers=numbers)
        return y, cache

    def _product(self, op: Op, *inputs: Typed) -> Array:
        def write() -> Array:
            product = self.recorder.arbitrary(Kind.ACTION)
            self.recorder.note(op, inputs, ((product, Kind.ACTION),), network=self.number)
            return product

        asked = tuple(array for array, _ in inputs)
        return self.recorder.once((op, self.number), asked, write)

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        return self._product(Op.VJP, (y_bar, self.answer), (cache, saved(self.number)))

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        if self.answer != Kind.ACTION:
            raise NotRecordable("a jvp of a critic")
        return self._product(Op.JVP, (action_dot, Kind.ACTION), (cache, saved(self.number)))

    def hvp(self, action_dot: Array, y_bar: Array, cache: Any) -> Array:
        if self.answer == Kind.ACTION:
            raise NotRecordable("a Hessian-vector product of a field")
        inputs = (action_dot, Kind.ACTION), (y_bar, self.answer), (cache, saved(self.number))
        return self._product(Op.HVP, *inputs)
