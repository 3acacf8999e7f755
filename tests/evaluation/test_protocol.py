"""Weights are chosen on one set of episodes and reported on another; runs go on where they were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method, parse_method, parse_methods
from qgf_ref.evaluation.protocol import Cell, best, evaluate, selection, success_rate
from qgf_ref.evaluation.records import FILE
from qgf_ref.evaluation.rollouts import Episode, Simulator
from qgf_ref.evaluation.settings import HELD_OUT, SELECTION, Settings
from qgf_ref.guidance.base import DenoisingStep, GuidedFlow
from qgf_ref.threads import VARIABLE, thread_count
from tests.evaluation.fakes import LineTask, line_checkpoint

QGF = Method("qgf")


def forward(flow: GuidedFlow, step: DenoisingStep) -> Any:
    """Guidance to the right: on the line, the more the better."""
    return np.ones_like(step.action)


FORWARD = Method("tests.evaluation.test_protocol:forward")


def settings(**changes: Any) -> Settings:
    standard = {
        "methods": (Method(), FORWARD, Method("qgf")),
        "weights": (0.001, 0.1, 10.0),
        "selection_episodes": 6,
        "episodes": 7,
        "envs": 4,
    }
    return Settings(**{**standard, **changes})


def cell(weight: float, wins: int, reward: float) -> Cell:
    episodes = tuple(
        Episode(s, s < wins, reward, 5, True, (0,), (0.0,), (0.0,), (0.0,)) for s in range(10)
    )
    return Cell(QGF, weight, SELECTION, (episodes,), 0.0, 0.0)


def test_selection_prefers_success_then_return_then_small_weights() -> None:
    assert best([cell(0.1, 5, -9), cell(0.2, 6, -99), cell(0.3, 4, 0)]).weight == 0.2
    assert best([cell(0.1, 6, -9), cell(0.2, 6, -8), cell(0.3, 6, -10)]).weight == 0.2
    assert best([cell(0.3, 6, -8), cell(0.2, 6, -8), cell(0.4, 6, -8)]).weight == 0.2


def test_selection_alone(tmp_path: Path) -> None:
    """The cells that the whole protocol chooses on, and nothing held out, from the same records."""
    checkpoints = [line_checkpoint(0), line_checkpoint(1)]
    whole = evaluate(checkpoints, LineTask(), settings(), directory=tmp_path)
    before = (tmp_path / FILE).read_bytes()
    alone = selection(checkpoints, LineTask(), settings(), directory=tmp_path)

    def played(cells: Any) -> list[Any]:  # what it took is rounded where it is kept
        return [(c.method, c.weight, c.split, c.by_checkpoint) for c in cells]

    assert played(alone) == played(whole.selection)
    assert {c.split for c in alone} == {SELECTION}
    assert (tmp_path / FILE).read_bytes() == before, "nothing was played again, or more"


def test_protocol() -> None:
    checkpoints = [line_checkpoint(0), line_checkpoint(1)]
    found = evaluate(checkpoints, LineTask(), settings())
    assert [(c.method, c.split) for c in found.held_out] == [
        (m, HELD_OUT) for m in settings().methods
    ]
    assert len(found.selection) == 1 + 2 * 3
    for c in found.held_out:
        assert [[e.seed for e in each] for each in c.by_checkpoint] == [
            list(range(100_000, 100_007))
        ] * 2
    for c in found.selection:
        assert [e.seed for e in c.episodes] == [*range(6), *range(6)]
    # the planted optimum: with w = 10 every action is +1
    held = {c.method: c for c in found.held_out}
    assert held[FORWARD].weight == 10.0
    assert held[FORWARD].success.value == 1.0
    assert all(e.length <= 4 for e in held[FORWARD].episodes)
    for method in (FORWARD, QGF):
        curve = found.curve(method)
        assert [c.weight for c in curve] == [0.001, 0.1, 10.0]
        assert held[method].weight == best(curve).weight
        assert found.optimistic(method) == max(c.success.value for c in curve)
    assert found.optimistic(Method()) is None


def test_two_workers_give_the_same_evaluation() -> None:
    one = evaluate([line_checkpoint()], LineTask(), settings())
    two = evaluate([line_checkpoint()], LineTask(), settings(workers=2))

    def episodes(found: Any) -> list[Any]:
        return [(c.weight, c.episodes) for c in (*found.selection, *found.held_out)]

    assert episodes(one) == episodes(two)


def test_one_weight_needs_no_selection() -> None:
    found = evaluate([line_checkpoint()], LineTask(), settings(weights=(0.1,)))
    assert found.selection == ()
    assert [c.weight for c in found.held_out] == [None, 0.1, 0.1]
    assert found.optimistic(QGF) is None


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    wanted = settings(methods=(Method(), FORWARD), weights=(1.0, 10.0), envs=2)
    with pytest.raises(KeyboardInterrupt):
        # seed 3 interrupts; the group of seeds 0 and 1 is finished by then
        evaluate([line_checkpoint()], LineTask(kind="interrupts"), wanted, directory=tmp_path)
    kept = (tmp_path / FILE).read_bytes()
    assert kept.count(b"\n") == 2
    found = evaluate([line_checkpoint()], LineTask(), wanted, directory=tmp_path)
    assert (tmp_path / FILE).read_bytes().startswith(kept)
    fresh = evaluate([line_checkpoint()], LineTask(), wanted)
    assert [c.episodes for c in found.held_out] == [c.episodes for c in fresh.held_out]
    # everything is there: a task that cannot play (seed 3 ends it) is not asked to
    again = evaluate([line_checkpoint()], LineTask(kind="raises"), wanted, directory=tmp_path)
    assert [c.episodes for c in again.held_out] == [c.episodes for c in fresh.held_out]


def test_other_checkpoints_are_not_mixed_in(tmp_path: Path) -> None:
    wanted = settings(methods=(Method(),), episodes=2)
    evaluate([line_checkpoint(0)], LineTask(), wanted, directory=tmp_path)
    with pytest.raises(InputError, match=r"other checkpoints.*--overwrite"):
        evaluate([line_checkpoint(1)], LineTask(), wanted, directory=tmp_path)
    evaluate([line_checkpoint(1)], LineTask(), wanted, directory=tmp_path, overwrite=True)


def test_both_backends_give_the_same_evaluation() -> None:
    wanted = {"methods": (Method(), Method("qgf"), Method("qgf", 4)), "weights": (0.1,)}
    found = [
        evaluate([line_checkpoint()], LineTask(), settings(backend=backend, **wanted))
        for backend in ("numpy", "numba")
    ]
    for reference, compiled in zip(*(f.held_out for f in found), strict=True):
        for a, b in zip(reference.episodes, compiled.episodes, strict=True):
            assert (a.seed, a.success, a.length, a.steps) == (b.seed, b.success, b.length, b.steps)
            np.testing.assert_allclose(a.q, b.q, rtol=0, atol=1e-5)  # float32: measured 1.1e-6
    described = [f.settings.describe() for f in found]
    assert [d["backend"] for d in described] == ["numpy", "numba"]
    assert [d["threads"] for d in described] == [None, thread_count()]


@pytest.mark.slow
def test_workers_with_the_compiled_sampler() -> None:
    wanted = {"methods": (Method("qgf"),), "weights": (0.1,), "backend": "numba"}
    one = evaluate([line_checkpoint()], LineTask(), settings(**wanted, threads=2))
    two = evaluate([line_checkpoint()], LineTask(), settings(**wanted, workers=2))
    assert one.held_out[0].episodes == two.held_out[0].episodes


def test_threads_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert settings(workers=2).engine.threads is None
    assert settings(backend="numba", workers=2).engine.threads == 1
    assert settings(backend="numba").engine.threads == thread_count()
    assert settings(backend="numba", workers=2, threads=3).engine.threads == 3
    monkeypatch.setenv(VARIABLE, "5")
    assert settings(backend="numba", workers=2).engine.threads == 5


def test_backends_are_not_mixed(tmp_path: Path) -> None:
    wanted = {"methods": (Method(),), "episodes": 2}
    evaluate([line_checkpoint()], LineTask(), settings(**wanted), directory=tmp_path)
    numba = settings(**wanted, backend="numba")
    with pytest.raises(InputError, match=r"another backend \(numpy there, numba here\)"):
        evaluate([line_checkpoint()], LineTask(), numba, directory=tmp_path)
    evaluate([line_checkpoint()], LineTask(), numba, directory=tmp_path, overwrite=True)
    # the number of threads decides no number
    more = settings(**wanted, backend="numba", threads=2)
    evaluate([line_checkpoint()], LineTask(kind="raises"), more, directory=tmp_path)
    with pytest.raises(InputError, match=r"another backend \(numba there, numpy here\)"):
        evaluate([line_checkpoint()], LineTask(), settings(**wanted), directory=tmp_path)


def test_success_rate_for_a_training_loop() -> None:
    task = LineTask()
    with Simulator(task, 4) as simulator:
        rate = success_rate(line_checkpoint(), task, FORWARD, 10.0, range(9), simulator=simulator)
        assert rate.success.value == 1.0
        assert [e.seed for e in rate.episodes] == list(range(9))
        again = success_rate(line_checkpoint(), task, "bc", seeds=range(4), simulator=simulator)
    assert again.episodes == success_rate(line_checkpoint(), task, "bc", seeds=range(4)).episodes
    compiled = success_rate(
        line_checkpoint(), task, FORWARD, 10.0, range(9), backend="numba", threads=1
    )
    assert [e.success for e in compiled.episodes] == [e.success for e in rate.episodes]
    with pytest.raises(InputError, match="needs a guidance weight"):
        success_rate(line_checkpoint(), task, "qgf", seeds=range(4))
    with pytest.raises(InputError, match="at least one episode"):
        success_rate(line_checkpoint(), task, "bc", seeds=[])


def test_a_real_task() -> None:
    from dataclasses import replace

    from tests.conftest import small_checkpoint

    ck = small_checkpoint(obs_dim=2, action_dim=40, dtype="float32")
    ck = replace(ck, options=replace(ck.options, horizon_length=20))
    task = "pointmaze-medium-navigate-singletask-task1-v0"
    first, again = (
        success_rate(ck, task, "qgf", 0.1, seeds, envs=2) for seeds in (range(2), range(2))
    )
    assert first.episodes == again.episodes
    assert {e.length for e in first.episodes} <= set(range(1, 1001))
    assert len({e.q[0] for e in first.episodes}) == 2
    with pytest.raises(InputError, match="observations of 2 and gives actions of 4"):
        success_rate(small_checkpoint(obs_dim=2, action_dim=4), task, "bc", seeds=range(1), envs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "episodes must be ≥ 1, got 0"),
        ({"workers": 0}, "workers must be ≥ 1"),
        ({"envs": 0}, "envs must be ≥ 1"),
        ({"seed": -1}, "seed must be ≥ 0"),
        ({"selection_episodes": 0}, "to choose among 3 weights"),
        ({"selection_episodes": 100_001}, "to choose among"),
        ({"weights": (0.1, -1.0)}, "≥ 0, got -1.0"),
        ({"weights": (float("nan"),)}, "finite and ≥ 0, got nan"),
        ({"weights": (0.1, 0.1)}, "given twice"),
        ({"weights": ()}, "at least one weight"),
        ({"methods": ()}, "no method"),
        ({"backend": "jax"}, "unknown backend 'jax'.*numba, numpy"),
        ({"threads": 2}, "threads=2 is for backend numba"),
        ({"backend": "numba", "threads": 0}, "threads must be a whole number from 1"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_no_selection_episodes_are_needed_without_weights() -> None:
    assert not settings(methods=parse_methods(["bc"]), weights=(), selection_episodes=0).selects
    with pytest.raises(InputError, match="no checkpoint"):
        evaluate([], LineTask(), settings())


def test_seeds_of_splits_never_meet() -> None:
    settings = Settings(episodes=3, selection_episodes=2, seed=2)
    assert list(settings.seeds(SELECTION)) == [2_000_000, 2_000_001]
    assert list(settings.seeds(HELD_OUT)) == [2_100_000, 2_100_001, 2_100_002]


def test_one_checkpoint_does_not_pass_for_two_seeds() -> None:
    with pytest.raises(InputError, match="the same checkpoint is given twice"):
        evaluate([line_checkpoint(), line_checkpoint()], LineTask())


def test_records_notice_another_estimator_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "own_estimator.py"
    text = "def guide(flow, step):\n    return {} * step.action\n"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    settings = Settings((parse_method_of(module, text.format(1)),), (0.1,), episodes=1)
    evaluate([line_checkpoint()], LineTask(), settings, directory=tmp_path)
    del sys.modules["own_estimator"]
    settings = Settings((parse_method_of(module, text.format(-1)),), (0.1,), episodes=1)
    with pytest.raises(InputError, match="another code"):
        evaluate([line_checkpoint()], LineTask(), settings, directory=tmp_path)
    del sys.modules["own_estimator"]


def parse_method_of(module: Path, text: str) -> Method:
    module.write_text(text)
    return parse_method(f"{module.stem}:guide")
