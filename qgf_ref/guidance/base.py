"""What every gradient estimator receives, returns and states about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from numpy.typing import ArrayLike

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.path import check_steps, time_grid
from qgf_ref.nets.auxiliary import NO_AUXILIARY, Auxiliary
from qgf_ref.nets.critic import Critic
from qgf_ref.nets.velocity import VelocityField
from qgf_ref.ops.clip import Bound, Box, action_bound
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision, require_precision


@dataclass(frozen=True)
class GuidedFlow:
    """Everything a sampler needs: v, the critic that guides and ranks, T, and the action bound.

    action_bound  actions and one-step estimates are clipped to ±action_bound, or to [low, high] of
                  a pair, each a number or (D,), open where it is ±inf (kept as a `Box`); None:
                  never (closed-form flows, whose actions are not confined)
    time_precision  "float32" rounds the times as the official code does (`time_grid`)
    kernels       runs the operations between the networks (see `qgf_ref.ops.kernels`)
    auxiliary     the networks that some estimators need beside these two
    online_critic  of which `critic` is the average, where it is known: what CFGRL ranks by
    Raises InputError on a T, precision or bound outside its range.
    """

    field: VelocityField
    critic: Critic
    denoise_steps: int
    action_bound: Bound | tuple[ArrayLike, ArrayLike] | None = 1.0
    time_precision: Precision = "exact"
    kernels: Kernels = reference_kernels
    auxiliary: Auxiliary = NO_AUXILIARY
    online_critic: Critic | None = None

    def __post_init__(self) -> None:
        check_steps(self.denoise_steps)
        require_precision(self.time_precision)
        kept = action_bound(self.action_bound, self.field.action_dim)
        object.__setattr__(self, "action_bound", kept)

    def __repr__(self) -> str:
        networks = f"{type(self.field).__name__}, {type(self.critic).__name__}"
        bound = "a bound for each coordinate"
        if not isinstance(self.bound, Box):
            bound = "no bound" if self.bound is None else f"bound {self.bound:g}"
        times = f"T={self.denoise_steps} ({self.time_precision} times)"
        return f"GuidedFlow({networks}, D={self.field.action_dim}, {times}, {bound})"

    @property
    def bound(self) -> Bound | None:
        """`action_bound` as it is kept."""
        return self.action_bound  # type: ignore[return-value]

    @property
    def times(self) -> tuple[float, ...]:
        """The times t_0 … t_{T−1} of the denoising steps."""
        return time_grid(self.denoise_steps, self.time_precision)


@dataclass(frozen=True)
class DenoisingStep:
    """The sampler's state at step k, which an estimator must not change.

    obs (B, O); action a_t (B, D); velocity v(s, a_t, t) (B, D) and the field's cache for its
    products, so that no estimator pays for that forward again; weight (): a float or (B, 1).
    """

    obs: Array
    action: Array
    index: int
    time: float
    velocity: Array
    velocity_cache: Any
    weight: float | Array


@dataclass(frozen=True)
class Guidance:
    """An estimator's answer: gradient G (B, D), and query x (B, D) and q (E, B) there if any.

    acceleration  d²a/dt² along the guided flow (B, D), from an estimator of second order: the
                  loop's step is then a ← a + δ(v + w·G) + ½δ²·acceleration
    """

    gradient: Array
    query: Array | None = None
    q: Array | None = None
    acceleration: Array | None = None


@dataclass(frozen=True)
class Products:
    """Counts of network evaluations and Jacobian products, each over the whole batch."""

    field_forward: int = 0
    field_jvp: int = 0
    field_vjp: int = 0
    critic_forward: int = 0
    critic_jvp: int = 0
    critic_vjp: int = 0
    critic_hvp: int = 0

    def __add__(self, other: Products) -> Products:
        return Products(*(a + b for a, b in zip(self.astuple(), other.astuple(), strict=True)))

    def astuple(self) -> tuple[int, ...]:
        """The counts in the order of the fields."""
        return tuple(vars(self).values())

    def __str__(self) -> str:
        named = {
            "v": self.field_forward,
            "v jvp": self.field_jvp,
            "v vjp": self.field_vjp,
            "Q": self.critic_forward,
            "Q jvp": self.critic_jvp,
            "Q vjp": self.critic_vjp,
            "Q hvp": self.critic_hvp,
        }
        shown = [name if n == 1 else f"{n} {name}" for name, n in named.items() if n]
        return " + ".join(shown) or "–"


CRITIC_GRADIENT = Products(critic_forward=1, critic_vjp=1)


N = TypeVar("N")


class Estimator(ABC):
    """A gradient estimator G(s, a_t, t): a frozen dataclass of its options, called at every step.

    Each row's gradient is its own: the sum over the batch is differentiated, never the mean.
    """

    name: ClassVar[str]
    """Name in the registry."""
    summary: ClassVar[str]
    """The formula of G, on one line."""
    analytic: ClassVar[bool] = True
    """Whether G accepts complex a_t, so that its own Jacobian can be taken by complex step."""
    recordable: ClassVar[bool] = False
    """Whether G does the same operations for every input, all of them through the flow's networks
    and kernels, so that it can be run once and replayed as a program (`qgf_ref.backends`)."""
    auxiliary: ClassVar[str | None] = None
    """The auxiliary network that it needs: a name of `qgf_ref.nets.auxiliary.AUXILIARY`."""
    default_weights: ClassVar[tuple[float, ...] | None] = None
    """Its own weights to choose from, where those of the others have no meaning for it."""

    @property
    def label(self) -> str:
        """What tables, plots and errors call it: the name, unless a user's function has its own."""
        return self.name

    def on(self, flow: GuidedFlow) -> GuidedFlow:
        """The flow that is sampled: `flow`, unless the estimator brings a field of its own.

        Raises InputError when `flow` lacks the auxiliary network that the estimator needs.
        """
        if self.auxiliary is not None:
            self.network(getattr(flow.auxiliary, self.auxiliary))
        return flow

    def network(self, found: N | None) -> N:
        """The auxiliary network `found`; raises InputError when there is none."""
        if found is None:
            raise InputError(
                f"{self.label} needs the auxiliary network {self.auxiliary}, which this checkpoint "
                f"does not have: train it with qgf-ref train-extra {self.auxiliary} --run DIR, a "
                "finished run of the agent iql"
            )
        return found

    @abstractmethod
    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """G at this step."""

    def products(self, flow: GuidedFlow, index: int) -> Products | None:
        """What one call costs at step `index`, beyond the sampler's own forward of v.

        None when it is not stated (estimators of users).
        """
        return None

    def potential(self, flow: GuidedFlow, step: DenoisingStep) -> Array | None:
        """The scalar Φ(a_t) (B,) with G = ∇Φ, or None when G is not a gradient field."""
        return None


def require_flow(flow: Any) -> None:
    """Raise InputError unless `flow` is a GuidedFlow."""
    if not isinstance(flow, GuidedFlow):
        raise InputError(
            f"the first argument must be a GuidedFlow, got {type(flow).__name__}; "
            "of a checkpoint, pass checkpoint.flow"
        )
