"""A checkpoint: an agent's networks, part by part, and the options that arrays do not tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from numpy.typing import DTypeLike

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.iql import IQL
from qgf_ref.agents.options import Options, how_to_give
from qgf_ref.agents.part import NetworkSettings
from qgf_ref.agents.shapes import (
    check_auxiliary,
    hidden_widths,
    require_named_networks,
    require_shapes,
    telling_parts,
)
from qgf_ref.arrays import real_dtype
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS, AuxiliaryParams
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks, forward_only
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision

Purpose = Literal["reference", "acting", "training"]


@dataclass(frozen=True, init=False, repr=False)
class Checkpoint:
    """The networks of a trained agent, as arrays, and the options.

    params     {name of a part: its parameters}; parts without which the agent still acts may be
               absent. Those of the paper's agent can be given by keyword, and replaced so:
               policy MLPParams; critic, target_critic MLPParams with the ensemble axis; value
    auxiliary  networks trained against these, for the estimators that need them
    agent      whose parts they are
    Raises InputError when the arrays contradict each other or the options, and when a part without
    which the agent cannot act is missing.
    """

    options: Options
    params: Mapping[str, MLPParams]
    source: str
    auxiliary: AuxiliaryParams
    agent: Agent

    def __init__(
        self,
        options: Options,
        policy: MLPParams | None = None,
        critic: MLPParams | None = None,
        target_critic: MLPParams | None = None,
        value: MLPParams | None = None,
        source: str = "memory",
        auxiliary: AuxiliaryParams = NO_AUXILIARY_PARAMS,
        *,
        params: Mapping[str, MLPParams] | None = None,
        agent: Agent = IQL,
    ) -> None:
        named = {
            "policy": policy, "critic": critic, "target_critic": target_critic, "value": value
        }  # fmt: skip
        every = {**(params or {}), **{n: p for n, p in named.items() if p is not None}}
        agent = agent.reading(options.field_inputs)
        if options.policy_inputs is not None and agent is agent.reading(None):
            options = replace(options, policy_inputs=None)  # said or not, it is the same checkpoint
        for name in every:
            agent.part(name)
        ordered = {name: every[name] for name in agent.part_names if name in every}
        vars(self).update(
            options=options, params=ordered, source=source, auxiliary=auxiliary, agent=agent
        )
        for part in agent.parts:
            if part.acting:
                self.part(part.name)
        require_shapes(agent, ordered, options, source)
        require_named_networks(agent, ordered, options, source)
        check_auxiliary(auxiliary, self.obs_dim, self.flat_action_dim, source)

    def __repr__(self) -> str:
        hidden = "×".join(str(width) for width in hidden_widths(next(iter(self.params.values()))))
        return (
            f"Checkpoint({self.agent.name}, {self.source}, {hidden}, T="
            f"{self.options.denoise_steps}, {self.count:,} parameters, {self.dtype})"
        )

    def part(self, name: str) -> MLPParams:
        """The parameters of one part. Raises InputError when the checkpoint does not have them."""
        part = self.agent.part(name)
        if name not in self.params:
            raise InputError(
                f"{self.source} has no {part.name.replace('_', ' ')}; it has: "
                f"{', '.join(self.params)}"
            )
        return self.params[name]

    @property
    def policy(self) -> MLPParams:
        """The flow policy's parameters."""
        return self.part("policy")

    @property
    def critic(self) -> MLPParams:
        """The online critic's."""
        return self.part("critic")

    @property
    def target_critic(self) -> MLPParams:
        """Those of the average of the critic, which guides."""
        return self.part("target_critic")

    @property
    def value(self) -> MLPParams:
        """IQL's state value's."""
        return self.part("value")

    @cached_property
    def obs_dim(self) -> int:
        """O."""
        part, _ = telling_parts(self.agent, self.params)
        others = part.in_features(0, self.flat_action_dim)
        return self.params[part.name].in_features - others

    @cached_property
    def flat_action_dim(self) -> int:
        """D, the width of the flat action chunk."""
        _, part = telling_parts(self.agent, self.params)
        return self.params[part.name].out_features

    @property
    def action_dim(self) -> int:
        """A, the width of one action."""
        return self.flat_action_dim // self.horizon

    @property
    def horizon(self) -> int:
        """Actions in the policy's output: H with action chunking, else 1."""
        return self.options.horizon_length if self.options.action_chunking else 1

    @cached_property
    def dtype(self) -> str:
        """Name of the parameters' dtype."""
        return str(next(iter(self.params.values())).layers[0].kernel.dtype.name)

    @property
    def count(self) -> int:
        """Number of scalar parameters of all parts."""
        return sum(params.count for params in self.params.values())

    def with_params(self, **networks: MLPParams) -> Checkpoint:
        """The same checkpoint with some parts replaced or added."""
        return replace(self, params={**self.params, **networks})

    def astype(self, dtype: DTypeLike) -> Checkpoint:
        """The same checkpoint in float32 or float64."""
        kind = real_dtype(dtype)
        params = {name: params.astype(kind) for name, params in self.params.items()}
        return replace(self, params=params, auxiliary=self.auxiliary.astype(kind))

    def time_precision(self, purpose: Purpose) -> Precision:
        """How times and their embedding are rounded, for every caller.

        reference  exact: the derivatives and traces that others are compared with
        acting     as the official code where the parameters are float32, like its own; else exact
        training   as the official code, whatever the dtype
        """
        single = purpose == "training" or (purpose == "acting" and self.dtype == "float32")
        return "float32" if single else "exact"

    def network_settings(
        self, embedding: Precision = "exact", kernels: Kernels = reference_kernels
    ) -> NetworkSettings:
        """What every network of this checkpoint is made with."""
        options = self.options
        own = {part.name: options.mlp_of(part.name) for part in self.agent.parts}
        return NetworkSettings(options.mlp, options.q_aggregation, embedding, kernels, own)

    def network(self, name: str, settings: NetworkSettings | None = None) -> Any:
        """One part, ready to be evaluated; by default with exact times and the reference kernels.

        Raises InputError when the checkpoint does not have it.
        """
        return self.agent.part(name).network(self.part(name), settings or self.network_settings())

    def networks(
        self, *, embedding: Precision = "exact", kernels: Kernels = reference_kernels
    ) -> Networks:
        """All networks of its agent. Raises InputError when the checkpoint lacks one."""
        settings = self.network_settings(embedding, kernels)
        return Networks(**{name: self.network(name, settings) for name in self.agent.part_names})

    @property
    def absent(self) -> tuple[str, ...]:
        """The agent's parts that the checkpoint does not have."""
        return tuple(name for name in self.agent.part_names if name not in self.params)

    def guided_flow(
        self, *, embedding: Precision = "exact", kernels: Kernels = reference_kernels
    ) -> GuidedFlow:
        """What a sampler needs: the policy's field, the target critic, T and the action bound."""
        return self.agent.flow(self, embedding=embedding, kernels=kernels)

    @cached_property
    def acting_flow(self) -> GuidedFlow:
        """`guided_flow()` as its agent acts by it: made once, as an action is asked at every step
        of a robot.
        """
        return self.guided_flow(embedding=self.time_precision("acting"))

    @cached_property
    def acting_networks(self) -> Mapping[str, Any]:
        """The parts that an agent without a flow acts by, for forwards alone: made once, too."""
        settings = self.network_settings(self.time_precision("acting"))
        return {
            part.name: forward_only(self.network(part.name, settings))
            for part in self.agent.parts
            if part.acting and part.name in self.params
        }

    def __getstate__(self) -> dict[str, Any]:
        # without what is made of it, which other processes make anew
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def flow(self) -> GuidedFlow:
        """`guided_flow()` as reference: with exact times."""
        return self.guided_flow(embedding=self.time_precision("reference"))

    def recipe_option(self, name: str, purpose: str) -> float:
        """discount or expectile. Raises InputError, saying what needs it, when it is not known."""
        value: float | None = getattr(self.options, name)
        if value is None:
            raise InputError(
                f"{self.source} does not say: {name}, which {purpose} needs. {how_to_give([name])}"
            )
        return value

    def hyperparameters(self) -> Hyperparameters:
        """What a training update needs beside the networks. Raises InputError when unknown."""
        discount, expectile = (
            self.recipe_option(name, "a training update") for name in ("discount", "expectile")
        )
        options = self.options
        return Hyperparameters(
            discount, options.horizon_length, expectile, denoise_steps=options.denoise_steps
        )

    def describe(self) -> dict[str, Any]:
        """Sizes and options, for reports."""
        acting = {p: self.params[p.name] for p in self.agent.parts if p.acting}
        sizes: dict[str, Any] = {
            f"{part.target_of or part.name}_hidden": hidden_widths(params)
            for part, params in acting.items()
        }
        for part, params in acting.items():
            sizes |= {"ensemble": params.ensemble} if part.ensemble else {}
        return {
            "source": self.source,
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "flat_action_dim": self.flat_action_dim,
            **sizes,
            "parameters": self.count,
            "dtype": self.dtype,
            **self.options.stated(),
            **self.agent.stated,
            **({"absent": list(self.absent)} if self.absent else {}),
            **({"auxiliary": list(self.auxiliary.present())} if self.auxiliary.present() else {}),
        }


def digest(networks: Iterable[MLPParams], about: str = "") -> str:
    """SHA-256 of `about` and of every array of the networks: name, dtype, shape and bytes."""
    total = hashlib.sha256(about.encode())
    for network in networks:
        for name, array in network.named():
            total.update(f"{name} {array.dtype} {array.shape}".encode())
            total.update(array.tobytes())
    return total.hexdigest()
