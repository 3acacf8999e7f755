"""A small data set and settings that train in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qgf_ref.training.config import TrainConfig
from tests.data.synthetic import TASK, write_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), count=6, steps=41)


@pytest.fixture
def config(data: Path) -> TrainConfig:
    return tiny_config(data)


def tiny_config(data: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "task": TASK, "data": str(data), "updates": 24, "batch": 7, "hidden": (6, 5),
        "horizon_length": 3, "denoise_steps": 4, "log_every": 4, "checkpoint_every": 6,
    } | changes  # fmt: skip
    return TrainConfig(**settings)


def same_run(one: Path, other: Path) -> None:
    """Every deterministic file of two runs has the same bytes."""
    for name in ("model.safetensors", "state.safetensors", "metrics.csv", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
