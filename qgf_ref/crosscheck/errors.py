"""What a cross-check raises."""

from __future__ import annotations

from qgf_ref.errors import QGFError


class CrossCheckError(QGFError, AssertionError):
    """An implementation disagrees with the reference. The message is the report's text;
    `report` is the report itself.
    """

    __module__ = "qgf_ref.testing"  # where it is imported from; pytest's summary line begins so

    def __init__(self, report: object) -> None:
        super().__init__(str(report))
        self.report = report
