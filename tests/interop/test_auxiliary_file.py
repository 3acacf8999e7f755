"""Auxiliary networks on disk: round trip, and everything that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.errors import InputError
from qgf_ref.interop.auxiliary_file import (
    AuxiliaryFile,
    auxiliary_bytes,
    auxiliary_path,
    read_auxiliary,
)
from qgf_ref.interop.native import MODEL, save_checkpoint
from qgf_ref.losses.optimiser import AdamState
from qgf_ref.nets.auxiliary import AUXILIARY, NO_AUXILIARY_PARAMS, AuxiliaryParams
from tests.conftest import small_auxiliary, small_checkpoint


def write_auxiliary(directory: Path, checkpoint: Checkpoint, names: tuple[str, ...]) -> None:
    """The checkpoint's auxiliary networks, into the directory where it lies."""
    for name in names:
        params = checkpoint.auxiliary.present()[name]
        moments = AdamState.zero(params)
        held = AuxiliaryFile(params, moments.mean, moments.square, {"state": "{}"})
        auxiliary_path(directory, name).write_bytes(auxiliary_bytes(name, checkpoint, held))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ck = small_checkpoint(dtype="float32")
    save_checkpoint(ck, tmp_path)
    write_auxiliary(tmp_path, ck, AUXILIARY)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load_finds_them(place: Path, dtype: str) -> None:
    expected = small_checkpoint(dtype="float32").auxiliary.present()
    for path in (place, place / MODEL):
        found = qgf_ref.load(path, dtype=dtype).auxiliary.present()
        assert list(found) == list(AUXILIARY)
        for name, params in found.items():
            assert type(params) is type(expected[name])
            for ours, theirs in zip(params.named(), expected[name].named(), strict=True):
                assert ours[0] == theirs[0]
                assert ours[1].dtype == dtype
                np.testing.assert_array_equal(ours[1], theirs[1])
    assert qgf_ref.load(place).describe()["auxiliary"] == list(AUXILIARY)


def test_only_those_that_are_there(place: Path) -> None:
    (place / "cfgrl.safetensors").unlink()
    assert list(qgf_ref.load(place).auxiliary.present()) == ["robust_q", "distill"]
    (place / MODEL).rename(place / "other.safetensors")
    assert qgf_ref.load(place / "other.safetensors").auxiliary == NO_AUXILIARY_PARAMS
    assert "auxiliary" not in qgf_ref.load(place / "other.safetensors").describe()


@pytest.mark.parametrize("part", ["policy", "target_critic", "value"])
def test_another_base_is_refused(place: Path, part: str) -> None:
    ck = small_checkpoint(dtype="float32")
    other = getattr(ck, part).map(lambda a: a * np.float32(1.0001))
    save_checkpoint(replace(ck, **{part: other}), place)
    message = r"robust_q.safetensors was trained against other networks.*train-extra robust_q --run"
    with pytest.raises(InputError, match=message):
        qgf_ref.load(place)


def test_options_may_be_overridden(place: Path) -> None:
    """T of the sampler, say: the networks are the same."""
    assert qgf_ref.load(place, denoise_steps=3).flow.auxiliary.distill is not None


def _rename(name: str) -> Callable[[Path], None]:
    return lambda place: (
        place.joinpath(f"{name}.safetensors").rename(place / "distill.safetensors"),
        None,
    )[1]


def _truncate(place: Path) -> None:
    path = place / "cfgrl.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _checkpoint_in_its_place(place: Path) -> None:
    (place / "robust_q.safetensors").write_bytes((place / MODEL).read_bytes())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rename("robust_q"), "holds the network robust_q, not distill"),
        (_truncate, "cfgrl.safetensors"),
        (_checkpoint_in_its_place, "robust_q.safetensors"),
    ],
)
def test_damaged_files(place: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(place)
    with pytest.raises(InputError, match=message):
        qgf_ref.load(place)


def test_moments_of_other_shapes(place: Path) -> None:
    ck = small_checkpoint(dtype="float32")
    params, other = (c.present()["distill"] for c in (ck.auxiliary, small_auxiliary(0, 5, 4)))
    held = AuxiliaryFile(params, other, other, {})
    path = auxiliary_path(place, "distill")
    path.write_bytes(auxiliary_bytes("distill", ck, held))
    with pytest.raises(InputError, match="moments have other shapes"):
        read_auxiliary(path, "distill", ck)


def test_a_checkpoint_refuses_networks_of_other_widths() -> None:
    ck = small_checkpoint()
    wide = small_auxiliary(0, 6, 3)
    for name in AUXILIARY:
        alone = AuxiliaryParams(**{name: wide.present()[name]})
        with pytest.raises(InputError, match=f"the auxiliary network {name} takes .* features"):
            replace(ck, auxiliary=alone)
    cfgrl = ck.auxiliary.cfgrl
    assert cfgrl is not None and cfgrl.table is not None
    narrow = replace(cfgrl, table=cfgrl.table[:1])
    with pytest.raises(InputError, match=r"cfgrl's table has shape \(1, 32\)"):
        replace(ck, auxiliary=AuxiliaryParams(cfgrl=narrow))


def test_what_a_strangers_file_may_hold(place: Path) -> None:
    """A table that is not finite, and a network's name that would break the message's line."""
    ck = small_checkpoint(dtype="float32")
    params = ck.auxiliary.cfgrl
    assert params is not None
    moments = AdamState.zero(params)
    path = auxiliary_path(place, "cfgrl")
    poisoned = replace(params, table=np.full_like(params.table, np.nan))
    held = AuxiliaryFile(poisoned, moments.mean, moments.square, {})
    path.write_bytes(auxiliary_bytes("cfgrl", ck, held))
    with pytest.raises(InputError, match=r"cfgrl\.table must be finite"):
        qgf_ref.load(place)
    held = AuxiliaryFile(params, moments.mean, moments.square, {})
    path.write_bytes(auxiliary_bytes("a\nb" * 99, ck, held))
    with pytest.raises(InputError) as refused:
        qgf_ref.load(place)
    assert "\n" not in str(refused.value) and "not cfgrl" in str(refused.value)
