"""Few cases of many in the default run; all of them with `-m slow`, as `.ci/run` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], keep: int) -> list[Any]:
    """The cases for `parametrize`, all but `keep` of them, spread evenly, marked slow.

    A case is a value, a tuple of the arguments' values, or a `pytest.param`.
    """
    cases = list(cases)
    kept = {round(i * (len(cases) - 1) / max(keep - 1, 1)) for i in range(keep)}
    return [case if i in kept else _slow(case) for i, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if hasattr(case, "marks"):
        return pytest.param(*case.values, marks=(*case.marks, pytest.mark.slow), id=case.id)
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
