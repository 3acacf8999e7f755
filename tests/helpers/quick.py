"""A bound on how long a block may take, that a loaded machine does not break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quickly(seconds: float = 5.0) -> Iterator[None]:
    """Fail if the block takes this process more; the wall clock is also others' work."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < seconds, f"{took:.1f} s of this process, more than {seconds:g}"
