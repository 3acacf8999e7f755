"""What a cross-check raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qgf_ref.errors import QGFError
from qgf_ref.user_code import error_said


class CrossCheckError(QGFError, AssertionError):
    """An implementation disagrees with the reference. The message is the report's text;
    `report` is the report itself.
    """

    __module__ = "qgf_ref.testing"  # where it is imported from; pytest's summary line begins so

    def __init__(self, report: object) -> None:
        super().__init__(str(report))
        self.report = report


def answer_of(call: Callable[[], Any], whose: str, when: str) -> Any:
    """What somebody's function returns. Raises CrossCheckError, naming the function, the call and
    the place in their file, when it raises: an exception there is an answer that is wrong.

    whose   "your sampler"; when  "on 8 rows"
    """
    try:
        return call()
    except Exception as error:
        raise CrossCheckError(
            f"{whose} raised {type(error).__name__} {when}: {error_said(error)}"
        ) from error
