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
from qgf_ref.adapters.networks import AdaptedCritic, AdaptedField, NoCritic
from qgf_ref.adapters.observations import Observations, Select, row_numbers
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.flow.convention import ConventionLike, convention
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.nets.critic import Critic
from qgf_ref.ops.ensemble import require_aggregation

CHECK_ROWS = 3
REPEATS = {"float32": 1e-3, "float64": 1e-9}
"""Relative difference that is called rounding between two calls of one function, or a row in two
batches: a GPU sums in no fixed order, and a batch's size chooses the kernel (1e-6 measured on
CPUs in float32); Dropout and BatchNorm move numbers by 1e-2 and more."""


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
    action_bound   of actions and one-step estimates (None: none); see `GuidedFlow`
    real           mask over (H, A) or (A,): False is padding. The critic is asked on the real block
                   alone, and its gradient is 0 on the padding
    held           a number: the field sees it in place of the padding, and D counts real numbers
                   only. None: the flow carries the padding along, as the published samplers do
    critic_units   the critic takes actions in these units: Q(s, units.raw(a)), a (B, D)
    differences    products ("vjp", "jvp", "hvp") taken by central differences in place of autodiff;
                   reports say so
    check          call each network three times to see that its numbers are finite, repeat, and
                   that a row does not depend on the others
    Raises InputError on a shape, mask, name or combination that is none, and on what `check` finds.
    """

    action_shape: int | Sequence[int]
    denoise_steps: int = 10
    convention: ConventionLike = "qgf"
    obs_dim: int | None = None
    observations: Any = None
    select: Select | None = None
    aggregation: str = "min"
    action_bound: float | None = 1.0
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
        for name in self.differences:
            if name not in PRODUCTS:
                raise unknown_name("product", name, PRODUCTS)
        require_aggregation(self.aggregation)
        if (self.obs_dim is None) == (self.observations is None):
            raise InputError(
                "give obs_dim=O where observations are a matrix (B, O), or observations=… of any "
                "structure"
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
    asked: Critic = NoCritic(how.aggregation)
    if critic is not None:
        q = network(critic, "the critic")
        asked = AdaptedCritic(q, layout.block(), how.aggregation, held)
        if how.critic_units is not None:
            asked = how.critic_units.critic(asked)
    flow = GuidedFlow(
        convention(how.convention).to_core(own, how.denoise_steps),
        asked,
        how.denoise_steps,
        how.action_bound,
    )
    if how.check:
        examine(flow, _few(own, held), critic is not None)
    return flow


def _few(field: AdaptedField, held: Observations | None) -> Array:
    """Observations (3, O) to call the networks with."""
    if held is not None:
        return row_numbers(held.count)[np.arange(CHECK_ROWS) % held.count]
    rng = np.random.default_rng(0)
    return rng.standard_normal((CHECK_ROWS, field.obs_dim)).astype(field.dtype)


def relative_distance(actual: Array, expected: Array, beside: Array | None = None) -> float:
    """max|actual − expected| over the root mean square of `beside`, by default of `expected`."""
    size = float(np.sqrt((np.asarray(expected if beside is None else beside, float) ** 2).mean()))
    return float(np.abs(np.asarray(actual, float) - expected).max()) / (size or 1.0)


def examine(flow: GuidedFlow, obs: Array, has_critic: bool = True) -> None:
    """Call each network three times: raises InputError unless its numbers are finite, come again,
    and do not depend on the other rows of the batch.
    """
    rng = np.random.default_rng(1)
    action = rng.standard_normal((len(obs), flow.field.action_dim)).astype(flow.field.dtype)
    time = flow.times[flow.denoise_steps // 2]
    calls: dict[str, Callable[[Array, Array], Array]] = {
        "the field": lambda s, a: flow.field.forward(s, a, time)[0]
    }
    if has_critic:
        calls["the critic"] = lambda s, a: flow.critic.forward(s, a)[0].T
    limit = REPEATS[flow.field.dtype.name]
    for what, call in calls.items():
        first = call(obs, action)
        if not np.isfinite(first).all():
            raise InputError(
                f"{what} returned NaN or infinity for standard normal actions "
                f"({int((~np.isfinite(first)).sum())} of {first.size} numbers)"
            )
        apart = relative_distance(call(obs, action), first)
        if not apart <= limit:  # NaN, too
            raise InputError(
                f"{what} gives other numbers when it is called again with the same arguments (by "
                f"{apart:.1g} of their size): Dropout in training mode, noise drawn inside, or "
                "state; draw outside and pass it in, or call .eval()"
            )
        # the same shape, so that nothing is compiled twice
        same = np.full(len(obs), 1)
        among = relative_distance(call(obs[same], action[same])[1], first[1], first)
        if not among <= limit:
            raise InputError(
                f"{what} gives a row other numbers where the other rows are others (by "
                f"{among:.1g} of their size): BatchNorm, attention across rows, or observations "
                "that are not selected by row (give select=…)"
            )
