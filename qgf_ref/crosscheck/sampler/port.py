"""A sampler taken apart into the pieces in which ports go wrong.

A `Port` is the reference until a mistake (`qgf_ref.crosscheck.mistakes`) replaces one of its
pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.subject import Compared, FlowNetworks
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.flow.chain import Chain
from qgf_ref.flow.path import time_grid
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.scheme import ALGORITHM_1, Scheme, target_value
from qgf_ref.nets.critic import Critic, MLPCritic
from qgf_ref.nets.joint import JointMLP
from qgf_ref.nets.probability import ProbabilityCritic
from qgf_ref.nets.velocity import FieldAround, VelocityField
from qgf_ref.ops.kernels import Kernels
from qgf_ref.ops.time_embedding import Precision, time_embedding


@dataclass(frozen=True)
class RetimedFlow(GuidedFlow):
    """A flow whose times are not k/T. grid (T,)."""

    grid: tuple[float, ...] = ()

    @property
    def times(self) -> tuple[float, ...]:
        """The times t_0 … t_{T−1} of the denoising steps."""
        return self.grid


def retimed(flow: GuidedFlow, grid: tuple[float, ...]) -> RetimedFlow:
    """`flow` with other times, (T,)."""
    return RetimedFlow(**{f.name: getattr(flow, f.name) for f in fields(GuidedFlow)}, grid=grid)


@dataclass(frozen=True)
class Substituted:
    """Kernels that run another function in the place of some primitives."""

    kernels: Kernels
    by: Mapping[Callable[..., Any], Callable[..., Any]]

    def __call__(self, primitive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the primitive, or its substitute, returns."""
        return self.kernels(self.by.get(primitive, primitive), *args, **kwargs)

    @property
    def whole(self) -> Any:
        """How the kernels run a network as a whole, if they do: with these substitutes."""
        whole = getattr(self.kernels, "whole", None)
        return None if whole is None else partial(whole, kernels=self)

    @property
    def inside(self) -> frozenset[Any]:
        """What is substituted inside of networks, by which; their inputs come from outside."""
        mine = frozenset(pair for pair in self.by.items() if pair[0] is not time_embedding)
        return mine | getattr(self.kernels, "inside", frozenset())


@dataclass(frozen=True)
class Squashed(FieldAround):
    """The velocity field tanh(v)."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """tanh(v) (B, D)."""
        v, cache = self.base.forward(obs, action, time)
        squashed = np.tanh(v)
        return squashed, (cache, 1 - squashed * squashed)

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(1 − tanh²v)·(∂v/∂a) action_dot."""
        return cache[1] * self.base.jvp(action_dot, cache[0])

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """(∂v/∂a)ᵀ((1 − tanh²v)·velocity_bar)."""
        return self.base.vjp(cache[1] * velocity_bar, cache[0])


Rule = Callable[[Estimator, GuidedFlow, DenoisingStep], Guidance]


@dataclass(frozen=True)
class Altered(Estimator):
    """An estimator with something done to it: rule(base, flow, step)."""

    base: Estimator
    rule: Rule

    name: ClassVar[str] = "altered"
    summary: ClassVar[str] = "a mistake"

    @property
    def label(self) -> str:
        """The base's."""
        return self.base.label

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """What the rule makes of it."""
        return self.rule(self.base, flow, step)


@dataclass(frozen=True)
class Port:
    """flow, estimator and scheme of a sampler; and what mistakes need to know beside.

    flow      field, and the critic that guides and ranks (the target critic; CFGRL's the online)
    stated    the estimator that the port means to be
    online    the online critic
    target    the target critic
    horizon   H if the policy outputs chunks, else 1; action_dim A
    members   E of the critic; None where it has no ensemble axis
    opaque    the networks are somebody's: nothing is known of their inside
    only      "policy" or "critic", where it stands for this network alone
    climb     GradStep after the flow, if the port means to do it
    ranks_online  candidates are ranked by the online critic's mean
    beside    the agent's other actors, by part
    chain     of an agent without a flow, how it acts by the network in the flow's place; steps, how
              many steps that takes
    agent     the checkpoint's, if it is one's
    """

    flow: GuidedFlow
    estimator: Estimator
    stated: str
    online: Critic
    target: Critic
    horizon: int
    action_dim: int
    members: int | None
    scheme: Scheme = ALGORITHM_1
    opaque: bool = False
    climb: GradientSteps | None = None
    only: str = ""
    ranks_online: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)
    chain: Chain | None = None
    steps: int = 0
    agent: Any = None

    @property
    def field(self) -> Any:
        """The policy's network, also inside of a wrapper."""
        field: Any = self.flow.field
        while isinstance(field, FieldAround):
            field = field.base
        assert isinstance(field, JointMLP)
        return field

    @property
    def networks(self) -> tuple[Any, ...]:
        """Those in which its actions may be wrong: of a chain, the actor alone."""
        return (self.field, self.critic) if self.chain is None else (self.field,)

    @property
    def embeds_time(self) -> bool:
        """Whether its policy is told an embedded time."""
        return "time" in self.field.inputs

    @property
    def critic(self) -> MLPCritic:
        """The network of the critic that guides and ranks, also inside of a wrapper."""
        critic = self.flow.critic
        if isinstance(critic, ProbabilityCritic):
            critic = critic.logits
        assert isinstance(critic, MLPCritic)
        return critic

    @property
    def played(self) -> Scheme:
        """The scheme, its candidates ranked by the online critic where they are."""
        if not self.ranks_online or self.scheme.rank is not target_value:
            return self.scheme

        def rank(flow: GuidedFlow, obs: Array, unclipped: Array, action: Array) -> Array:
            return target_value(replace(flow, critic=self.online), obs, unclipped, action)

        return replace(self.scheme, rank=rank)

    def with_policy(self, change: Callable[[Any], Any]) -> Port:
        """The same port with its policy changed."""

        def inside(field: Any) -> Any:
            if isinstance(field, FieldAround):
                return replace(field, base=inside(field.base))
            return change(field)

        return self.with_field(inside)

    def with_critics(self, change: Callable[[MLPCritic], MLPCritic]) -> Port:
        """The same port with all its critics changed."""

        def inside(critic: Any) -> Any:
            if isinstance(critic, ProbabilityCritic):
                return replace(critic, logits=inside(critic.logits))
            return change(critic)

        flow = replace(self.flow, critic=inside(self.flow.critic))
        return replace(self, flow=flow, online=inside(self.online), target=inside(self.target))

    def with_field(self, change: Callable[[VelocityField], VelocityField]) -> Port:
        """The same port with its field wrapped, whatever it is; of CFGRL's with both of its."""
        flow = replace(self.flow, field=change(self.flow.field))
        if self.flow.auxiliary.cfgrl is not None and self.stated == "cfgrl":
            pair = flow.field, change(self.flow.auxiliary.cfgrl[1])
            flow = replace(flow, auxiliary=replace(flow.auxiliary, cfgrl=pair))
        return replace(self, flow=flow)

    def with_rule(self, rule: Rule) -> Port:
        """The same port with something done to its estimator."""
        return replace(self, estimator=Altered(self.estimator, rule))

    def with_chain(self, **ingredients: Any) -> Port:
        """The same port with ingredients of its chain replaced."""
        chain: Any = self.chain
        return replace(self, chain=replace(chain, **ingredients))

    def with_scheme(self, **pieces: Any) -> Port:
        """The same port with pieces of its scheme replaced."""
        return replace(self, scheme=replace(self.scheme, **pieces))


def reference_port(
    checkpoint: Compared, estimator: Estimator, embedding: Precision, denoise_steps: int
) -> Port:
    """The reference itself, in the checkpoint's dtype.

    Raises InputError on an estimator with another auxiliary network than CFGRL's: what rounding
    does to that one is not simulated, so that no difference could be judged.
    """
    if estimator.auxiliary not in (None, "cfgrl"):
        raise InputError(
            f"{estimator.label} works with the auxiliary network {estimator.auxiliary}; only "
            "cfgrl and estimators on a checkpoint's own policy and critic can be compared"
        )
    name, horizon = estimator.name, checkpoint.horizon
    if isinstance(checkpoint, FlowNetworks):
        flow = estimator.on(checkpoint.with_steps(denoise_steps))
        return Port(
            flow, estimator, name, flow.critic, flow.critic, horizon, checkpoint.action_dim,
            checkpoint.members, opaque=True,
        )  # fmt: skip
    settings, agent = checkpoint.network_settings(embedding), checkpoint.agent
    # one without an online critic is compared as if it were the target's copy
    online = checkpoint.network(
        "critic" if "critic" in checkpoint.params else "target_critic", settings
    )
    target, members = (
        checkpoint.network("target_critic", settings),
        checkpoint.target_critic.ensemble,
    )
    actors = [agent.part(part) for part in checkpoint.params]
    beside = {
        part.name: checkpoint.network(part.name, settings)
        for part in actors
        if part.outputs == "action" and not part.acting
    }
    if isinstance(agent, ActorAgent):
        if name != "none":
            raise InputError(
                f"{checkpoint.source}: the agent {agent.name} has no flow that {name} could guide: "
                "leave the estimator away"
            )
        actor, steps = checkpoint.network(agent.actor, settings), agent.chain.steps(denoise_steps)
        flow = GuidedFlow(actor, target, denoise_steps, time_precision=embedding)
        return Port(
            flow, estimator, name, online, target, horizon, checkpoint.action_dim, members,
            beside=beside, chain=agent.chain, steps=steps,
        )  # fmt: skip
    flow = estimator.on(checkpoint.guided_flow(embedding=embedding))
    flow = replace(flow, denoise_steps=denoise_steps)
    if isinstance(agent, FlowAgent):
        online, target = agent.climbed(online), agent.climbed(target)
    return Port(
        flow, estimator, name, online, target, horizon, checkpoint.action_dim, members,
        beside=beside, agent=agent,
    )  # fmt: skip


def ranked_as_usual(port: Port, checkpoint: Compared) -> Port:
    """The port, its candidates ranked as the agent ranks those of an unguided best of N."""
    agent = checkpoint.agent if isinstance(checkpoint, Checkpoint) else None
    if not isinstance(agent, FlowAgent) or type(agent).ranking is FlowAgent.ranking:
        return port
    assert isinstance(checkpoint, Checkpoint)
    settings = checkpoint.network_settings(port.flow.time_precision)
    return replace(port, ranks_online=True, online=agent.ranking(checkpoint, settings))


def divided_times(denoise_steps: int) -> tuple[float, ...]:
    """fl(k)/fl(T), (T,): what float32 code computes that is not compiled by XLA.

    `time_grid(T, "float32")` is XLA's product fl(k)·fl(1/T). The two differ by one unit in the last
    place for some k, and the embedding's angle by up to 1e-3 rad.
    """
    return tuple(float(np.float32(k) / np.float32(denoise_steps)) for k in range(denoise_steps))


def divides_otherwise(denoise_steps: int) -> bool:
    """Whether the two roundings of k/T differ for this T."""
    return divided_times(denoise_steps) != time_grid(denoise_steps, "float32")
