"""A training mistake: the recipe of an agent with an ingredient replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TrainingMistake:
    """One plausible mistake.

    says       what is wrong and what the official code does, one sentence
    first      the first quantity that it changes, in the order losses, gradients, parameters;
               "params" if it changes those of every network
    changes    the ingredients of the reference that it replaces
    reference  the right recipe
    """

    name: str
    says: str
    first: str
    changes: Mapping[str, Any] = field(repr=False)
    reference: Recipe = field(default=RECIPE, repr=False)

    @property
    def recipe(self) -> Recipe:
        """The reference with this mistake in it."""
        return replace(self.reference, **self.changes)


@dataclass(frozen=True)
class TrainingBank:
    """An agent's recipe, and the mistakes that are made with it, in the order of the quantities
    that they change first.
    """

    reference: Recipe
    mistakes: tuple[TrainingMistake, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that an update changes: the trained ones, then the averages."""
        return (*self.reference.trained, *self.reference.targets)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What can be compared: losses, their gradients, parameters after the updates."""
        gradients = (f"grad/{part}" for part in self.reference.trained)
        return (*self.reference.losses, *gradients, *(f"params/{part}" for part in self.parts))


def combined(mistakes: Iterable[TrainingMistake]) -> Recipe | None:
    """The reference with several mistakes in it; None where two replace the same ingredient."""
    changes: dict[str, Any] = {}
    reference: Recipe = RECIPE
    for mistake in mistakes:
        if changes.keys() & mistake.changes.keys():
            return None
        changes |= mistake.changes
        reference = mistake.reference
    return replace(reference, **changes)
