"""Trackers get what our own files hold, and cost nothing when they fail."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qgf_ref import InputError, tracking
from qgf_ref.plotting import new_figure, png
from qgf_ref.tracking import Start, Tracking


def test_names_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown tracker 'mlflow'; .*: tensorboard, wandb"):
        Tracking(["mlflow"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'wandb is not installed: pip install "qgf_ref\[wandb\]"'):
        Tracking(["wandb"])


@pytest.mark.usefixtures("draws")
def test_what_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    sent = Tracking(["tensorboard", "tensorboard"])
    assert sent.names == ("tensorboard",)
    pytest.importorskip("matplotlib")
    with sent.run(tmp_path, {"seed": 1}, Start("then")):
        sent.scalars({"policy": 0.5, "critic": math.nan, "method": "bc"}, 7)
        sent.picture("figure", png(new_figure(2, 1)))
    (file,) = (tmp_path / "tensorboard").iterdir()
    stream, events = io.BytesIO(file.read_bytes()), []
    while head := stream.read(12):  # TFRecord: length, its checksum, data, its checksum
        events.append(Event.FromString(stream.read(int.from_bytes(head[:8], "little"))))
        stream.read(4)
    values = {v.tag: (e.step, v) for e in events for v in e.summary.value}
    assert set(values) == {"config/text_summary", "policy", "figure"}
    assert values["policy"][0] == 7 and values["policy"][1].simple_value == 0.5
    assert values["figure"][1].image.width == 260


def wandb(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Any]:
    """A stand-in; what it is told."""
    told: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step=None: told.append((values, step)),
        finish=lambda: told.append("finish"),
    )
    module: Any = ModuleType("wandb")
    module.Settings = module.Image = lambda *given, **named: (given, named)

    def init(**given: Any) -> Any:
        told.append(given)
        return run

    module.init = init
    vars(module).update(changes)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    return told


def test_wandb_goes_on_with_a_resumed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = wandb(monkeypatch)
    for start in (Start("then"), Start("then", 4), Start("now"), Start("then", 0, "cfgrl")):
        with Tracking(["wandb"]).run(tmp_path, {"seed": 1}, start) as sent:
            sent.scalars({"policy": 0.5}, 7)
    assert told[1:3] == [({"policy": 0.5}, 7), "finish"]
    ids = [given["id"] for given in told[::3]]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert {given["resume"] for given in told[::3]} == {"allow"}


def test_a_tracker_that_fails_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = wandb(monkeypatch)

    def broken(**given: Any) -> Any:
        raise RuntimeError("no-tty: call wandb login")

    with Tracking(["wandb"]).run(tmp_path, {}, Start()) as sent:
        del told[:]
        sent._open["wandb"]._run.log = lambda *_, **__: 1 / 0  # type: ignore[attr-defined]
        sent.scalars({"policy": 0.5}, 1)
        sent.scalars({"policy": 0.5}, 2)
    assert capsys.readouterr().err == "--track wandb: division by zero; going on without\n"
    wandb(monkeypatch, init=broken)
    with (
        pytest.raises(InputError, match="--track wandb: it cannot start: no-tty: call wandb login"),
        Tracking(["wandb"]).run(tmp_path, {}, Start()),
    ):
        pass
