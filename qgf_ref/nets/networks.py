"""The four networks of an agent, together."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.value import MLPValue
from qgf_ref.nets.velocity import MLPVelocity


@dataclass(frozen=True)
class Networks:
    """Flow policy, online and target critic, value."""

    policy: MLPVelocity
    critic: MLPCritic
    target_critic: MLPCritic
    value: MLPValue
