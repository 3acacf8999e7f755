"""A flow of anybody's networks in the place of a checkpoint, and what rounding does to it.

Nothing is known of the inside of such networks: mistakes that look there are not simulated, and the
yardstick is not our own runs in other summation orders but the flow itself, its inputs moved by a
unit of float32 and its results by a few (`adapters.jitter`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from qgf_ref.adapters.jitter import UNKNOWN, TypicalSize, jittered_flow
from qgf_ref.adapters.observations import known_observations
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.goal_guided import under_usual_names
from qgf_ref.arrays import Array, matrix, whole_number
from qgf_ref.audit.flow_audit import Meter
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import (
    GRIDS,
    Convention,
    ConventionLike,
    Grid,
    Retold,
    own_convention,
)
from qgf_ref.flow.convention import convention as convention_by_name
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.counting import counted
from qgf_ref.guidance.queries import members_at
from qgf_ref.interop.load import CheckpointLike, checkpoint_of
from qgf_ref.interop.trace_file import RecordedTrace

FLOW_ROWS = 8
MOST_REMEMBERED = 256
"""Answers that are remembered; each may hold a graph of the framework's."""
FLOW_BUDGET = 4000
"""Calls of a network, unless somebody says otherwise."""


@dataclass(frozen=True)
class FlowNetworks:
    """What the cross-check asks of a checkpoint, of a flow. obs (N, O): what probes draw from.

    chunk (H, A), (1, D) where the adapter does not tell; members E of the critic; meter counts;
    grid by which its times are rounded, "" if as the convention of the flow's adapter says
    """

    flow: GuidedFlow
    obs: Array
    chunk: tuple[int, int]
    members: int
    meter: Meter
    grid: str = ""

    @classmethod
    def of(cls, flow: GuidedFlow, obs: Array | None, budget: int) -> FlowNetworks:
        """Counting from the first call on. Raises InputError without observations."""
        known = known_observations(flow) if obs is None else obs
        if known is None:
            width = flow.field.obs_dim or 0
            known = np.random.default_rng(0).standard_normal((FLOW_ROWS, width))
        wide = flow.field.obs_dim
        columns = np.shape(known)[-1] if wide is None else wide
        rows = matrix(known, "obs", columns=columns, dtype=flow.field.dtype)
        if not len(rows):
            raise InputError("obs must have at least one row, got none")
        meter = Meter(budget)
        watched = counted(flow, meter)[0]
        field, critic = Answering(watched.field), Answering(watched.critic)
        watched = replace(watched, field=field, critic=critic)
        # of all that the adapter was given: a run may be of one row
        held = known_observations(flow)
        among = rows if held is None else np.asarray(held, rows.dtype)
        some = among[np.arange(FLOW_ROWS) % len(among)]
        shape = FLOW_ROWS, flow.field.action_dim
        action = np.random.default_rng(0).standard_normal(shape).astype(flow.field.dtype)
        q = members_at(watched, some, action)
        field.typical = TypicalSize.of(field, some, action, flow.times[0])
        critic.typical = TypicalSize.of(critic, some, action)
        return cls(watched, rows, _chunk(flow), len(q), meter)

    @property
    def source(self) -> str:
        """What reports call it."""
        own = {name: getattr(self.flow, name).base.base for name in ("field", "critic")}
        return repr(replace(self.flow, **own))

    @property
    def obs_dim(self) -> int:
        """O."""
        return int(self.obs.shape[1])

    @property
    def flat_action_dim(self) -> int:
        """D."""
        return self.flow.field.action_dim

    @property
    def horizon(self) -> int:
        """H."""
        return self.chunk[0]

    @property
    def action_dim(self) -> int:
        """A."""
        return self.chunk[1]

    @property
    def options(self) -> Any:
        """denoise_steps."""
        return SimpleNamespace(denoise_steps=self.flow.denoise_steps)

    @property
    def target_critic(self) -> Any:
        """ensemble."""
        return SimpleNamespace(ensemble=self.members)

    def astype(self, dtype: Any) -> FlowNetworks:
        """Itself: it computes in its own dtype."""
        return self

    def rounding_otherwise(self) -> list[FlowNetworks]:
        """The same with its times on every other grid of its convention that has other times."""
        field: Any = self.flow.field  # answering, counting
        retold, T = field.base.base, self.flow.denoise_steps
        if not isinstance(retold, Retold) or retold.of is None:
            return []
        known, others = [retold.of.times(T)], []
        for grid in GRIDS:
            told = replace(retold.of, grid=cast(Grid, grid))
            if told.times(T) in known:
                continue
            known.append(told.times(T))
            again = Answering(replace(field.base, base=told.to_core(retold.base, T)))
            again.typical = field.typical
            others.append(replace(self, flow=replace(self.flow, field=again), grid=grid))
        return others

    def with_steps(self, denoise_steps: int) -> GuidedFlow:
        """The flow. Raises InputError on another T than its own, on which its times are rounded."""
        if denoise_steps != self.flow.denoise_steps:
            raise InputError(
                f"the flow has T = {self.flow.denoise_steps}, and {denoise_steps} was asked for: "
                "build it with that many steps"
            )
        return self.flow


Compared = Checkpoint | FlowNetworks
"""What a port may be compared with."""


def compared_with(
    reference: CheckpointLike | GuidedFlow, obs: Array | None = None, budget: int = FLOW_BUDGET
) -> Compared:
    """The networks of a checkpoint, its file, or a flow; obs, budget: see `FlowNetworks.of`.

    Raises InputError on a budget of no calls, and on one for a checkpoint, whose calls nothing
    counts.
    """
    whole_number(budget, "budget", 1)
    if budget != FLOW_BUDGET and not isinstance(reference, GuidedFlow):
        raise InputError(
            "budget bounds the calls of a flow's networks; a checkpoint's are not counted: leave "
            "it out"
        )
    if isinstance(reference, GuidedFlow):
        return FlowNetworks.of(reference, obs, budget)
    return under_usual_names(checkpoint_of(reference))


def row_numbers(networks: Compared) -> tuple[str, ...]:
    """Which inputs of a port may be numbers of rows, of which no others can be made up."""
    return ("observations",) if isinstance(networks, FlowNetworks) else ()


def _chunk(flow: GuidedFlow) -> tuple[int, int]:
    network: Any = flow.field
    while network is not None:
        layout = getattr(network, "layout", None)
        if layout is not None and layout.held is None and len(layout.shape) == 2:
            return layout.shape[0], layout.shape[1]
        network = getattr(network, "base", None)
    return 1, flow.field.action_dim


class Answering:
    """A network that answers what it was asked before without being called: most mistakes leave
    its inputs as they are.
    """

    def __init__(self, base: Any) -> None:
        self.base, self.typical = base, UNKNOWN
        self._known: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def _once(self, key: Any, kept: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` returned the first time; `kept` lives as long as that is known."""
        if key not in self._known:
            self._known[key] = kept, compute()
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key][1]

    def forward(self, obs: Array, action: Array, *time: Any) -> tuple[Array, Any]:
        """The base's."""
        at = tuple(np.asarray(t).tobytes() for t in time)
        key = obs.tobytes(), action.tobytes(), action.shape, at
        answer: tuple[Array, Any] = self._once(
            key, None, lambda: self.base.forward(obs, action, *time)
        )
        return answer

    def vjp(self, y_bar: Array, cache: Any) -> Array:
        """The base's, of the same forward and cotangent."""
        key = id(cache), y_bar.tobytes()
        x_bar: Array = self._once(key, cache, lambda: self.base.vjp(y_bar, cache))
        return x_bar


def jittered_networks(flow: GuidedFlow, seed: int) -> GuidedFlow:
    """The flow with both its networks a little off, called anew each time."""
    networks: dict[str, Any] = {"field": flow.field, "critic": flow.critic}
    bare = {k: n.base if isinstance(n, Answering) else n for k, n in networks.items()}
    typical = {k: _typical(n) for k, n in networks.items()}
    return jittered_flow(replace(flow, **bare), seed, **typical)


def _typical(network: Any) -> TypicalSize:
    """That of the `Answering` network in it, under whatever a mistake wraps round it."""
    while network is not None and not isinstance(network, Answering):
        network = getattr(network, "base", None)
    return UNKNOWN if network is None else network.typical


def convention_of(
    reference: Any, named: ConventionLike | None, recorded: str | None = None
) -> Convention:
    """The convention that was named, else that recorded, else that of the flow's adapter.

    Raises InputError where a recorded one is neither a preset nor the adapter's own.
    """
    own = own_convention(reference.field if isinstance(reference, GuidedFlow) else None)
    if named is None and recorded == own.name:
        return own
    if named is None and recorded is None:
        return own
    return convention_by_name(recorded if named is None else named)  # type: ignore[arg-type]


def returning_core(
    fn: Callable[..., Any], reference: Any, convention: ConventionLike | None
) -> Callable[..., Any]:
    """A port whose mapping is in a convention (None: that of a flow's adapter), as the core's."""
    told = convention_of(reference, convention)

    def sampler(obs: Array, noise: Array, weight: float) -> Any:
        answer = fn(obs, noise, weight)
        return told.trace_to_core(answer) if isinstance(answer, Mapping) else answer

    return sampler


def in_core(theirs: RecordedTrace, told: Convention, units: Normalisation | None) -> RecordedTrace:
    """A trace recorded in a convention, and in units (None: the networks' own), as the core's."""
    if told.sign > 0 and units is None:
        return theirs
    parts = {"action": theirs.action, "noise": theirs.noise, **theirs.stepwise}
    single = theirs.single_precision
    changed = {
        name: x.astype(np.float32) if single else x
        for name, x in told.trace_to_core(parts, units).items()
    }
    action, noise = changed.pop("action"), changed.pop("noise")
    return replace(theirs, action=action, noise=noise, stepwise=changed)
