"""A training mistake: the recipe of an agent with an ingredient replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.recipe import Recipe
from qgf_ref.crosscheck.update.stage_changes import StageChange, altered


@dataclass(frozen=True, eq=False)
class TrainingMistake:
    """One plausible mistake.

    says       what is wrong and what the official code does, one sentence
    first      the first quantity that it changes, in the order losses, gradients, parameters;
               "params" if it changes those of every network
    changes    the ingredients of the reference that it replaces
    reference  the right recipe
    stages     changes of stages, by name, where no ingredient says it
    """

    name: str
    says: str
    first: str
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    reference: Recipe = field(default=RECIPE, repr=False)
    stages: Mapping[str, StageChange] = field(default_factory=dict, repr=False)

    @property
    def recipe(self) -> Recipe:
        """The reference with this mistake in it."""
        return altered(replace(self.reference, **self.changes), self.stages)


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
        """What can be compared: losses, their gradients, those that an agent with a joint clip
        gives to Adam at the first update, parameters after the updates.
        """
        kinds = ("grad", "received") if self.reference.jointly else ("grad",)
        gradients = (f"{kind}/{part}" for kind in kinds for part in self.reference.trained)
        return (*self.reference.losses, *gradients, *(f"params/{part}" for part in self.parts))


def combined(mistakes: Iterable[TrainingMistake]) -> Recipe | None:
    """The reference with several mistakes in it; None where two replace the same ingredient."""
    changes: dict[str, Any] = {}
    stages: dict[str, StageChange] = {}
    reference: Recipe = RECIPE
    for mistake in mistakes:
        if changes.keys() & mistake.changes.keys() or stages.keys() & mistake.stages.keys():
            return None
        changes |= mistake.changes
        stages |= mistake.stages
        reference = mistake.reference
    return altered(replace(reference, **changes), stages)
