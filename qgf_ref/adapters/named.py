"""A flow of the user's own, named as "package.module:function"."""

from __future__ import annotations

from typing import Any

from qgf_ref.errors import InputError, QGFError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.user_code import error_summary, import_named


def flow_named(spec: str) -> tuple[GuidedFlow, Any]:
    """What the function returns that `spec` names, called without arguments: a flow, and the
    observations beside it, or None.

    Raises InputError when it cannot be imported, fails, or returns something else.
    """
    try:
        built = import_named(spec, "flow")()
    except QGFError:
        raise
    except (Exception, SystemExit) as error:  # of a script that reads its arguments
        raise InputError(f"flow {spec!r} raised {error_summary(error)}") from error
    flow, obs = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(flow, GuidedFlow):
        raise InputError(
            f"flow {spec!r} must return a GuidedFlow, or (flow, obs), it returned "
            f"{type(flow).__name__}"
        )
    return flow, obs
