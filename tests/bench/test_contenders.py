"""Contenders that compute something else, decline, or fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref import sample
from qgf_ref.backends.engine import _ways, backend_named
from qgf_ref.bench.contenders import Declined, first_call, imported, peer
from qgf_ref.bench.settings import Peer, TimedCell
from qgf_ref.bench.validation import FACTOR, ROWS, Reference
from qgf_ref.errors import InputError
from qgf_ref.ops import linear
from tests.conftest import small_checkpoint

PLACE = "tests.bench.peers:"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(small_checkpoint(), "qgf", 0.3, 6, 0)


def judged(reference: Reference, name: str, batch: int, dtype: str = "float32") -> dict[str, Any]:
    """What validation says of a peer of `tests.bench.peers`."""
    ck = small_checkpoint(dtype=dtype)
    run = peer(Peer(name, PLACE + name))(ck, estimator="qgf", weight=0.3, denoise_steps=6)
    found = first_call(name, run, *reference.inputs(ck, batch, dtype, 0))
    return reference.require(name, found, str(TimedCell("qgf", dtype, "3x11", batch)))


@pytest.mark.parametrize("batch", [1, 2, ROWS - 1, ROWS, 3 * ROWS + 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_right_sampler_is_let_in(reference: Reference, batch: int, dtype: str) -> None:
    found = judged(reference, "right", batch, dtype)
    assert found["embedding"] == "float32"
    assert found["error"] <= found["tolerance"] / (2 if dtype == "float32" else 1)


@pytest.mark.parametrize("batch", [2, 3 * ROWS + 1])
@pytest.mark.parametrize("name", ["heavier", "last_row_wrong"])
def test_a_wrong_one_is_refused(reference: Reference, name: str, batch: int) -> None:
    with pytest.raises(InputError, match=f"{name} does not compute the sampler.*batch {batch}, "):
        judged(reference, name, batch)


def test_the_tolerance_is_what_rounding_explains(reference: Reference) -> None:
    assert 1e-7 < reference.rounding["float32"] < 3e-6
    assert reference.tolerance("float32") == FACTOR * reference.rounding["float32"]
    assert reference.tolerance("float64") < 2e-15
    assert reference.stable.sum() > 3 * ROWS / 4


def test_products_in_tf32_are_judged_by_their_own_rounding(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a backend that says so; another contender with them is refused, and so is a wrong one."""
    ck, times, coarser = small_checkpoint(dtype="float32"), linear._times, 2.0**13
    obs, noise = reference.inputs(ck, ROWS, "float32", 0)

    def rounded(x: Any) -> Any:
        bits = np.ascontiguousarray(x).view(np.uint32)
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)

    monkeypatch.setattr(linear, "_times", lambda x, kernel: times(rounded(x), rounded(kernel)))
    right, wrong = (sample(ck.flow, obs, weight=w, noise=noise) for w in (0.3, 0.4))
    found = reference.require("tf32", right, "32 rows", coarser=coarser)
    assert found["tolerance"] / 100 < found["error"] < found["tolerance"] / 2
    with pytest.raises(InputError, match="tf32 does not compute the sampler"):
        reference.require("tf32", right, "32 rows")
    with pytest.raises(InputError, match="tf32 does not compute the sampler"):
        reference.require("tf32", wrong, "32 rows", coarser=coarser)
    assert backend_named("numpy").coarser == 1 and _ways("cupy")["cupy:tf32"].coarser == coarser


def test_a_row_that_nearly_ties_is_left_out() -> None:
    ck = small_checkpoint()
    reference = Reference.of(ck, "qgf", 0.3, 6, 0)
    tied = np.flatnonzero(~reference.stable)
    obs, noise = reference.inputs(ck, ROWS, "float64", 0)
    found = reference.actions["exact"].copy()
    found[tied] += 1
    assert reference.error(found) == (0.0, "exact")
    assert obs.shape == (ROWS, ck.obs_dim) and noise.shape == found.shape


@pytest.mark.parametrize("name", ["lacking", "lacking_when_called"])
def test_one_that_declines(reference: Reference, name: str) -> None:
    with pytest.raises(Declined, match=f"{name}: .* for later"):
        judged(reference, name, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "raised KeyError: 'policy' at .*peers.py"),
        ("no_function", "must return a function .* got int"),
        ("transposed", r"shape \(3, 2\), expected float32 of shape \(2, 3\)"),
        ("doubled", "returned float64"),
        ("infinite", "not finite"),
    ],
)
def test_one_that_fails(reference: Reference, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judged(reference, name, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("right", "package.module:function"),
        ("no_such_module:f", "cannot import it: ModuleNotFoundError"),
        (PLACE + "wrong", "has no 'wrong'; it has: .*right"),
        (PLACE + "ROWS", "has no 'ROWS'"),
    ],
)
def test_one_that_is_not_there(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        imported(spec)
