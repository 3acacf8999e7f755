"""A run that is stopped at any moment and resumed ends in the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgf_ref import InputError, NonFiniteError
from qgf_ref.files import sole_use
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.training import loop
from qgf_ref.training import run as run_module
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.run import resume, start
from qgf_ref.training.state import load_state
from tests.data.synthetic import episodes
from tests.helpers.some import some
from tests.training.conftest import same_run, tiny_config


class Killed(BaseException):
    """Stands for a process that ends here and now."""


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    start(tiny_config(data), directory)
    return directory


@pytest.mark.parametrize("at", some([1, 5, 6, 7, 17, 24], 3))
def test_killed_in_an_update(
    config: TrainConfig,
    uninterrupted: Path,
    tmp_path: Path,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    real = loop.update

    def dies(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", dies)
        with pytest.raises(Killed):
            start(config, tmp_path)
    resume(tmp_path)
    same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("at", some(range(2, 12), 4))
def test_killed_in_any_write(
    config: TrainConfig,
    uninterrupted: Path,
    tmp_path: Path,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the temporary file and its renaming, at the first, second, … file written."""
    calls = 0
    real = Path.replace

    def dies(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == at:
            # a killed process does not clean up
            Path(tmp_path / f".{Path(target).name}.left").write_bytes(self.read_bytes()[:50])
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies)
        with pytest.raises(Killed):
            start(config, tmp_path)
    resume(tmp_path)
    same_run(tmp_path, uninterrupted)
    assert not list(tmp_path.glob(".*.*")), "temporary files are cleaned up"


def test_longer_than_planned(config: TrainConfig, uninterrupted: Path, tmp_path: Path) -> None:
    start(replace(config, updates=13), tmp_path)
    finished = resume(tmp_path, 24)
    same_run(tmp_path, uninterrupted)
    assert finished.config.updates == 24
    record = json.loads((tmp_path / "train.json").read_text())
    spans = [(s["from_update"], s["to_update"]) for s in record["sessions"]]
    assert spans == [(0, 13), (13, 24)]
    resume(tmp_path)  # finished already: changes nothing
    same_run(tmp_path, uninterrupted)
    with pytest.raises(InputError, match="has made 24 updates already"):
        resume(tmp_path, 10)


def test_a_state_that_forgets_something_is_noticed(
    config: TrainConfig, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above can fail: one planted omission at a time."""
    from qgf_ref.training import run as module

    real = module.load_state
    for number, forget in enumerate(
        (
            lambda s: setattr(s, "rng", np.random.default_rng(0)),
            lambda s: s.sums.__imul__(0),
            lambda s: s.train.moments.update(value=AdamState.zero(s.train.networks.value.params)),
            lambda s: s.train.moments.update(policy=replace(s.train.moments["policy"], count=0)),
        )
    ):
        place = tmp_path / str(number)
        start(replace(config, updates=13), place)

        def forgetful(path: Path, config: TrainConfig, forget: object = forget) -> object:
            state = real(path, config)
            forget(state)  # type: ignore[operator]
            return state

        monkeypatch.setattr(module, "load_state", forgetful)
        resume(place, 24)
        with pytest.raises(AssertionError):
            same_run(place, uninterrupted)
        monkeypatch.undo()


def test_ctrl_c_saves(
    config: TrainConfig, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = loop.update

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", interrupted)
        finished = start(config, tmp_path)
    assert (finished.signal, finished.state.update) == (signal.SIGINT, 10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resume(tmp_path).signal is None
    same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("during", ["update", "loss_curves"])
def test_a_second_signal(
    config: TrainConfig,
    uninterrupted: Path,
    tmp_path: Path,
    during: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It interrupts at once, but never the saving that the first one asked for."""
    module = {"update": loop, "loss_curves": run_module}[during]
    real = getattr(module, during)
    calls = 0

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (10 if during == "update" else 2):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, during, interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(config, tmp_path)
    saved = load_state(tmp_path / "state.safetensors", config)
    assert saved.update == (6 if during == "update" else 12)
    resume(tmp_path)
    same_run(tmp_path, uninterrupted)


def test_elsewhere_and_alone(
    config: TrainConfig, data: Path, uninterrupted: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A run started with a relative path goes on from any directory, and its data may move."""
    monkeypatch.chdir(data.parent)
    start(replace(config, data=data.name, updates=13), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "moved"
    copy.mkdir()
    for path in data.parent.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with sole_use(tmp_path / "run" / ".lock", ""), pytest.raises(InputError, match="another proc"):
        resume(tmp_path / "run", 24)
    resume(tmp_path / "run", 24, "moved")
    same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_slices_and_evaluation_resume_too(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "slices"
    place.mkdir()
    for i in range(3):
        np.savez(place / f"part-{i}.npz", **episodes(4, 21, seed=10 + i))
    config = tiny_config(
        place, slice_steps=5, updates=16, log_every=4, evaluate_every=8, evaluate_episodes=1
    )
    start(config, tmp_path / "whole")
    start(replace(config, updates=7), tmp_path / "broken")
    resume(tmp_path / "broken", 9)
    resume(tmp_path / "broken", 16)
    same_run(tmp_path / "broken", tmp_path / "whole")


def test_what_a_run_would_replace_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    start(replace(config, updates=3), tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        start(config, tmp_path / "run")
    (tmp_path / "run" / "train.json").unlink()
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match=r"model\.safetensors.*which a run would replace"):
        start(replace(config, seed=1), tmp_path / "run")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}


def test_parameters_that_overflow_are_not_saved(config: TrainConfig, tmp_path: Path) -> None:
    """A finite loss, and a step that is not: the last good state stays."""
    with pytest.raises(
        NonFiniteError, match=r"update 1: the critic .layers.*Nothing was saved before"
    ):
        start(replace(config, learning_rate=3e38, checkpoint_every=1), tmp_path)
    assert not (tmp_path / "state.safetensors").exists()


def test_another_data_set_is_refused(config: TrainConfig, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / data.name
    copy.write_bytes(data.read_bytes())
    start(replace(config, data=str(copy), updates=3), tmp_path / "run")
    arrays = dict(np.load(copy))
    arrays["actions"] = arrays["actions"] / 2
    np.savez(copy, **arrays)
    with pytest.raises(InputError, match="is not the data set that the run"):
        resume(tmp_path / "run")


def test_damaged_runs(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training run"):
        resume(tmp_path)
    start(replace(config, updates=3), tmp_path)
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        resume(tmp_path)
    state.write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="not a qgf_ref training_state"):
        resume(tmp_path)
    for old, new in ((b'"update":"3"', b'"update":"x"'), (b'\\"PCG64\\"', b'\\"PCG65\\"')):
        assert old in whole
        state.write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match=r"state\.safetensors"):
            resume(tmp_path)
    state.write_bytes(whole)
    record = tmp_path / "train.json"
    text = record.read_text()
    record.write_text(text.replace('"hidden": [\n   6,', '"hidden": [\n   7,'))
    with pytest.raises(InputError, match="holds networks of"):
        resume(tmp_path)
    record.write_text(text[:-20])
    with pytest.raises(InputError, match="not valid JSON"):
        resume(tmp_path)
