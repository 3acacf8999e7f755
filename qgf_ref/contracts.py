"""What somebody's own estimator or agent must satisfy: named clauses, run at once or by pytest.

A contract is a list of clauses, chosen by what its subject states about itself. A clause that has
nothing to check says why, and is reported as unchecked instead of passing. Failures that are
known are listed by the clause's name with a reason; one that passes nevertheless is an error, so
that no list outlives its reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

from qgf_ref.errors import InputError, QGFError, unknown_name

KnownFailures = Mapping[str, str]
"""Name of a clause → why it is known to fail."""
NO_FAILURES: KnownFailures = {}


ONE_ARRAY = (
    "answers every call in the same array, so that a later one changes what an earlier one gave: "
    "return a new array"
)


class ContractError(QGFError, AssertionError):
    """A clause is broken: `subject` and `clause` name it, the message says what came instead."""

    def __init__(self, subject: str, clause: str, reason: str) -> None:
        super().__init__(f"{subject}: {clause}: {reason}")
        self.subject, self.clause, self.reason = subject, clause, reason


class Broken(AssertionError):
    """Raised by a check, with what was expected and what came; the clause adds the names."""


class Unchecked(Exception):
    """Raised by a check that has nothing to check, with the reason."""


@dataclass(frozen=True)
class Clause:
    """One named check of one subject.

    check  raises Broken, or any other exception, when the subject breaks the clause; Unchecked
           when there is nothing to check
    """

    subject: str
    name: str
    check: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"

    def __call__(self) -> None:
        """Check: raises ContractError when broken, unittest.SkipTest where nothing is checked."""
        try:
            self.check()
        except Unchecked as nothing:
            raise SkipTest(f"{self}: not checked: {nothing}") from nothing
        except Exception as error:
            own = isinstance(error, AssertionError)  # a check's own words, not a defect's
            reason = str(error) if own else f"{type(error).__name__}: {error}"
            raise ContractError(self.subject, self.name, reason) from error


def nothing_to_check(subject: str, name: str, reason: str) -> Clause:
    """A clause that says why it checks nothing."""

    def check() -> None:
        raise Unchecked(reason)

    return Clause(subject, name, check)


@dataclass(frozen=True)
class ContractReport:
    """What was checked of a subject, what could not be, and what is known to fail, with reasons."""

    subject: str
    checked: tuple[str, ...]
    unchecked: Mapping[str, str] = field(default_factory=dict)
    known_failures: KnownFailures = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.checked)} checks passed: {', '.join(self.checked)}"]
        lines += [f"  not checked: {name}: {why}" for name, why in self.unchecked.items()]
        lines += [f"  known to fail: {name}: {why}" for name, why in self.known_failures.items()]
        return "\n".join(lines)


def fulfil(
    clauses: Sequence[Clause], known_failures: KnownFailures = NO_FAILURES
) -> ContractReport:
    """Check every clause of one subject.

    Raises ContractError at the first that is broken and not known to be, or known to be and not;
    InputError when `known_failures` names no clause.
    """
    _require_names(clauses, known_failures)
    passed: list[str] = []
    unchecked: dict[str, str] = {}
    for clause in clauses:
        known = known_failures.get(clause.name)
        try:
            clause()
        except SkipTest as nothing:
            unchecked[clause.name] = str(nothing.__cause__)
        except ContractError:
            if known is None:
                raise
        else:
            if known is not None:
                reason = f"passes, and is listed as known to fail ({known}): take it off the list"
                raise ContractError(clause.subject, clause.name, reason)
            passed.append(clause.name)
    subject = clauses[0].subject if clauses else "nothing"
    return ContractReport(subject, tuple(passed), unchecked, dict(known_failures))


def parametrized(
    clauses: Iterable[Clause], known_failures: KnownFailures = NO_FAILURES
) -> Callable[[Any], Any]:
    """A pytest decorator: one case for each clause, as the argument `check` of the test.

    Unchecked clauses are skipped with their reason, known failures are strict xfails. Known
    failures are named "clause", or "subject-clause" where there are several subjects.
    """
    import pytest

    cases = list(clauses)
    _require_names(cases, known_failures)

    def marks(clause: Clause) -> list[Any]:
        reason = known_failures.get(str(clause), known_failures.get(clause.name))
        if reason is None:
            return []
        return [pytest.mark.xfail(reason=reason, strict=True, raises=ContractError)]

    params = [pytest.param(c, marks=marks(c), id=str(c)) for c in cases]
    return pytest.mark.parametrize("check", params)


def _require_names(clauses: Sequence[Clause], known_failures: KnownFailures) -> None:
    if not isinstance(known_failures, Mapping):
        raise InputError(
            f"known_failures must map checks to reasons, got {type(known_failures).__name__}"
        )
    names = {c.name for c in clauses} | {str(c) for c in clauses}
    for name in known_failures:
        if name not in names:
            raise unknown_name("check", name, names)
