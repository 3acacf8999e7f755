"""A run against a plain loop over the losses, and the files that it leaves."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError, NonFiniteError
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.backends.engine import backend_named
from qgf_ref.data.datasets import load_transitions
from qgf_ref.data.tasks import task
from qgf_ref.data.windows import windows
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.tracking import TRACKERS, Start, Tracking
from qgf_ref.training.config import TrainConfig
from qgf_ref.training.run import resume, start
from qgf_ref.training.state import initial_state
from tests.data.synthetic import TASK, episodes, write_dataset
from tests.training.conftest import same_run, tiny_config


def read_metrics(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_against_a_plain_loop(config: TrainConfig, tmp_path: Path, backend: Any) -> None:
    config = replace(config, backend=backend)
    finished = start(config, tmp_path / "run")
    data = load_transitions(Path(str(config.data)), task(TASK))
    rng = initial_state(config, 2, 2).rng
    checkpoint = initial_state(config, 2, 2).checkpoint(config)
    nets = checkpoint.networks(embedding="float32", kernels=backend_named(backend).kernels())
    state = TrainState.create(RECIPE, nets)
    history = []
    for _ in range(config.updates):
        starts = rng.integers(0, len(data) - 2, size=7)
        batch = windows(data, starts, 3, 0.99).astype(np.float32)
        x0 = rng.standard_normal((7, 6)).astype(np.float32)
        t = (rng.integers(0, 5, size=7) / 4).astype(np.float32)
        drawn = {"x0": x0, "t": t}
        state, found = update(RECIPE, state, batch, drawn, config.hyperparameters())
        history.append(list(found.values.values()))
    trained = qgf_ref.load(tmp_path / "run", dtype="float32")
    for name in ("policy", "critic", "target_critic", "value"):
        expected = getattr(state.networks, name).params.arrays()
        for ours, theirs in zip(getattr(trained, name).arrays(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert trained.options == config.options()
    rows = read_metrics(tmp_path / "run")
    assert [int(row["update"]) for row in rows] == [4, 8, 12, 16, 20, 24]
    means = np.array(history, dtype=np.float64).reshape(6, 4, 3).mean(axis=1)
    logged = [[float(row[name]) for name in ("policy", "critic", "value")] for row in rows]
    np.testing.assert_allclose(logged, means, rtol=1e-12)
    assert finished.signal is None and finished.state.update == 24


def test_validation_losses(config: TrainConfig, tmp_path: Path) -> None:
    from qgf_ref.training.loop import ValidationSet

    held = load_transitions(
        Path(str(config.data)).with_name(f"{Path(str(config.data)).stem}-val.npz"), task(TASK)
    )
    finished = start(config, tmp_path)
    fixed = ValidationSet.draw(held, RECIPE, config.hyperparameters())
    nets = finished.state.train.networks
    found = losses(RECIPE, nets, fixed.batch, fixed.drawn, config.hyperparameters())
    row = finished.state.metrics[-1]
    assert {name: row[f"validation_{name}"] for name in found.values} == found.values
    q, _ = nets.target_critic.forward(fixed.batch.obs, fixed.batch.action)
    assert row["validation_q"] == float(q.min(axis=0).mean())


def test_files_and_record(config: TrainConfig, tmp_path: Path, draws: None) -> None:
    config = replace(config, checkpoint_every=24)  # one picture
    start(config, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == [
        "config.json", "losses.png", "metrics.csv", "model.safetensors", "state.safetensors",
        "train.json",
    ]  # fmt: skip
    record = json.loads((tmp_path / "train.json").read_text())
    assert TrainConfig.from_json(record["config"], "f") == config.with_threads()
    assert record["transitions"] == 6 * 40
    assert [f["name"] for f in record["dataset"]] == [
        "pointmaze-medium-navigate-v0.npz",
        "pointmaze-medium-navigate-v0-val.npz",
    ]
    session = record["sessions"][0]
    assert (session["from_update"], session["to_update"]) == (0, 24)
    assert session["provenance"]["versions"]["numpy"] == np.__version__
    with pytest.raises(InputError, match=r"already holds a run.*--resume"):
        start(config, tmp_path)


def test_a_tracker_gets_the_metrics(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def opened(directory: Path, settings: Any, begun: Start) -> Any:
        sent.append(begun)
        return SimpleNamespace(scalars=lambda *row: sent.append(row), close=lambda: None)

    monkeypatch.setitem(TRACKERS, "list", ("json", opened))
    rows = start(config, tmp_path, Tracking(["list"])).state.metrics
    begun, *steps = sent
    assert steps == [({k: v for k, v in r.items() if k != "update"}, r["update"]) for r in rows]
    resume(tmp_path, 28, tracking=Tracking(["list"]))
    assert sent[-2] == Start(begun.identity, 24) and sent[-1][1] == 28


def test_the_seed_decides_and_the_rest_of_the_machine_does_not(
    config: TrainConfig, tmp_path: Path
) -> None:
    start(config, tmp_path / "a")
    np.random.seed(5)  # noqa: NPY002  (a run must not depend on it)
    start(config, tmp_path / "b")
    same_run(tmp_path / "a", tmp_path / "b")
    other = start(replace(config, seed=1), tmp_path / "c").state
    assert other.metrics != []
    assert (tmp_path / "a" / "metrics.csv").read_bytes() != (
        tmp_path / "c" / "metrics.csv"
    ).read_bytes()


def test_uniform_flow_times(data: Path, tmp_path: Path) -> None:
    from qgf_ref.training.loop import training_batch

    config = tiny_config(data, batch=4000, flow_times="uniform")
    loaded = load_transitions(data, task(TASK))

    def times(config: TrainConfig) -> Any:
        rng, hyper = np.random.default_rng(0), config.hyperparameters()
        return training_batch(rng, loaded, config.batch, RECIPE, hyper)[1]["t"]

    t = times(config)
    assert t.dtype == np.float32 and len(np.unique(t)) > 3900
    t = times(replace(config, flow_times="grid"))
    np.testing.assert_allclose(np.unique(t), [0, 0.25, 0.5, 0.75, 1])


def test_without_a_validation_file(tmp_path: Path) -> None:
    path = write_dataset(tmp_path)
    (tmp_path / f"{path.stem}-val.npz").unlink()
    finished = start(tiny_config(path), tmp_path / "run")
    assert set(finished.state.metrics[-1]) == {"update", "policy", "critic", "value"}


@pytest.mark.parametrize("network", ["policy", "critic", "value"])
def test_a_loss_that_is_not_finite_names_update_and_network(
    config: TrainConfig, tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qgf_ref.agents import critics, iql

    calls = 0
    module, name = {
        "policy": (iql, "velocity_regression"),
        "critic": (critics, "critic_loss"),
        "value": (critics, "value_regression"),
    }[network]
    whole = getattr(module, name)

    def poisoned(*args: Any) -> object:
        nonlocal calls
        observations = next(a for a in args if isinstance(a, np.ndarray))
        calls += len(observations) == config.batch  # not those of the validation set
        loss, bar = whole(*args)
        return (float("nan") if calls == 9 else loss), bar

    monkeypatch.setattr(module, name, poisoned)
    with pytest.raises(NonFiniteError, match=f"update 9: the {network} loss .* after update 6"):
        start(config, tmp_path)
    assert qgf_ref.load(tmp_path).obs_dim == 2
    assert [row["update"] for row in read_metrics(tmp_path)] == ["4", "8"]


def test_slices_serve_in_turn(tmp_path: Path) -> None:
    """A directory of slices trains as the slices' data do, swapped as the official loader does."""
    place = tmp_path / "slices"
    place.mkdir()
    for i in range(3):
        np.savez(place / f"part-{i}.npz", **episodes(4, 21, seed=10 + i))
    config = tiny_config(place, slice_steps=5, updates=14, log_every=1)
    finished = start(config, tmp_path / "run")
    one = sum(a.nbytes for a in vars(load_transitions(place / "part-0.npz", task(TASK))).values())
    assert one < finished.peak_data_bytes <= 2 * one
    slices = [load_transitions(place / f"part-{i}.npz", task(TASK)) for i in range(3)]
    state = initial_state(config, 2, 2)
    from qgf_ref.training.loop import training_batch

    for n in range(1, 15):
        hyper = config.hyperparameters()
        batch, drawn = training_batch(state.rng, slices[n // 5], config.batch, RECIPE, hyper)
        state.train, found = update(RECIPE, state.train, batch, drawn, hyper)
        assert finished.state.metrics[n - 1]["critic"] == found.values["critic"]


def test_bad_data_loses_nothing(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set at"):
        start(replace(config, data=str(tmp_path / "none.npz")), tmp_path / "run")
    with pytest.raises(InputError, match="cube-single-play-v0"):
        start(replace(config, task="cube-single-play-singletask-task1-v0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_periodic_evaluation_leaves_the_run_as_it_is(
    data: Path, tmp_path: Path, short_episodes: None
) -> None:
    config = tiny_config(data, updates=8, denoise_steps=2)
    start(config, tmp_path / "plain")
    start(replace(config, evaluate_every=8, evaluate_episodes=1), tmp_path / "evaluated")
    model = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "evaluated")]
    assert model[0] == model[1]
    rows = read_metrics(tmp_path / "evaluated")
    assert rows[0]["success_qgf"] == ""
    assert all(0 <= float(rows[1][f"success_{m}"]) <= 1 for m in ("bc", "qgf"))


def test_a_log_file_gets_lines(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(config, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("update 24  policy ")
    assert lines[-1].endswith("updates/s")


@pytest.mark.slow
def test_every_setting_reaches_the_update(data: Path, tmp_path: Path) -> None:
    """Each one changed alone gives another run; the loop's own numbers are not consulted."""
    config = tiny_config(data, updates=4, log_every=4)
    start(config, tmp_path / "standard")
    standard = (tmp_path / "standard" / "state.safetensors").read_bytes()
    changed: dict[str, Any] = {
        "discount": 0.7, "expectile": 0.6, "tau": 0.1, "learning_rate": 1e-3, "seed": 4,
        "q_aggregation": "mean", "activation": "relu", "flow_times": "uniform",
        "denoise_steps": 3, "batch": 8, "ensemble": 3, "hidden": (6, 6), "horizon_length": 2,
        "masks": "official-100m", "action_clip_eps": 0.5,
    }  # fmt: skip
    for name, value in changed.items():
        start(replace(config, **{name: value}), tmp_path / name)
        assert (tmp_path / name / "state.safetensors").read_bytes() != standard, name


def test_hyperparameters_are_the_settings() -> None:
    config = TrainConfig(discount=0.7, horizon_length=3, expectile=0.6, tau=0.1, learning_rate=1e-3)
    assert config.hyperparameters() == Hyperparameters(0.7, 3, 0.6, 0.1, 1e-3)


def test_periodic_evaluation_guides_with_its_weight(
    data: Path, monkeypatch: pytest.MonkeyPatch, short_episodes: None
) -> None:
    from qgf_ref.training import periodic

    asked = []
    real = periodic.success_rate

    def noted(
        checkpoint: Any, problem: Any, method: Any, weight: Any, *args: Any, **more: Any
    ) -> Any:
        asked.append((method, weight))
        return real(checkpoint, problem, method, weight, *args, **more)

    monkeypatch.setattr(periodic, "success_rate", noted)
    config = tiny_config(
        data, evaluate_every=8, evaluate_episodes=1, evaluate_weight=0.7, denoise_steps=1
    )
    with periodic.evaluator(config, task(TASK)) as evaluate:
        assert evaluate is not None
        evaluate(initial_state(config, 2, 2))
    assert asked == [("none", None), ("qgf", 0.7)]


def test_the_number_of_threads_changes_no_bit(config: TrainConfig, tmp_path: Path) -> None:
    for threads in (1, 2, 3):
        start(replace(config, threads=threads), tmp_path / str(threads))
    same_run(tmp_path / "1", tmp_path / "2")
    same_run(tmp_path / "1", tmp_path / "3")


def test_the_backends_agree(config: TrainConfig, tmp_path: Path) -> None:
    """Losses in 24 updates."""
    backends: tuple[Any, ...] = ("numpy", "numba")
    runs = [start(replace(config, backend=b), tmp_path / b).state.metrics for b in backends]
    for one, other in zip(*runs, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=4e-6)
