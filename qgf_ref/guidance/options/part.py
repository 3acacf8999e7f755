"""Guidance of a part of the action: the executed prefix of a chunk, or its real dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgf_ref.errors import InputError
from qgf_ref.guidance.base import DenoisingStep, Guidance, GuidedFlow
from qgf_ref.guidance.options.base import Wrapped, with_gradient
from qgf_ref.ops.structure import kept


@dataclass(frozen=True)
class _Part(Wrapped):
    """G on the columns that `of` names, 0 on the others. first: how many; among: of how many."""

    first: int = 1
    among: int = 1

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int | np.integer) for n in (self.first, self.among))
        if not whole or isinstance(self.first, bool) or not 1 <= self.first <= self.among:
            raise InputError(
                f"{self.option} needs whole numbers n/N with 1 ≤ n ≤ N: {self.formula}"
            )
        super().__post_init__()

    def columns(self, width: int) -> tuple[int, ...]:
        """Those that keep their G, of an action of D = width numbers, (H, A) flattened."""
        raise NotImplementedError

    def divided(self, width: int) -> int:
        """width/among. Raises InputError where that leaves a rest."""
        if width % self.among:
            raise InputError(f"{self.option}: {width} numbers are not divisible by {self.among}")
        return width // self.among

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """The base's G, 0 elsewhere."""
        guidance = self.first_order(flow, step)
        columns = self.columns(flow.field.action_dim)
        return with_gradient(guidance, flow.kernels(kept, guidance.gradient, columns))


@dataclass(frozen=True)
class Prefix(_Part):
    """G ← G on the first `first` of the `among` actions of a chunk, 0 on those after.

    What is executed before the next chunk is decided is guided; the rest follows through v alone.
    The critic is asked of the whole chunk: PᵀP·G, not the gradient of a critic of the prefix, of
    which a Jacobian would move the rest, too. No gradient field in general. Products: none of its
    own. [choice]. Raises InputError unless 1 ≤ first ≤ among, and where `among` does not divide D.
    """

    @property
    def option(self) -> str:
        """prefix=n/H."""
        return f"prefix={self.first}/{self.among}"

    @property
    def formula(self) -> str:
        """In words."""
        return f"of the first {self.first} of {self.among} actions of a chunk"

    def columns(self, width: int) -> tuple[int, ...]:
        """The first n·A of H·A."""
        return tuple(range(self.first * self.divided(width)))


@dataclass(frozen=True)
class RealDimensions(_Part):
    """G ← G on the first `first` of the `among` dimensions of every action, 0 on the padding after.

    For policies of padded actions (32 dimensions of which a robot has 7, say): a critic that sees
    the padding guides it, and v carries that into the real dimensions. Where the adapter knows the
    mask (`qgf_ref.adapters`, real=…) the critic does not see the padding, and a Jacobian is all
    that moves it. No gradient field in general. Products: none of its own. Source: the padded
    `max_action_dim` of openpi and lerobot; [choice]. Raises InputError as `Prefix` does.
    """

    @property
    def option(self) -> str:
        """real=k/A."""
        return f"real={self.first}/{self.among}"

    @property
    def formula(self) -> str:
        """In words."""
        return f"of the first {self.first} of {self.among} dimensions of each action"

    def columns(self, width: int) -> tuple[int, ...]:
        """Those whose place in their action is below k."""
        actions = self.divided(width)
        return tuple(h * self.among + d for h in range(actions) for d in range(self.first))
