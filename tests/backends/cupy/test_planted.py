"""Mistakes planted in the kernels are caught by what the other tests ask."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from qgf_ref.agents.registry import AGENTS
from qgf_ref.backends.cupy import device, primitives, sources
from qgf_ref.backends.cupy.sources import FILES, FOLDER
from qgf_ref.errors import NonFiniteError
from qgf_ref.ops.dense import DenseRule
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import BLOCKS, FLOAT64, dense_block, sampled, small
from tests.helpers.gpu.on_cpu import ORDERS, KernelError
from tests.helpers.gpu.planted import PLANTED, planted
from tests.helpers.gpu.training import update_errors

UPDATES = 2e-5
"""What errors of an update stay below, in units of the quantity's size."""
QUICK = (
    "a mask without the last lane",
    "a row too few",
    "a product that replaces",
    "the last square alone",
)
"""The others take the C++ compiler too long."""


def install(monkeypatch: pytest.MonkeyPatch, read: dict[str, str]) -> None:
    def text(dtype: str, activation: str, files: tuple[str, ...]) -> str:
        head = f"#define REAL {sources.REALS[dtype]}\n#define ACTIVATION 0\n{sources.constants()}"
        return "\n".join([head, *(read[name] for name in files)])

    monkeypatch.setattr(device, "source", text)


def worst(file: str) -> float:
    """The largest error of what the other tests ask, in every order of threads, as of actions."""
    found, persistent = 0.0, file == "persistent"
    for order in ORDERS:
        stand_in.settings.order = order
        if file == "learning":
            clipped = AGENTS["qam"].having({"clip_grad": 1e-3})
            found = max(found, *update_errors(clipped, {}))
            if found >= UPDATES:
                break
            continue
        if persistent:
            for rows in (1, 2, 9):  # one row is the block's, nine are the warps'
                flow, obs, noise = small(rows=rows)
                how: dict[str, Any] = {"weight": 0.5, "noise": noise, "denoise_steps": 2}
                names = ("qgf", "bptt", "qgf_covariance")[: 3 if rows == 2 else 1]
                found = max(found, sampled(flow, obs, True, names, **how))
            found = max(found, residual(True, 2))
            continue
        for members, own, *sizes in BLOCKS:
            rule = DenseRule("gelu", 1e-3)
            found = max(found, dense_block(members, own, tuple(sizes), rule, True) / 10)  # type: ignore[arg-type]
        flow, obs, noise = small(rows=130)
        how = {"weight": 0.5, "noise": noise, "denoise_steps": 1}
        found = max(found, sampled(flow, obs, False, **how), residual(False, 9))
    return found * FLOAT64 / UPDATES if file == "learning" else found


def residual(few: bool, rows: int) -> float:
    """The same of residual blocks, the last hidden one among them, LayerNorm first and last."""
    found = 0.0
    for after in (False, True):
        options = {"residual": True, "norm_after_activation": after}
        flow, obs, noise = small(rows=rows, hidden=(9, 9), options=options)
        how: dict[str, Any] = {"weight": 0.3, "noise": noise, "denoise_steps": 2}
        names = "qgf", "qgf_covariance"
        found = max(found, sampled(flow, obs, few, names, **how))
    return found


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANTED],
)
def test_it_is_caught(gpu: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {file: (FOLDER / f"{file}.cu").read_text() for file in FILES}
    install(monkeypatch, planted(name, read))
    monkeypatch.setattr(primitives, "MOST_BLOCKS", 2)  # a thread has several numbers
    try:
        error = worst(PLANTED[name][0])
    except (KernelError, NonFiniteError) as caught:
        print(caught)
        return
    assert not error < FLOAT64


@pytest.mark.slow
@pytest.mark.parametrize("file", ["persistent", "rows", "learning"])
def test_nothing_is_caught_where_nothing_is_planted(
    gpu: ModuleType, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worst(file) < FLOAT64
