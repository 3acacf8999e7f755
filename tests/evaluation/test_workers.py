"""Any number of processes gives the same records; a dead one gives an error, never a hang."""

from __future__ import annotations

import pytest

from qgf_ref.evaluation.methods import parse_method
from qgf_ref.evaluation.records import Unit
from qgf_ref.evaluation.workers import RolloutSetup, workers
from qgf_ref.processes import WorkerError
from tests.evaluation.fakes import LineTask, line_checkpoint


def stage(kind: str = "") -> RolloutSetup:
    return RolloutSetup((line_checkpoint(0), line_checkpoint(1)), LineTask(kind=kind), 4)


def units(seeds: int = 8) -> list[Unit]:
    return [
        Unit(c, parse_method(name), weight, "held-out", tuple(range(start, start + 4)))
        for c in range(2)
        for name, weight in (("bc", None), ("qgf+bfn-2", 0.1))
        for start in range(0, seeds, 4)
    ]


def test_the_number_of_processes_does_not_matter() -> None:
    with workers(stage(), 1) as one, workers(stage(), 2) as two:
        expected = dict(one.run(units()))
        # a crew plays one batch after the other
        found = dict(two.run(units()[:3])) | dict(two.run(units()[3:]))
    assert found == expected
    assert len({played.episodes for played in expected.values()}) == len(expected)


def test_fewer_groups_than_processes() -> None:
    with workers(stage(), 2) as crew:
        assert list(crew.run([])) == []
        assert len(list(crew.run(units()[:1]))) == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "exits",
            r"died \(exit code 7\) on checkpoint \d: .*, seeds 0\+4.*Finished groups are kept",
        ),
        ("raises", "RuntimeError: the simulation blew up .*--workers 1"),
    ],
)
def test_a_dead_or_failing_worker_is_an_error(kind: str, message: str) -> None:
    with workers(stage(kind), 2) as crew, pytest.raises(WorkerError, match=message):
        list(crew.run(units()))


def test_one_worker_is_this_process() -> None:
    with workers(stage("raises"), 1) as crew, pytest.raises(RuntimeError, match="blew up"):
        list(crew.run(units()))
