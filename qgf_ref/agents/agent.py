"""An agent: the networks that it is made of, and how it acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qgf_ref.agents.part import Part
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.mlp import MLPOptions
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint


@dataclass(frozen=True)
class Agent:
    """name, and the parts in the order in which files and reports list them."""

    name: str
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """The part of that name. Raises InputError, listing the agent's, when there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise unknown_name(f"network of the agent {self.name}", name, self.part_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return tuple(part.name for part in self.parts)

    def flow(
        self,
        checkpoint: Checkpoint,
        *,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> GuidedFlow:
        """What a sampler needs of `checkpoint`. Raises InputError: this agent has no flow."""
        raise InputError(f"{checkpoint.source}: the agent {self.name} has no flow to guide")


@dataclass(frozen=True)
class FlowAgent(Agent):
    """An agent that acts by a flow, `field`, which `critic` guides: names of two of its parts."""

    field: str = "policy"
    critic: str = "target_critic"

    def flow(
        self,
        checkpoint: Checkpoint,
        *,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> GuidedFlow:
        """The policy's field, the target critic, T and the action bound.

        Raises InputError when the checkpoint lacks one of the two networks.
        """
        settings = checkpoint.network_settings(embedding, kernels)
        return GuidedFlow(
            checkpoint.network(self.field, settings),
            checkpoint.network(self.critic, settings),
            checkpoint.options.denoise_steps,
            time_precision=embedding,
            kernels=kernels,
            auxiliary=checkpoint.auxiliary.networks(
                MLPOptions(checkpoint.options.activation), embedding, kernels
            ),
        )
