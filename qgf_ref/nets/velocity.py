"""The velocity field v(s, a, t) of the flow policy, and CFGRL's v(s, a, t | o)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.nets.joint import COLUMNS, Input, JointCache, NoisyActionMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.structure import concat_vjp
from qgf_ref.ops.time_embedding import Precision


class VelocityField(Protocol):
    """What samplers and estimators need of v: a forward, and its products in the action.

    The public contract of a field of your own; any framework may be behind it. t = 0 is noise and
    t = 1 the action, v = action − noise (another convention: `qgf_ref.flow.convention`).

    forward   deterministic; a row's v depends on that row alone; `time` is one number, or (B,),
              one a row, of `qgf_shifted`. Arrays in and out are in `dtype`; the result is new
    vjp, jvp  of the forward whose cache they get, any number of times, linear in their argument:
              ⟨jvp(x), y⟩ = ⟨x, vjp(y)⟩
    A field without a vjp runs under `none`, `ood`, `qgf`, `qgf_masked`, `qgf_chain`, `qgf_shifted`.
    The jvp is optional: `qgf_covariance` and `qgf_shifted_taylor` need it, and without it nothing
    checks the vjp's adjoint. Complex actions are optional, too: the audit then takes differences,
    good to 1e-6, in place of the complex step. `qgf_ref.testing.check_flow` checks all this.

    `MLPVelocity` is the learned one, `qgf_ref.flow.gaussian_mixture.MixtureFlow` an exact one;
    `qgf_ref.adapters` makes them of PyTorch and JAX functions.
    """

    @property
    def action_dim(self) -> int:
        """D, the width of a (flat) action."""
        ...

    @property
    def obs_dim(self) -> int | None:
        """O, or None when observations are not used."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The real dtype in which v is computed."""
        ...

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """v (B, D) and what the products need. obs (B, O), action (B, D), time () or (B,)."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂v/∂a) action_dot, (B, D). Optional: see above."""
        ...

    def vjp(self, velocity_bar: Array, cache: Any) -> Array:
        """(∂v/∂a)ᵀ velocity_bar, (B, D)."""
        ...


@dataclass(frozen=True)
class FieldAround:
    """What a field made from another, `base`, has of it: widths and dtype."""

    base: VelocityField

    @property
    def action_dim(self) -> int:
        """D."""
        return self.base.action_dim

    @property
    def obs_dim(self) -> int | None:
        """O, or None."""
        return self.base.obs_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The real dtype in which v is computed."""
        return self.base.dtype

    def for_steps(self, denoise_steps: int) -> Any:
        """The field that a sampler of T steps asks: another where it is told a grid's times."""
        again = getattr(self.base, "for_steps", None)
        return self if again is None else replace(self, base=again(denoise_steps))

    def forward_only(self) -> Any:
        """The field for callers that take no vjp of it: another where it need not keep for one."""
        again = getattr(self.base, "forward_only", None)
        base = self.base if again is None else again()
        return self if base is self.base else replace(self, base=base)


class LearnedField(VelocityField, Protocol):
    """A velocity field with parameters."""

    @property
    def kernels(self) -> Kernels:
        """What runs the operations between its layers."""
        ...

    def vjp_params(self, velocity_bar: Array, cache: Any) -> MLPParams:
        """(∂v/∂θ)ᵀ velocity_bar, summed over the batch."""
        ...


@dataclass(frozen=True)
class MLPVelocity(NoisyActionMLP):
    """v(s, a, t) = MLP([s, a, emb(t)]). Source: official.md, section 1 (ActorFlowField)."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "action", "time")

    @property
    def action_dim(self) -> int:
        """D."""
        return self.params.out_features

    @property
    def obs_dim(self) -> int:
        """O."""
        others = sum(COLUMNS.get(name, 0) for name in self.inputs)
        return self.params.in_features - self.action_dim - others

    def jvp_inputs(
        self, obs_dot: Array, action_dot: Array, embedding_dot: Array, cache: JointCache
    ) -> Array:
        """v_dot along a direction in all three inputs of the network."""
        return self.joint_jvp(cache, obs=obs_dot, action=action_dot, time=embedding_dot)


@dataclass(frozen=True)
class GoalBlindVelocity(MLPVelocity):
    """v(s, a, t) as a field of [s, g]: the last `unread` columns, a goal, are not read."""

    unread: int = 0

    @property
    def obs_dim(self) -> int:
        """O + G."""
        return super().obs_dim + self.unread

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, JointCache]:
        """v (B, D), and what the products need. obs (B, O + G)."""
        return super().forward(self._state(obs), action, time)

    def jvp_inputs(
        self, obs_dot: Array, action_dot: Array, embedding_dot: Array, cache: JointCache
    ) -> Array:
        """v_dot along a direction in all inputs; of the goal, none."""
        return super().jvp_inputs(self._state(obs_dot), action_dot, embedding_dot, cache)

    def _state(self, obs: Array) -> Array:
        return self.kernels(concat_vjp, obs, (obs.shape[1] - self.unread, self.unread), 0)


@dataclass(frozen=True)
class ConditionalVelocity(MLPVelocity):
    """v(s, a, t | o) = MLP([s, a, emb(t), Embed(o)]) at a given o: a `VelocityField`.

    condition  o, 0 or 1; or one for each row (B,), integers
    Source: official.md, section 1 (CFGRL); method.md, section 4.
    """

    inputs: tuple[Input, ...] = ("obs", "action", "time", "label")
    condition: int | Array = 0

    def given(self, condition: int | Array) -> ConditionalVelocity:
        """The field at another o."""
        return replace(self, condition=condition)

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, JointCache]:
        """v (B, D) at o. obs (B, O), action (B, D), time () or (B,) in [0, 1]."""
        return self.joint(obs=obs, action=action, time=time, label=self.condition)


def at_label(params: MLPParams, label: int) -> MLPParams:
    """The parameters of `MLPVelocity` that is `ConditionalVelocity` at one label: v(s, a, t | o).

    The label's columns are the same in every row, so that their product, table[o] W, is part of the
    first layer's bias; equal to rounding. The sum is taken in float64.
    """
    if params.table is None:
        raise InputError("the network has no table of labels")
    first, columns = params.layers[0], params.table.shape[1]
    rest, own = np.split(first.kernel, [-columns], axis=-2)
    bias = first.bias + params.table[label].astype("float64") @ own
    layer = replace(first, kernel=np.ascontiguousarray(rest), bias=bias.astype(first.bias.dtype))
    return MLPParams((layer, *params.layers[1:]))
