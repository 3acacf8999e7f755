"""Training auxiliary networks: they learn, reproducibly, and continue where they were stopped."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError, NonFiniteError
from qgf_ref.agents import distill
from qgf_ref.agents.registry import AGENTS
from qgf_ref.nets.auxiliary import AUXILIARY
from qgf_ref.training import beside, loop
from qgf_ref.training.beside import TrainedBeside, train_beside
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.run import start
from tests.helpers.some import some
from tests.training.conftest import tiny_config

SMALL: dict[str, Any] = {"updates": 24, "batch": 9, "log_every": 6, "checkpoint_every": 7}


def train_extra(name: str, directory: Path, changes: dict[str, Any]) -> TrainedBeside:
    return train_beside(AGENTS[name], directory, changes)


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    place = tmp_path_factory.mktemp("base") / "run"
    start(tiny_config(data, log_every=100), place)
    return place


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(place: Path, name: str) -> bytes:
    return (place / f"{name}.safetensors").read_bytes() + (place / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("name", some(AUXILIARY, 1))
def test_it_learns(run: Path, name: str) -> None:
    given = {**SMALL, "updates": 120, "learning_rate": 1e-2, "log_every": 20, "batch": 64}
    ended = train_extra(name, run, given)
    assert (ended.updates, ended.signal) == (120, None)
    rows = list(csv.DictReader((run / f"{name}.csv").read_text().splitlines()))
    assert [float(r["update"]) for r in rows] == [20, 40, 60, 80, 100, 120]
    # the data's actions are uniform noise, of which a flow can learn but the mean
    share = {"robust_q": 0.7, "cfgrl": 0.98, "distill": 0.7}[name]
    assert float(rows[-1]["validation_loss"]) < share * float(rows[0]["validation_loss"])
    assert list(qgf_ref.load(run).auxiliary.present()) == [name]
    about = json.loads((run / f"{name}.json").read_text())
    assert about["update"] == 120 and about["config"]["learning_rate"] == 1e-2
    assert "versions" in about["provenance"]


@pytest.mark.parametrize("name", some(AUXILIARY, 1))
def test_reproducible_and_resumed_bit_for_bit(
    run: Path, trained: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_extra(name, run, SMALL)
    again = Path(shutil.copytree(trained, tmp_path / "again"))
    stopped = Path(shutil.copytree(trained, tmp_path / "stopped"))
    train_extra(name, again, SMALL)
    assert content(run, name) == content(again, name)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    train_extra(name, other, {**SMALL, "seed": 3})
    assert content(run, name) != content(other, name)

    class Impatient(loop.StopRequest):
        """Stops after ten updates, between two rows of losses."""

        asked = 0

        def __bool__(self) -> bool:
            Impatient.asked += 1
            if Impatient.asked > 10:
                self.signal = 2
            return self.signal is not None

    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", Impatient)
        ended = train_extra(name, stopped, SMALL)
    assert (ended.updates, ended.signal) == (10, 2)
    assert train_extra(name, stopped, SMALL).updates == 24
    assert content(run, name) == content(stopped, name)
    # longer than planned
    train_extra(name, stopped, {**SMALL, "updates": 30})
    assert train_extra(name, stopped, {**SMALL, "updates": 30}).updates == 30


def test_the_base_stays_as_it_is(run: Path, trained: Path) -> None:
    for name in AUXILIARY:
        train_extra(name, run, {**SMALL, "updates": 2})
    for file in ("model.safetensors", "state.safetensors", "train.json", "config.json"):
        assert (run / file).read_bytes() == (trained / file).read_bytes()


def test_what_each_is_trained_on(config: TrainConfig) -> None:
    """Uniform times for robust_q, the run's grid for cfgrl, the sampler's steps for distill."""
    from qgf_ref.data.datasets import load_transitions
    from qgf_ref.data.tasks import task

    data = load_transitions(Path(str(config.data)), task(config.task))
    config = tiny_config(Path(str(config.data)), batch=500)
    drawn: dict[str, Any] = {}
    for name in AUXILIARY:
        rng, recipe = np.random.default_rng(0), AGENTS[name].require_recipe()
        _, numbers = loop.training_batch(rng, data, 500, recipe, config.hyperparameters())
        drawn[name] = numbers["start" if name == "distill" else "t"]
    assert len(np.unique(drawn["robust_q"])) > 490
    np.testing.assert_allclose(np.unique(drawn["cfgrl"]), [0, 0.25, 0.5, 0.75, 1])
    assert np.unique(drawn["distill"]).tolist() == [0, 1, 2, 3]


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"iql is trained against no other; the run in .* of iql"):
        train_extra("iql", run, SMALL)
    with pytest.raises(InputError, match="holds no training run"):
        train_extra("cfgrl", tmp_path, SMALL)
    train_extra("cfgrl", run, SMALL)
    with pytest.raises(InputError, match=r"was begun with batch 9 \(now 8\).*remove it"):
        train_extra("cfgrl", run, {**SMALL, "batch": 8})
    with pytest.raises(InputError, match="has made 24 updates already"):
        train_extra("cfgrl", run, {**SMALL, "updates": 5})


def test_a_loss_that_is_not_finite(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = distill.distill_loss
    calls = 0

    def poisoned(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        value, bar = real(*args)
        return (float("nan") if calls == 13 else value), bar

    # the sixth update's row asks for one more loss, of the validation data
    monkeypatch.setattr(distill, "distill_loss", poisoned)
    with pytest.raises(NonFiniteError, match=r"update 12: the distill loss.* after update 10 is"):
        train_extra("distill", run, {**SMALL, "checkpoint_every": 5})
    assert qgf_ref.load(run).auxiliary.distill is not None


def test_an_unfinished_run_is_refused(run: Path) -> None:
    """Its networks would change, and every command then refuse what was trained against them."""
    record = json.loads((run / "train.json").read_text())
    record["config"]["updates"] = 30
    (run / "train.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"has made 24 of 30 updates.*qgf-ref train --resume"):
        train_extra("cfgrl", run, SMALL)


def test_another_data_set_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    for file in data.parent.glob("*.npz"):
        shutil.copy(file, tmp_path / file.name)
    copy = tmp_path / data.name
    train_extra("distill", run, {**SMALL, "data": str(copy)})
    arrays = dict(np.load(copy))
    np.savez(copy, **{**arrays, "actions": arrays["actions"] / 2})
    with pytest.raises(InputError, match="is not the data set that the run in"):
        train_extra("robust_q", run, {**SMALL, "data": str(copy)})


def test_a_run_that_evaluated_itself_and_another_t(run: Path) -> None:
    """log_every need not fit the run's evaluations; T is that of config.json, as the sampler's."""
    record = json.loads((run / "train.json").read_text())
    record["config"] |= {"evaluate_every": 100}
    (run / "train.json").write_text(json.dumps(record))
    options = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**options, "denoise_steps": 2}))
    assert train_extra("distill", run, SMALL).updates == 24
    about = json.loads((run / "distill.json").read_text())["config"]
    assert (about["denoise_steps"], about["evaluate_every"]) == (2, 0)


@pytest.mark.parametrize(
    "spoiled", ["{", "[]", '{"update": -1}', '{"update": 1.5}', '{"rows": [3]}', '{"rng": {}}']
)
def test_a_damaged_state(run: Path, spoiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train_extra("cfgrl", run, SMALL)
    read = beside.read_auxiliary

    def damaged(*args: Any) -> Any:
        held = read(*args)
        text = held.metadata["state"]
        if spoiled.startswith("{") and spoiled != "{":
            text = json.dumps(json.loads(text) | json.loads(spoiled))
        else:
            text = spoiled
        return replace(held, metadata={**held.metadata, "state": text})

    monkeypatch.setattr(beside, "read_auxiliary", damaged)
    with pytest.raises(InputError, match=r"cfgrl.safetensors is damaged"):
        train_extra("cfgrl", run, SMALL)
