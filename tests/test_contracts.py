"""Clauses: what is checked, what cannot be, and what is known to fail."""

from __future__ import annotations

from unittest import SkipTest

import pytest

from qgf_ref.contracts import (
    Broken,
    Clause,
    ContractError,
    fulfil,
    nothing_to_check,
    parametrized,
)
from qgf_ref.errors import InputError


def broken() -> None:
    raise Broken("expected 1, got 2")


def crashing() -> None:
    raise KeyError("lost")


RIGHT = Clause("mine", "right", lambda: None)
WRONG = Clause("mine", "wrong", broken)
ABSENT = nothing_to_check("mine", "absent", "it states none")


def test_a_broken_clause_names_itself_and_what_came() -> None:
    with pytest.raises(ContractError, match="mine: wrong: expected 1, got 2") as caught:
        fulfil([RIGHT, WRONG])
    assert (caught.value.subject, caught.value.clause) == ("mine", "wrong")
    with pytest.raises(ContractError, match="mine: crash: KeyError: 'lost'"):
        Clause("mine", "crash", crashing)()


def test_what_is_not_checked_is_reported_and_never_passes() -> None:
    report = fulfil([RIGHT, ABSENT])
    assert report.checked == ("right",)
    assert report.unchecked == {"absent": "it states none"}
    assert "not checked: absent: it states none" in str(report)
    with pytest.raises(SkipTest, match="it states none"):
        ABSENT()


def test_known_failures_have_a_reason_and_must_fail() -> None:
    report = fulfil([RIGHT, WRONG], {"wrong": "not yet"})
    assert report.checked == ("right",)
    assert "known to fail: wrong: not yet" in str(report)
    with pytest.raises(
        ContractError, match=r"right: passes, and is listed .*not yet.*off the list"
    ):
        fulfil([RIGHT], {"right": "not yet"})
    with pytest.raises(InputError, match=r"unknown check 'rihgt'.*right.*wrong"):
        fulfil([RIGHT, WRONG], {"rihgt": "misspelt"})


@parametrized([RIGHT, WRONG], {"mine-wrong": "planted"})
def test_as_pytest_cases(check: Clause) -> None:
    """One passes, one is an expected failure."""
    check()


def test_pytest_sees_names_and_reasons() -> None:
    decorator = parametrized([RIGHT, WRONG, ABSENT], {"wrong": "planted"})

    @decorator
    def case(check: Clause) -> None:
        check()

    (mark,) = case.pytestmark
    right, wrong, absent = mark.args[1]
    assert [p.id for p in (right, wrong, absent)] == ["mine-right", "mine-wrong", "mine-absent"]
    assert not right.marks
    assert wrong.marks[0].kwargs["strict"]
    assert wrong.marks[0].kwargs["reason"] == "planted"
