"""What a diagnosis found: explanations, or how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qgf_ref.crosscheck.sampler.mistakes.bank import Made, Mistakes

PLACES: Mapping[str, str] = {
    "v": "the velocity",
    "a1_hat": "the point at which the critic is asked",
    "q": "the critic's members",
    "g": "the gradient",
    "a": "the state a_t",
    "action": "the final action",
}
"""What a flow's quantities are."""


@dataclass(frozen=True)
class Explanation:
    """Mistakes that together reproduce everything recorded, and how closely.

    excess   largest times over the limit of any quantity and step, ≤ 1
    variants what else fits under the same names (a place, a rounding)
    record   what was recorded under which name, beside the mistakes
    """

    mistakes: Mistakes
    excess: float
    variants: tuple[Mistakes, ...] = ()
    record: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The mistakes' names."""
        return tuple(made.name for made in self.mistakes)


@dataclass(frozen=True)
class Near:
    """A simulation that does not reproduce the record, and the share of the error it explains."""

    made: Made
    explained: float


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of a search.

    explanations  all of the smallest size that reproduce everything; empty if none does
    unknown       the first quantity that nothing in the bank explains
    so_far        what explains the quantities before it
    nearest       the closest simulations of `unknown`
    known         what is known of `unknown`, or why there may be other explanations: sentences
    record        what was recorded under which name, where the sampler itself is right
    interrupted   whether Ctrl-C ended the search: what is said is known, and more might be
    singles, pairs, possible_pairs  how many were simulated, of how many pairs
    places        what the quantities are, in words
    hints         a mistake as made → the option of the checkpoint that would explain it
    """

    explanations: tuple[Explanation, ...]
    unknown: str | None = None
    so_far: tuple[Mistakes, ...] = ()
    nearest: tuple[Near, ...] = ()
    singles: int = 0
    pairs: int = 0
    possible_pairs: int = 0
    known: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    interrupted: bool = False
    places: Mapping[str, str] = field(default_factory=lambda: PLACES)
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether no mistake at all, or nothing but harmless rounding, explains everything."""
        return any(
            all(made.harmless for made in e.mistakes) and not e.record for e in self.explanations
        )

    @property
    def explained(self) -> bool:
        """Whether `qgf-ref explain` can list the operations: those of a flow."""
        return self.places is PLACES

    @property
    def ambiguous(self) -> bool:
        """Whether several different mistakes explain everything equally well."""
        return len(self.explanations) > 1
