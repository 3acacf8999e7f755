"""A flow from somebody's functions, and what is checked of them before anything relies on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qgf_ref.adapters.actions import ActionLayout
from qgf_ref.adapters.autodiff import Autodiff
from qgf_ref.adapters.differences import PRODUCTS, Differenced
from qgf_ref.adapters.examination import examine
from qgf_ref.adapters.networks import AdaptedCritic, AdaptedField, NoCritic
from qgf_ref.adapters.observations import Observations, Select
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.flow.convention import ConventionLike, convention
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.critic import Critic
from qgf_ref.ops.clip import Bound
from qgf_ref.ops.ensemble import require_aggregation


@dataclass(frozen=True)
class AdapterSettings:
    """What an adapter is told beside the functions.

    action_shape   (H, A), or D: what a row of x is shaped like. The flow's D is H·A, step-major
    denoise_steps  T
    convention     of the field: a preset's name or a `qgf_ref.flow.convention.Convention`
    obs_dim        O, where observations are a matrix (B, O): they arrive as the framework's array
    observations   else: N observations of any structure (dicts, lists, tuples of arrays, a cached
                   prefix). The flow's own obs are then numbers of rows, `row_numbers(N)`. All N in
                   their order arrive as the very object that was given, other rows as
    select         (observations, rows (B,) integers) → the structure with these rows. By default
                   every array is indexed along its first axis, which must be N long
    aggregation    of the critic's members: "min", "mean" or "lcb=K"
    action_bound   of actions and one-step estimates, in the network's units: a number, (low, high)
                   with D or A numbers each (A: for every step alike), None; see `GuidedFlow`
    real           mask over (H, A) or (A,): False is padding. The critic is asked on the real block
                   alone, and its gradient is 0 on the padding
    held           a number: the field sees it in place of the padding, and D counts real numbers
                   only. None: the flow carries the padding along, as the published samplers do
    critic_units   the critic takes actions in these units: Q(s, units.raw(a)), a (B, D); of shape
                   (D,), (), or (A,) for every step alike
    differences    products ("vjp", "jvp", "hvp") taken by central differences in place of autodiff;
                   reports say so
    check          call each network three times to see that its numbers are finite, repeat, and
                   that a row does not depend on the others, in whatever order; and that the
                   critic's gradient is not 0
    Raises InputError on a shape, mask, name or combination that is none, and on what `check` finds.
    """

    action_shape: int | Sequence[int]
    denoise_steps: int = 10
    convention: ConventionLike = "qgf"
    obs_dim: int | None = None
    observations: Any = None
    select: Select | None = None
    aggregation: str = "min"
    action_bound: Bound | tuple[ArrayLike, ArrayLike] | None = 1.0
    real: ArrayLike | None = None
    held: float | None = None
    critic_units: Normalisation | None = None
    differences: Sequence[str] = ()
    check: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> AdapterSettings:
        """From keyword arguments; raises InputError, listing the names, on another."""
        names = [f.name for f in fields(cls)]
        for name in settings:
            if name not in names:
                raise unknown_name("setting of an adapter", name, names)
        if "action_shape" not in settings:
            raise InputError("give action_shape=(H, A), or D: what a row of the field's x is like")
        return cls(**settings)

    def __post_init__(self) -> None:
        if isinstance(self.differences, str):
            object.__setattr__(self, "differences", (self.differences,))
        if not isinstance(self.differences, Sequence):
            raise InputError(
                f"differences must name products ({', '.join(PRODUCTS)}), got {self.differences!r}"
            )
        for name in self.differences:
            if name not in PRODUCTS:
                raise unknown_name("product", name, PRODUCTS)
        require_aggregation(self.aggregation)
        if (self.obs_dim is None) == (self.observations is None):
            raise InputError(
                "give obs_dim=O where observations are a matrix (B, O), or observations=… of any "
                "structure"
            )
        whole = isinstance(self.obs_dim, int | np.integer) and not isinstance(self.obs_dim, bool)
        if self.obs_dim is not None and not (whole and self.obs_dim >= 0):
            raise InputError(f"obs_dim must be a whole number ≥ 0, got {self.obs_dim!r}")
        if self.select is not None and self.observations is None:
            raise InputError("select chooses rows of observations=…, and there are none")
        if not isinstance(self.critic_units, Normalisation | None):
            raise InputError(
                "critic_units must be a qgf_ref.adapters.Normalisation, got "
                f"{type(self.critic_units).__name__}"
            )


def guided_flow(
    autodiff: Callable[[Callable[..., Any], str], Autodiff],
    field: Callable[..., Any],
    critic: Callable[..., Any] | None,
    how: AdapterSettings,
) -> GuidedFlow:
    """The flow of these functions; see `qgf_ref.adapters.torch` for what is raised."""

    def network(function: Callable[..., Any], what: str) -> Autodiff:
        own = autodiff(function, what)
        return Differenced(own, tuple(how.differences)) if how.differences else own

    layout = ActionLayout.of(how.action_shape, how.real, how.held)
    held = None if how.obs_dim is not None else Observations(how.observations, how.select)
    obs_dim = 1 if how.obs_dim is None else how.obs_dim
    own = AdaptedField(network(field, "the field"), layout, obs_dim, held)
    adapted: AdaptedCritic | None = None
    asked: Critic = NoCritic(how.aggregation)
    if critic is not None:
        q = network(critic, "the critic")
        adapted = AdaptedCritic(q, layout.block(), how.aggregation, held)
        units = None if how.critic_units is None else layout.units(how.critic_units)
        asked = adapted if units is None else units.critic(adapted)
    flow = GuidedFlow(
        convention(how.convention).to_core(own, how.denoise_steps),
        asked,
        how.denoise_steps,
        layout.bound(how.action_bound),
    )
    if how.check:
        examine(flow, own, adapted)
    return flow
