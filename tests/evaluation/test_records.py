"""Records survive a kill, go on where they were, and do not mix evaluations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.records import FILE, Records, Unit, digest
from qgf_ref.evaluation.rollouts import Played
from tests.evaluation.fakes import episode, line_checkpoint

CONFIGURATION = {"task": "line", "environments": 4}
UNIT = Unit(0, Method("qgf"), 0.1, "held-out", (5, 6))
PLAYED = Played((episode([-1.0 / 3], [-0.1]), episode([-2.0, 0.1], [None, None])))


def write(directory: Path, *units: Unit) -> None:
    with Records(directory, CONFIGURATION) as records:
        for unit in units:
            records.add(unit, PLAYED)


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    with Records(tmp_path, CONFIGURATION) as records:
        assert records.get(UNIT) == PLAYED


@pytest.mark.parametrize(
    "other",
    [
        replace(UNIT, weight=0.2), replace(UNIT, checkpoint=1), replace(UNIT, seeds=(5,)),
        replace(UNIT, seeds=(7, 8)), replace(UNIT, method=Method("qgf", 2)),
    ],
)  # fmt: skip
def test_another_unit_is_not_this_one(other: Unit, tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    with Records(tmp_path, CONFIGURATION) as records:
        assert records.get(other) is None


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    second = replace(UNIT, seeds=(7, 8))
    write(tmp_path, UNIT, second)
    whole = (tmp_path / FILE).read_bytes()
    for cut in (1, 40, 100):
        (tmp_path / FILE).write_bytes(whole[:-cut])
        write(tmp_path)
        with Records(tmp_path, CONFIGURATION) as records:
            assert records.get(UNIT) == PLAYED
            assert records.get(second) is None
        write(tmp_path, second)
        assert (tmp_path / FILE).read_bytes() == whole


def test_another_configuration_is_refused_unless_overwritten(tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    other = {**CONFIGURATION, "environments": 8}
    with pytest.raises(InputError, match=r"other environments \(4 there, 8 here\).*--overwrite"):
        Records(tmp_path, other)
    with Records(tmp_path, other, overwrite=True) as records:
        assert records.get(UNIT) is None


def test_records_from_before_there_was_a_choice_are_numpys(tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    assert b"backend" not in (tmp_path / FILE).read_bytes()
    with Records(tmp_path, {**CONFIGURATION, "backend": "numpy"}) as records:
        assert records.get(UNIT) == PLAYED
    with pytest.raises(InputError, match=r"another backend \(numpy there, numba here\)"):
        Records(tmp_path, {**CONFIGURATION, "backend": "numba"})


@pytest.mark.parametrize("damage", [b"not json\n", b"[1]\n", b'{"format": 1}\n', b"\n"])
def test_a_foreign_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(InputError, match="--overwrite"):
        Records(tmp_path, CONFIGURATION)


def test_a_damaged_group_is_refused(tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b'"length"', b'"lenght"'))
    with pytest.raises(InputError, match="damaged"):
        Records(tmp_path, CONFIGURATION)


def test_two_evaluations_do_not_share_a_directory(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        Records(tmp_path, CONFIGURATION),
        pytest.raises(InputError, match="another evaluation is writing"),
    ):
        Records(tmp_path, CONFIGURATION)
    Records(tmp_path, CONFIGURATION).close()


def test_digest_sees_every_number_that_matters() -> None:
    checkpoint = line_checkpoint()
    assert digest(checkpoint) == digest(line_checkpoint())
    options = replace(checkpoint.options, denoise_steps=7)
    changed = [
        replace(checkpoint, options=options),
        checkpoint.with_params(policy=checkpoint.policy.map(lambda a: a * 1.0001)),
        checkpoint.with_params(target_critic=checkpoint.target_critic.map(lambda a: a * 1.0001)),
    ]
    assert len({digest(c) for c in (checkpoint, *changed)}) == 4
