"""The stand-in for a GPU, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.helpers.gpu import stand_in
from tests.helpers.gpu.on_cpu import require_compiler


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that `import cupy` gives; skips where there is no C++ compiler."""
    require_compiler()
    with stand_in.installed(monkeypatch) as module:
        yield module
