"""A network of an agent: what it takes, what it gives, and whose average it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qgf_ref.nets.joint import COLUMNS, Input

Output = Literal["action", "scalar"]


@dataclass(frozen=True)
class Part:
    """One network of an agent, by the names of its inputs in the order of their concatenation.

    inputs     obs (O), action (D), time (embedded, 16), raw_time (1), label (embedded, 32), noise
               (D)
    outputs    "action" (D) or "scalar" (1)
    ensemble   whether its parameters have the ensemble axis
    target_of  the part of which it is the moving average; such a part is not trained
    acting     whether the agent needs it to act; without another it still acts
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: Output
    ensemble: bool = False
    target_of: str | None = None
    acting: bool = False

    def in_features(self, obs_dim: int, action_dim: int) -> int:
        """Width of its first layer's input, for O and D."""
        widths = {"obs": obs_dim, "action": action_dim, "noise": action_dim, **COLUMNS}
        return sum(widths[name] for name in self.inputs)

    def out_features(self, action_dim: int) -> int:
        """Width of its output, for D."""
        return action_dim if self.outputs == "action" else 1
