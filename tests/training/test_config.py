"""The configuration: types, ranges, JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from qgf_ref import InputError
from qgf_ref.threads import available_cores
from qgf_ref.training.config import TrainConfig, preset


def test_json_round_trip() -> None:
    config = TrainConfig(task="t", hidden=(3, 4), data="somewhere", discount=1)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json())), "f") == config
    assert config.discount == 1.0 and type(config.discount) is float


def test_presets() -> None:
    small, paper = preset("small"), preset("paper")
    assert (small.hidden, small.batch, small.discount) == ((256,) * 3, 256, 0.99)
    assert (paper.hidden, paper.batch, paper.discount) == ((1024,) * 4, 1024, 0.999)
    assert (paper.denoise_steps, paper.horizon_length, paper.expectile) == (10, 5, 0.9)
    with pytest.raises(InputError, match="paper, small"):
        preset("large")


def test_every_setting_has_a_help_text() -> None:
    assert all(f.metadata["help"] for f in fields(TrainConfig))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 2.5}, "batch must be of type int"),
        ({"batch": True}, "batch must be of type int"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"hidden": ()}, "hidden must be one or more widths"),
        ({"hidden": 256}, "hidden must be a list of integers"),
        ({"hidden": (3, "4")}, "hidden must be of type int"),
        ({"discount": 1.1}, r"discount must lie in \[0, 1\]"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"learning_rate": -1e-3}, "learning_rate must be ≥ 0"),
        ({"flow_times": "sometimes"}, "valid ones are: grid, uniform"),
        ({"masks": "x"}, "valid ones are: official-100m, relabelled"),
        ({"activation": "gleu"}, "unknown activation"),
        ({"q_aggregation": "median"}, "unknown"),
        ({"denoise_steps": 0}, "denoise_steps must be"),
        ({"horizon_length": 0}, "horizon_length must be"),
        ({"action_clip_eps": 1.0}, "action_clip_eps"),
        ({"evaluate_every": 1500}, "multiple of log_every"),
        ({"data": 3}, "data must be of type str"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**changes)


def test_bad_json() -> None:
    with pytest.raises(InputError, match=r"unknown setting in f 'bacth'; .* batch,"):
        TrainConfig.from_json({"bacth": 3}, "f")
    with pytest.raises(InputError, match="must be a JSON object"):
        TrainConfig.from_json([], "f")


def test_threads_by_argument_variable_or_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGF_REF_THREADS", raising=False)
    assert TrainConfig(threads=3).with_threads().threads == 3
    assert TrainConfig(backend="numpy").with_threads().threads == 1
    assert TrainConfig().with_threads().threads == available_cores()
    monkeypatch.setenv("QGF_REF_THREADS", "5")
    assert TrainConfig(backend="numpy").with_threads().threads == 5
    assert TrainConfig().with_threads().threads == 5
