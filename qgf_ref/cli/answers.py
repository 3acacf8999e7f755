"""How a command ends: its exit code, and one sentence where it could not do what was asked."""

from __future__ import annotations

import sys
from collections.abc import Callable

from qgf_ref.cli.output import laid_out
from qgf_ref.errors import InputError, QGFError, missing_package, reason

BAD_INPUT = 2
INTERRUPTED = 130


def answered(name: str, do: Callable[[], int]) -> int:
    """What `do` returns; or, its error told on stderr, the code of that: 2 on bad input and on what
    the system refuses, 130 on Ctrl-C, 1 on what else this package raises on purpose.

    name: of the command, which begins the message. Any other error is a defect, and is raised.
    """
    try:
        return do()
    except InputError as error:
        return _told(name, str(error), BAD_INPUT)
    except QGFError as error:
        return _told(name, str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _told(name, f"{where}{reason(error)}", BAD_INPUT)
    except ModuleNotFoundError as error:
        lacking = missing_package(error.name)
        if lacking is None:
            raise
        return _told(name, str(lacking), BAD_INPUT)
    except KeyboardInterrupt as error:  # with words where a command knows what was kept
        print(str(error) or "interrupted; no file is left half written", file=sys.stderr)
        return INTERRUPTED


def _told(name: str, message: str, code: int) -> int:
    print(laid_out(name, message), file=sys.stderr)
    return code
