"""How a trace was recorded is found out before the sampler is accused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import as_dict
from qgf_ref.crosscheck.sampler.record import misrecorded
from qgf_ref.crosscheck.sampler.report import headline, text
from qgf_ref.crosscheck.sampler.search import Search
from qgf_ref.testing import CrossCheckError, check_sampler
from tests.crosscheck.plain_port import (
    CHECKPOINT,
    CHOSEN,
    RIGHT,
    Line,
    T,
    Trace,
    W,
    compared,
    named,
    recorded,
    transposed,
)


def states(trace: Trace) -> Array:
    last = trace["a"][-1] + (trace["v"][-1] + W * trace["g"][-1]) / np.float32(T)
    return np.concatenate([trace["a"], last[None]])


def unclipped(trace: Trace) -> Array:
    t = np.arange(T, dtype=np.float32)[:, None, None] / np.float32(T)
    return trace["a"] + (1 - t) * trace["v"]


def across(x: Array) -> Array:
    return np.ascontiguousarray(x.swapaxes(0, 1)).reshape(x.shape)


MISRECORDED: dict[str, tuple[str, Callable[[Trace], Array], str]] = {
    "sign": ("v", lambda r: -r["v"], "−v"),
    "time runs back": ("v", lambda r: -r["v"][::-1], "−v, its steps in reverse order"),
    "guided": ("v", lambda r: r["v"] + W * r["g"], "v + w·g (with the guidance)"),
    "step": ("v", lambda r: r["v"] / np.float32(T), "v/T"),
    "after": ("a", lambda r: states(r)[1:], "a after the step, not before it"),
    "after, clipped last": (
        "a", lambda r: np.concatenate([r["a"][1:], r["action"][None]]),
        "a after the step, the final action last",
    ),
    "alias": (
        "a", lambda r: np.broadcast_to(states(r)[-1], r["a"].shape),
        "the last state at every step (one array, changed in place)",
    ),
    "before the clip": ("a1_hat", unclipped, "the query point before its clip (a + (1 − t)·v)"),
    "noisy": ("a1_hat", lambda r: r["a"], "a"),
    "weighted": ("g", lambda r: W * r["g"], "w·g (with its weight)"),
    "descent": ("g", lambda r: -r["g"], "−g"),
    "minimum": (
        "q", lambda r: np.broadcast_to(r["q"].min(axis=1, keepdims=True), r["q"].shape),
        "the minimum over members, for every member",
    ),
    "rows first": ("v", lambda r: across(r["v"]), "v laid out batch-major, as (B, T, D)"),
    "chunks": (
        "v", lambda r: transposed(r["v"]), "v with every chunk transposed, (A, H) for (H, A)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", MISRECORDED)
def test_how_a_record_was_written_is_found_out(how: str) -> None:
    name, write, words = MISRECORDED[how]
    case = recorded(record=lambda trace: {**trace, name: write(trace)})
    assert misrecorded(CHOSEN, [case]) == (f"what was recorded as {name} is {words}",)


def test_a_misrecorded_trace_does_not_accuse_the_sampler() -> None:
    result = compared(record=lambda r: {**r, "v": -r["v"], "g": W * r["g"]})
    said = "your sampler agrees; what was recorded as v is −v; what was recorded as g is w·g"
    assert said in " ".join(text(result).split())
    assert not result.agrees and result.diagnosis.record and not result.diagnosis.unknown

    def call(obs: Array, noise: Array, weight: float) -> Trace:
        return {**(trace := RIGHT(obs, noise, weight)), "v": -trace["v"]}

    with pytest.raises(
        CrossCheckError, match=r"^your sampler agrees; what was recorded as v is −v"
    ):
        check_sampler(call, CHECKPOINT, rows=8)


def test_what_is_computed_is_no_matter_of_the_record() -> None:
    """Wrong actions; and without a weight, right ones say nothing of the gradient."""
    assert not misrecorded(CHOSEN, [recorded(velocity=lambda v: -v)])
    assert not misrecorded(CHOSEN, [recorded()])
    flipped: Line = lambda self, k, t, g: -g  # noqa: E731
    assert not misrecorded(CHOSEN, [recorded(0.0, gradient=flipped)])
    assert named(recorded(0.0, gradient=flipped)) == ["gradient-negated"]


NEGATED: dict[str, Line] = {"gradient": lambda self, k, t, g: -g}
UNIT: dict[str, Line] = {
    "gradient": lambda self, k, t, g: g / np.linalg.norm(g, axis=-1, keepdims=True)
}
SHRUNK: dict[str, Line] = {"gradient": lambda self, k, t, g: g * (1 - t)}


@pytest.mark.parametrize(
    ("lines", "mistake", "how"),
    [
        (NEGATED, "gradient-negated", "sign"),
        (NEGATED, "gradient-negated", "weighted"),
        (UNIT, "gradient-unit-norm", "after"),
        (SHRUNK, "gradient-times-1-t", "before the clip"),
        (SHRUNK, "gradient-times-1-t", "minimum"),
    ],
)
def test_a_mistake_and_a_record_of_something_else(
    lines: dict[str, Line], mistake: str, how: str
) -> None:
    """The record hid the mistake, and was unknown itself, as the final actions are wrong."""
    name, write, words = MISRECORDED[how]
    result = compared(record=lambda trace: {**trace, name: write(trace)}, **lines)
    written = f"what was recorded as {name} is {words}"
    assert [(e.names, e.record) for e in result.diagnosis.explanations] == [
        ((mistake,), (written,))
    ]
    assert not result.agrees and not result.diagnosis.unknown
    assert headline(result.diagnosis) == f"{mistake}; {written}"
    assert f"and {written}" in " ".join(text(result).split())
    (told,) = as_dict(result)["explanations"]
    assert told["record"] == [written]


def test_what_two_mistakes_explain_a_record_may_explain_as_well() -> None:
    """A gradient of length 1, recorded with its weight, is one of length w that was not weighted:
    nothing in one trace tells them apart, and both are said.
    """
    result = compared(record=lambda trace: {**trace, "g": W * trace["g"]}, **UNIT)
    found = {e.names: e.record for e in result.diagnosis.explanations}
    assert found[("gradient-unit-norm",)] == ("what was recorded as g is w·g (with its weight)",)
    assert len(found) == 2 and all(len(names) + len(says) == 2 for names, says in found.items())


def test_a_record_that_hangs_together_is_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where one quantity is wrong and the others follow from it, nothing is simulated again."""
    searched: list[bool] = []
    search = Search.diagnose

    def diagnose(self: Search, progress: bool = False, pairs: bool = True) -> Any:
        searched.append(pairs)
        return search(self, progress, pairs=False)

    monkeypatch.setattr(Search, "diagnose", diagnose)
    odd: Line = lambda self, k, t, g: g * np.float32(0.77)  # noqa: E731
    assert compared(gradient=odd).diagnosis.unknown == "g"
    assert all(searched)
    both = compared(gradient=odd, record=lambda trace: {**trace, "v": -trace["v"]})
    assert both.diagnosis.unknown == "v" and not all(searched)
    assert "theirs is -1 times the reference's" in " ".join(both.diagnosis.known)
