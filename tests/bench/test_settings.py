"""What can be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qgf_ref.bench.settings import BenchSettings, Peer, TimedCell, fresh_checkpoint, hidden_of
from qgf_ref.errors import InputError


def test_round_trip() -> None:
    settings = BenchSettings(peers=(Peer("mine", "a:b"),), skip=(("numpy", 64),), threads=(1,))
    assert BenchSettings.from_dict(json.loads(json.dumps(settings.asdict()))) == settings
    assert settings.skips("numpy", 65) and not settings.skips("numpy", 64)


def test_cells_are_all_combinations() -> None:
    settings = BenchSettings(networks=("2x3", "1x4"), batches=(1, 5), estimators=("qgf", "none"))
    cells = list(settings.cells())
    assert len(set(cells)) == len(cells) == 8
    assert cells[1] == TimedCell("qgf", "float32", "2x3", 5)
    assert [c.network for c in BenchSettings(checkpoint="p.pkl", batches=(1,)).cells()] == [
        "checkpoint"
    ]


def test_fresh_networks() -> None:
    ck = fresh_checkpoint(hidden_of("2x7"), 0)
    assert ck.describe()["critic_hidden"] == ck.describe()["policy_hidden"] == [7, 7]
    assert (ck.obs_dim, ck.flat_action_dim, ck.target_critic.ensemble) == (28, 25, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"networks": ("512",)}, "LAYERSxWIDTH"),
        ({"networks": ("0x512",)}, "LAYERSxWIDTH"),
        ({"networks": ("4x99999",)}, "at most 64x16384"),
        ({"batches": (0,)}, "a batch must be from 1"),
        ({"threads": (0,)}, "a number of threads must be from 1"),
        ({"threads": (9999,)}, "a number of threads must be from 1"),
        ({"rounds": 0}, "a number of rounds must be from 1"),
        ({"dtypes": ("float16",)}, "float32, float64"),
        ({"estimators": ("qfg",)}, "unknown estimator 'qfg'"),
        ({"weight": -1.0}, "finite number ≥ 0"),
        ({"weight": float("nan")}, "finite number ≥ 0"),
        ({"denoise_steps": 0}, "denoise_steps must be from 1"),
        ({"peers": (Peer("numba", "a:b"),)}, "same name"),
    ],
)
def test_bad_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchSettings(**given)
