"""Names that the bank does not list, and what is said of differences that no mistake explains.

The ports: `tests/crosscheck/plain_port.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler import calls_report, search
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.known import known
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.testing import CrossCheckError, check_sampler
from tests.crosscheck.plain_port import (
    CHECKPOINT,
    CHOSEN,
    Line,
    T,
    compared,
    named,
    recorded,
    transposed,
)
from tests.helpers.numpy_sampler import NumpySampler
from tests.helpers.some import some


def norms(g: Array) -> Array:
    return np.linalg.norm(g, axis=-1, keepdims=True)


def clipped_to(bound: float) -> Line:
    return lambda self, k, t, g: g * np.minimum(1, bound / (norms(g) + 1e-6))


# ---- names that were not excluded


@pytest.mark.parametrize("only", [(), ("action",)], ids=["traced", "final"])
@pytest.mark.parametrize("bound", some([0.37, 1.0], 1))
def test_a_gradient_clipped_to_any_norm_is_named(bound: float, only: tuple[str, ...]) -> None:
    """The norms are on both sides of it."""
    case = recorded(gradient=clipped_to(bound), only=only)
    assert named(case) == [f"gradient-norm-clipped (at {bound:g})"]


def test_where_every_gradient_is_longer_clipping_and_normalising_are_named_together() -> None:
    result = compared(gradient=clipped_to(0.05))
    names = {str(e.mistakes[0]) for e in result.diagnosis.explanations}
    assert names == {"gradient-norm-clipped (at 0.05)", "gradient-unit-norm (at 0.05)"}
    assert "on these inputs; confirm with check_sampler" in text(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gradient-value-clipped (at 0.1)", lambda self, k, t, g: np.clip(g, -0.1, 0.1)),
        ("gradient-unit-norm (at 0.7)", lambda self, k, t, g: 0.7 * g / norms(g)),
        (
            "gradient-norm-clipped-batch (at 0.8)",
            lambda self, k, t, g: g * np.minimum(1, 0.8 / np.linalg.norm(g)),
        ),
    ],
)
def test_values_that_the_bank_does_not_list_are_fitted(name: str, line: Line) -> None:
    assert named(recorded(gradient=line)) == [name]


@pytest.mark.slow
def test_what_is_a_plain_factor_on_one_weight_is_said_to_be() -> None:
    """w² at w = 0.3 is 0.3·w; a flipped sign is a flipped sign on every input."""
    squared: Line = lambda self, k, a, v, g, w: a + (v + w * w * g) / T  # noqa: E731
    result = compared(step=squared, only=("action",))
    assert [e.names for e in result.diagnosis.explanations] == [("weight-squared",)]
    assert [str(made) for made in result.alike] == ["weight-times-constant (at 0.3)"]
    assert result.separate is not None
    assert "on these inputs; confirm with check_sampler" in text(result)
    result = compared(gradient=lambda self, k, t, g: -g)
    assert [e.names for e in result.diagnosis.explanations] == [("gradient-negated",)]
    assert not result.alike and "confirm" not in text(result)


def test_a_final_action_alone_tells_how_far_guidance_went() -> None:
    def says(factor: float) -> str:
        case = recorded(only=("action",), gradient=lambda self, k, t, g: np.float32(factor) * g)
        return known(CHOSEN, case, (), "action").says[-1]

    assert says(0.5).startswith("from the unguided action, theirs moves 0.5")
    assert says(-1).startswith("from the unguided action, theirs moves -1.0")
    assert says(0) == "theirs is the action without guidance"


NEXT: Line = lambda t, k, T: np.float32(k + 1) / np.float32(T)  # noqa: E731
INCLUSIVE: Line = lambda t, k, T: np.float32(k) / np.float32(T - 1)  # noqa: E731
REVERSED: Line = lambda t, k, T: 1 - t  # noqa: E731
MIDPOINT: Line = lambda t, k, T: np.float32(k + 0.5) / np.float32(T)  # noqa: E731


@pytest.mark.parametrize(
    ("use", "time", "name"),
    some(
        [
            ("network_time", NEXT, "grid-next (divided, in the network only)"),
            ("network_time", INCLUSIVE, "grid-inclusive (divided, in the network only)"),
            ("network_time", REVERSED, "grid-reversed (divided, in the network only)"),
            ("query_time", INCLUSIVE, "grid-inclusive (in 1 − t only)"),
            ("query_time", MIDPOINT, "grid-midpoint (in 1 − t only)"),
            ("query_time", NEXT, "query-factor-minus-dt"),
        ],
        3,
    ),
)
def test_a_time_wrong_in_one_of_its_uses_is_named(use: str, time: Line, name: str) -> None:
    lines: dict[str, Any] = {use: time}
    assert named(recorded(**lines)) == [name]


def test_a_nearest_mistake_contradicts_nothing_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels transposed everywhere would be near a gradient in which only a chunk is."""
    monkeypatch.setattr(search, "MAX_PAIRS", 0)
    monkeypatch.setattr(search, "NEAREST", -9.0)
    case = recorded(gradient=lambda self, k, t, g: g / (1 + norms(g)))
    told = diagnose(CHOSEN, [case])[2]
    assert told.unknown == "g" and told.nearest
    for near in told.nearest:
        assert near.made.mistake.first == "g", near


# ---- what is known of the unknown


def lagging(self: NumpySampler, k: int, t: Any, g: Array) -> Array:
    before, self.before = self.before, g
    return 0 * g if before is None else before


def averaged(self: NumpySampler, k: int, t: Any, g: Array) -> Array:
    self.before = g if self.before is None else 0.9 * self.before + 0.1 * g
    return self.before


def soft(q: Array) -> Array:
    e = np.exp(-5 * (q - q.min(axis=0)))
    return e / e.sum(axis=0)


def two_step(self: NumpySampler, k: int, a: Array, v: Array, g: Array, w: Any) -> Array:
    before, self.before = self.before, v
    return a + ((v if before is None else 1.5 * v - 0.5 * before) + w * g) / np.float32(T)


UNKNOWN: dict[str, tuple[str, dict[str, Any], str]] = {
    "lag": ("g", {"gradient": lagging}, "of the step before (zero at step 0): a lag of one step"),
    "average": ("g", {"gradient": averaged}, "0.1 times the reference's plus 0.9 times theirs of"),
    "soft minimum": ("g", {"share": soft}, "softmax(-5·q), a soft minimum"),
    "members": (
        "g", {"share": lambda q: np.array([[0.25], [0.75]]) + 0 * q},
        "a combination of the members' gradients, 0.25, 0.75 times",
    ),
    "one member": (
        "g", {"share": lambda q: (q == q.min(axis=0)) * np.array([[1.0], [0.5]])},
        "wrong only in rows where member 1 attains the minimum",
    ),
    "saturated": (
        "a1_hat", {"query": lambda a, v, t: (y := np.clip(x := a + (1 - t) * v, -1, 1))
                   - np.float32(1e-2) * (x != y) * np.abs(a)},
        "wrong only where the one-step estimate is clipped",
    ),
    "transposed": ("g", {"gradient": lambda self, k, t, g: transposed(g)}, "chunk of theirs is tr"),
    "columns": ("g", {"gradient": lambda self, k, t, g: g[:, ::-1]}, "reference's 3, 2, 1, 0"),
    "rows": ("g", {"gradient": lambda self, k, t, g: np.roll(g, 1, 0)}, "its rows in another ord"),
    "factor": ("g", {"gradient": lambda self, k, t, g: 0.5 * g}, "theirs is 0.5 times the ref"),
    "sign": ("v", {"velocity": lambda v: -v}, "-1 times the reference's: the other sign"),
    "scales": (
        "g", {"gradient": lambda self, k, t, g: g * np.array([1, 0.5, 2, 1])},
        "every column is a multiple of its own, 1, 0.5, 2, 1",
    ),
    "schedule": ("g", {"gradient": lambda self, k, t, g: (1 - t) ** 2 * g}, "which is (1 − t)²"),
    "lengths": ("g", {"gradient": lambda self, k, t, g: g / (1 + norms(g))}, "direction right, le"),
    "offset": ("v", {"velocity": lambda v: v + np.float32(0.1)}, "the same in every row"),
    "bound": (
        "a1_hat", {"query": lambda a, v, t: np.clip(a + (1 - t) * v, -0.9, 0.9)},
        "clipped to ±0.9",
    ),
    "query": (
        "a1_hat", {"query": lambda a, v, t: np.clip(a + (1 - t) ** 2 * v, -1, 1)},
        "a + c·v clipped to ±1, c by step 1, 0.64, 0.36",
    ),
    "weight": (
        "a", {"step": lambda self, k, a, v, g, w: a + (v + 2 * w * g) / np.float32(T)},
        "theirs moves by 0.2·v + 0.12·g; the reference by 0.2·v + 0.06·g",
    ),
    "decay": (
        "a", {"step": lambda self, k, a, v, g, w: 0.99 * a + (v + w * g) / np.float32(T)},
        "from 0.99·a",
    ),
    "two steps": ("a", {"step": two_step}, "moves by 0.3·v + 0.06·g, and by -0.1·v"),
    "squashed query": (
        "a1_hat", {"query": lambda a, v, t: np.tanh(a + (1 - t) * v)}, "is tanh of a + (1 − t)·v"
    ),
    "squashed": ("action", {"finish": np.tanh}, "theirs is tanh of the last state"),
    "random": (
        "g", {"gradient": lambda self, k, t, g: g * (1 + 0.3 * np.sin(50 * g))},
        "cosine to the reference's by step: 0.9",
    ),
}  # fmt: skip
"""What is planted: the quantity that it shows in, the lines, and what must be said."""


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_known_of_an_unknown_difference_is_said(what: str) -> None:
    quantity, lines, words = UNKNOWN[what]
    says = known(CHOSEN, recorded(**lines), (), quantity).says
    assert any(words in one for one in says), says
    assert says[0].startswith("wrong in ")


def test_of_what_agrees_nothing_is_said() -> None:
    for quantity in ("v", "a1_hat", "q", "g", "a", "action"):
        assert not known(CHOSEN, recorded(), (), quantity).says


def test_where_a_difference_is() -> None:
    def third_row(self: NumpySampler, k: int, t: Any, g: Array) -> Array:
        return g * np.where(np.arange(len(g)) == 2, 1 + 0.1 * (k > 1), 1)[:, None]

    says = known(CHOSEN, recorded(gradient=third_row), (), "g").says
    assert says[0] == (
        "wrong in 3 of 5 steps (2, 3, 4), 1 of 12 rows (2), every column; the rest agrees"
    )


def test_the_report_begins_with_the_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_PAIRS", 0)
    port = NumpySampler(CHECKPOINT, gradient=lagging)
    with pytest.raises(CrossCheckError) as caught:
        check_sampler(port, CHECKPOINT, rows=8)
    first, *rest = str(caught.value).splitlines()
    assert first == "unknown at g (call 'mixed')"
    words = " ".join(" ".join(rest).split())
    assert "g: theirs is the reference's of the step before (zero at step 0)" in words
    assert "nearest" not in words, "beside what gives every number"
    assert "These calls agree" not in words
    assert type(caught.value).__module__ == "qgf_ref.testing"
    assert max(map(len, str(caught.value).splitlines())) <= 100
    assert calls_report.headline(caught.value.report.diagnosis) == "unknown at g"  # type: ignore[attr-defined]
