"""The critic ensemble Q(s, a), and the critic of noisy actions Q_rob(s, a_t, t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from qgf_ref.arrays import Array
from qgf_ref.nets.joint import Input, JointCache, JointMLP, NoisyActionMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision


class Critic(Protocol):
    """What samplers and estimators need of Q: members, their reduction, products in the action.

    The public contract of a critic of your own; any framework may be behind it. Higher is better.

    forward   deterministic; a row's Q depends on that row alone; E ≥ 1 members, in the dtype of the
              flow's field
    vjp       of the forward whose cache it gets, any number of times, linear in q_bar; every
              estimator but `none` needs it
    The jvp is optional: only the check of the vjp's adjoint uses it. So is the hvp, the derivative
    of the vjp: `qgf_covariance` needs it. `qgf_ref.testing.check_flow` checks all this.

    `MLPCritic` is the learned one, `qgf_ref.flow.closed_form_critics` has exact ones;
    `qgf_ref.adapters` makes them of PyTorch and JAX functions.
    """

    @property
    def aggregation(self) -> str:
        """How members become one value: "min", "mean" or "lcb=K" (mean − K·std)."""
        ...

    def forward(self, obs: Array, action: Array) -> tuple[Array, Any]:
        """Q of every member (E, B), and what the products need. obs (B, O), action (B, D)."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q/∂a) action_dot, (E, B). Optional: see above."""
        ...

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂Q/∂a)ᵀ q_bar, (B, D). q_bar (E, B)."""
        ...

    def hvp(self, action_dot: Array, q_bar: Array, cache: Any) -> Array:
        """(Σ_e q_bar_e ∂²Q_e/∂a²) action_dot, (B, D): the vjp's derivative with q_bar held.

        Optional: see above.
        """
        ...


class NoisyActionCritic(Protocol):
    """What an estimator needs of Q_rob: a forward and its products in the action."""

    def forward(self, obs: Array, action: Array, time: float | Array) -> tuple[Array, Any]:
        """Q_rob (B,), and what the products need. obs (B, O), action (B, D), time ()."""
        ...

    def jvp(self, action_dot: Array, cache: Any) -> Array:
        """(∂Q_rob/∂a) action_dot, (B,)."""
        ...

    def vjp(self, q_bar: Array, cache: Any) -> Array:
        """(∂Q_rob/∂a)ᵀ q_bar, (B, D). q_bar (B,)."""
        ...


@dataclass(frozen=True)
class MLPCritic(JointMLP):
    """Q_e(s, a) = MLP_e([s, a]), e = 1…E. Source: official.md, section 1 (Value).

    The parameters carry the ensemble axis, also when E = 1. `hvp` is the Hessian product of the
    aggregate as well, almost everywhere: the weights that the reduction gives the members are
    constant but where the attaining member changes.
    """

    params: MLPParams
    options: MLPOptions = MLPOptions()
    aggregation: str = "min"
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "action")
    scalar: ClassVar[bool] = True

    def forward(self, obs: Array, action: Array) -> tuple[Array, JointCache]:
        """Q (E, B). obs (B, O), action (B, D)."""
        return self.joint(obs=obs, action=action)

    def jvp_inputs(self, obs_dot: Array, action_dot: Array, cache: JointCache) -> Array:
        """q_dot (E, B) along a direction in (s, a)."""
        return self.joint_jvp(cache, obs=obs_dot, action=action_dot)

    def hvp_inputs(
        self, obs_dot: Array, action_dot: Array, q_bar: Array, cache: JointCache
    ) -> tuple[Array, ...]:
        """(s_bar_dot, a_bar_dot): the jvp of `vjp_inputs` along a direction in (s, a)."""
        return self.joint_hvp(cache, q_bar, obs=obs_dot, action=action_dot)


@dataclass(frozen=True)
class RobustCritic(NoisyActionMLP):
    """Q_rob(s, a, t) = MLP([s, a, emb(t)]), (B,): one member, shaped as a value network.

    Source: official.md, section 1 (RobustQ critic).
    """

    params: MLPParams
    options: MLPOptions = MLPOptions()
    embedding: Precision = "exact"
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "action", "time")
    scalar: ClassVar[bool] = True
