"""Methods with an auxiliary network: their weights, their records, and without the network."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method, parse_methods
from qgf_ref.evaluation.protocol import evaluate
from qgf_ref.evaluation.records import FILE, Unit, digest
from qgf_ref.evaluation.settings import Settings
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS
from tests.conftest import small_auxiliary
from tests.evaluation.fakes import LineTask, line_checkpoint

NAMES = ("robust_q", "qgf_distill", "qgf_jacobian_distill", "cfgrl")


def settings(*names: str, selection_episodes: int = 1) -> Settings:
    methods = parse_methods(names)
    return Settings(methods, (0.1, 1.0), selection_episodes, episodes=2, envs=2)


def test_all_of_them_and_their_best_of_n() -> None:
    wanted = settings("bc", *NAMES, *(f"{name}+bfn-2" for name in NAMES))
    found = evaluate([line_checkpoint()], LineTask(), wanted)
    assert [c.method.label for c in found.held_out] == [m.label for m in wanted.methods]
    for cell in found.held_out:
        tried = [c.weight for c in found.curve(cell.method)]
        own = cell.method.estimator == "cfgrl"
        expected = [1, 2, 3, 5, 10, 15] if own else [0.1, 1.0] if cell.method.weighted else [None]
        assert tried == expected
        assert cell.weight in expected
    described = wanted.describe()
    assert described["own_weights"]["cfgrl"] == (1, 2, 3, 5, 10, 15)
    assert "own_weights" not in settings("bc", "qgf").describe()


def test_weights_of_its_own_are_enough() -> None:
    alone = Settings(parse_methods(["bc", "cfgrl"]), ())
    assert alone.selects
    assert alone.weights_of(Method("cfgrl")) == (1, 2, 3, 5, 10, 15)
    assert alone.weights_of(Method()) == ()
    with pytest.raises(InputError, match="to choose among 6 weights"):
        settings("cfgrl", selection_episodes=0)
    with pytest.raises(InputError, match="at least one weight"):
        Settings(parse_methods(["cfgrl", "qgf"]), ())


def test_workers_get_the_networks() -> None:
    """A worker's checkpoint is a pickled one."""
    ck = line_checkpoint()
    sent = pickle.loads(pickle.dumps(ck))  # noqa: S301  (our own bytes)
    one, two = (evaluate([c], LineTask(), settings("cfgrl", "robust_q")) for c in (ck, sent))
    assert [c.episodes for c in one.held_out] == [c.episodes for c in two.held_out]


def test_an_evaluation_goes_on_when_a_network_was_trained_since(tmp_path: Path) -> None:
    ck = line_checkpoint()
    bare = replace(ck, auxiliary=NO_AUXILIARY_PARAMS)
    assert digest(bare) == digest(ck)
    evaluate([bare], LineTask(), settings("bc"), directory=tmp_path)
    with pytest.raises(InputError, match="memory: robust_q needs the auxiliary network robust_q"):
        evaluate([bare], LineTask(), settings("bc", "robust_q"), directory=tmp_path)
    evaluate([ck], LineTask(), settings("bc", "robust_q"), directory=tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines()
    # the same again: nothing is played; a network trained anew: its groups are
    evaluate([ck], LineTask(), settings("bc", "robust_q"), directory=tmp_path)
    assert (tmp_path / FILE).read_text().splitlines() == lines
    anew = replace(ck, auxiliary=small_auxiliary(7, 5, 3).astype("float32"))
    evaluate([anew], LineTask(), settings("bc", "robust_q"), directory=tmp_path)
    added = (tmp_path / FILE).read_text().splitlines()[len(lines) :]
    assert added and all("robust_q [" in line for line in added)


def test_keys_without_a_network_are_as_they_were() -> None:
    unit = Unit(0, Method("qgf"), 0.1, "held-out", (5, 6))
    assert unit.key == "checkpoint 0: qgf w=0.1, seeds 5+2"
    assert replace(unit, network="ab").key == "checkpoint 0: qgf [ab] w=0.1, seeds 5+2"
