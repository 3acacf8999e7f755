"""A network of an agent: what it takes, what it gives, and whose average it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from qgf_ref.nets.critic import MLPCritic, RobustCritic
from qgf_ref.nets.initialisers import init_encoder, init_mlp, init_table, lecun_normal
from qgf_ref.nets.joint import COLUMNS, Input, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.nets.noise import NoisePredictor
from qgf_ref.nets.one_step import OneStepPolicy
from qgf_ref.nets.value import MLPValue
from qgf_ref.nets.velocity import ConditionalVelocity, GoalBlindVelocity, MLPVelocity
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision

Output = Literal["action", "scalar"]


@dataclass(frozen=True)
class NetworkSettings:
    """What the parameters of an agent's networks do not tell, and what runs their operations.

    own  {part: its options} of parts that differ from the others; an average has those of its part
    """

    options: MLPOptions = MLPOptions()
    aggregation: str = "min"
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels
    own: Mapping[str, MLPOptions] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One network of an agent, by the names of its inputs in the order of their concatenation.

    inputs     obs (O), action (D), time (embedded, 16), raw_time (1), label (embedded, 32), noise
               (D), step (through an encoder)
    outputs    "action" (D) or "scalar" (1)
    ensemble   whether its parameters have the ensemble axis
    target_of  the part of which it is the moving average; such a part is not trained
    acting     whether the agent needs it to act and to say what it expects; without another it
               still does
    kind       the network's class; None: that of `qgf_ref.nets` with such inputs and outputs
    layer_norm whether LayerNorm follows its hidden layers (of an action's network, all but the
               last) when it is drawn anew; what is loaded says so itself
    activation its own, where it does not follow the agent's options
    chunk      (h, h_a): its action is a chunk of h actions where the agent's is one of h_a
    unread     columns at the end of obs, a goal, that its field does not read
    norm_after LayerNorm follows the activation, of every hidden layer, and the output layer is
               drawn as the hidden ones are: as DQC's networks have it
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: Output
    ensemble: bool = False
    target_of: str | None = None
    acting: bool = False
    kind: type[JointMLP] | None = None
    layer_norm: bool = True
    activation: str | None = None
    chunk: tuple[int, int] = (1, 1)
    unread: int = 0
    norm_after: bool = False

    def network(self, params: MLPParams, settings: NetworkSettings) -> Any:
        """The network of these parameters, ready to be evaluated."""
        kind: Any = self.kind or self._usual_kind()
        options = settings.own.get(self.target_of or self.name, settings.options)
        if self.activation is not None:
            options = replace(options, activation=self.activation)
        if self.norm_after:
            options = replace(options, norm_after_activation=True)
        values = {**vars(settings), "inputs": self.inputs, "options": options}
        values["unread"] = self.unread
        taken = {f.name for f in fields(kind)}
        return kind(params, **{name: value for name, value in values.items() if name in taken})

    def initial(
        self,
        rng: np.random.Generator,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        members: int,
    ) -> MLPParams:
        """Initial parameters, float32, of the law of the official code's networks."""
        table = init_table(rng) if "label" in self.inputs else None
        width, E = self.in_features(obs_dim, action_dim), members if self.ensemble else None
        if "step" in self.inputs:
            *inside, columns = hidden
            encoder = init_encoder(rng, inside, columns)
            trunk = init_mlp(rng, width + columns, hidden, action_dim)
            return MLPParams(trunk.layers, encoder=encoder)
        if self.outputs == "action" and self.norm_after:
            norms = len(hidden) if self.layer_norm else 0
            trunk = init_mlp(rng, width, hidden, action_dim, norms=norms)
        elif self.outputs == "action":
            norms = len(hidden) - 1 if self.layer_norm else 0
            trunk = init_mlp(rng, width, hidden, action_dim, norms=norms, output=lecun_normal)
        else:
            norms = len(hidden) if self.layer_norm else 0
            trunk = init_mlp(rng, width, hidden, 1, ensemble=E, norms=norms)
        return MLPParams(trunk.layers, table)

    def _usual_kind(self) -> type[JointMLP]:
        if "noise" in self.inputs:
            return OneStepPolicy
        if "step" in self.inputs:
            return NoisePredictor
        if self.unread:
            return GoalBlindVelocity
        if self.outputs == "action":
            return ConditionalVelocity if "label" in self.inputs else MLPVelocity
        if self.ensemble:
            return MLPCritic
        return RobustCritic if "action" in self.inputs else MLPValue

    def fitted(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of the agent's widths, obs and action among them, as its first layer reads them.

        Without the columns of obs that it does not read, and with an action of its own chunk's
        length, which begins with the agent's and repeats it.
        """
        values, (h, h_a) = dict(inputs), self.chunk
        if self.unread:
            values["obs"] = values["obs"][:, : -self.unread]
        if h != h_a and "action" in values:
            action = values["action"]
            again = np.tile(action, (1, -(-h // h_a)))
            values["action"] = again[:, : action.shape[1] * h // h_a]
        return values

    def in_features(self, obs_dim: int, action_dim: int) -> int:
        """Width of its first layer's input, for O and D; without the columns of an encoded step."""
        h, h_a = self.chunk
        widths = {"obs": obs_dim - self.unread, "action": action_dim * h // h_a, **COLUMNS}
        widths |= {"noise": action_dim, "step": 0}
        return sum(widths[name] for name in self.inputs)

    def out_features(self, action_dim: int) -> int:
        """Width of its output, for D."""
        return action_dim if self.outputs == "action" else 1
