"""Premises, misrecorded traces, and what is said of differences that no mistake explains.

The ports are plain NumPy (`tests/helpers/numpy_sampler.py`) with errors planted in single lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.compare import Comparison, compare
from qgf_ref.crosscheck.premises import Arrays, another, broken_premise
from qgf_ref.crosscheck.sampler import calls_report, diagnosis
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.known import known
from qgf_ref.crosscheck.sampler.record import misrecorded
from qgf_ref.crosscheck.sampler.report import text
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.testing import CrossCheckError, check_critic, check_sampler, check_velocity
from tests.crosscheck.ports import inputs, lively, setting
from tests.helpers.numpy_sampler import NumpySampler
from tests.helpers.some import some

CHECKPOINT = lively()
CHOSEN = setting(CHECKPOINT)
GIVEN = inputs(CHECKPOINT)
T, W = 5, np.float32(0.3)
Trace = dict[str, Array]
Line = Callable[..., Any]


def recorded(weight: float = 0.3, only: tuple[str, ...] = (), **lines: Any) -> RecordedCase:
    trace = NumpySampler(CHECKPOINT, **lines)(GIVEN.obs, GIVEN.noise, weight)
    kept = {name: x for name, x in trace.items() if not only or name in only}
    whole = recorded_trace({**kept, "obs": GIVEN.obs, "noise": GIVEN.noise})
    return RecordedCase(whole, weight, "test")


def compared(**options: Any) -> Comparison:
    case = recorded(**options)
    return compare(CHECKPOINT, case.trace, estimator="qgf", weight=float(case.weight))


def named(case: RecordedCase) -> list[str]:
    return [str(e.mistakes[0]) for e in diagnose(CHOSEN, [case])[2].explanations]


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
    monkeypatch.setattr(diagnosis, "MAX_PAIRS", 0)
    monkeypatch.setattr(diagnosis, "NEAREST", -9.0)
    case = recorded(gradient=lambda self, k, t, g: g / (1 + norms(g)))
    told = diagnose(CHOSEN, [case])[2]
    assert told.unknown == "g" and told.nearest
    for near in told.nearest:
        assert near.made.mistake.first == "g", near


# ---- premises


FRESH = np.random.default_rng(0)
RIGHT = NumpySampler(CHECKPOINT)
COUNT = [0]


def remembering(obs: Array, noise: Array, weight: float) -> Any:
    COUNT[0] += 1
    return RIGHT(obs, noise, weight * (1 + 0.01 * COUNT[0]))["action"]


def dropped(x: Array) -> Array:
    return np.where(FRESH.random(x.shape) > 0.1, x / 0.9, 0).astype(np.float32)


WILFUL: dict[str, tuple[Any, str]] = {
    "own noise": (
        lambda obs, noise, w: RIGHT(obs, FRESH.standard_normal(noise.shape), w),
        "another answer to the same call",
    ),
    "dropout": (lambda obs, noise, w: RIGHT(dropped(obs), noise, w), "another answer to the same"),
    "state": (remembering, "another answer to the same call"),
    "own seed": (
        lambda obs, noise, w: RIGHT(obs, np.random.default_rng(7).normal(size=noise.shape), w),
        "does not depend on the noise given",
    ),
    "no observations": (
        lambda obs, noise, w: RIGHT(0 * obs, noise, w), "does not depend on the observations given"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WILFUL)
def test_a_sampler_with_a_will_of_its_own(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.Search, "diagnose", None)  # nothing is simulated
    fn, message = WILFUL[what]
    with pytest.raises(CrossCheckError, match=f"^your sampler .*{message}"):
        check_sampler(fn, CHECKPOINT, rows=8, coverage=False)


def test_functions_alone_have_premises_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.Search, "diagnose", None)
    field, critic = RIGHT.flow.field, RIGHT.flow.critic
    for fn, message in (
        (lambda obs, a, t: field.forward(dropped(obs), a, t)[0], "another answer to the same"),
        (lambda obs, a, t: field.forward(obs, a, 0 * t)[0], "not depend on the time given"),
        (lambda obs, a, t: field.forward(obs, 0 * a, t)[0], "not depend on the actions given"),
    ):
        with pytest.raises(CrossCheckError, match=f"^your velocity field .*{message}"):
            check_velocity(fn, CHECKPOINT, rows=8)
    with pytest.raises(CrossCheckError, match=r"^your critic does not depend on the observations"):
        check_critic(lambda obs, a: critic.forward(0 * obs, a)[0], CHECKPOINT, rows=8)


def test_chunks_and_other_layouts_are_read() -> None:
    """(B, H, A) for (B, D), T + 1 states, the rows first: all of a right sampler."""

    def call(obs: Array, noise: Array, weight: float) -> Trace:
        trace: Trace = RIGHT(obs, noise, weight)
        action = trace["action"].reshape(len(obs), 2, 2)
        states = np.concatenate([trace["a"], trace["action"][None]])
        g = trace["g"].reshape(T, -1, 2, 2)
        return {**trace, "action": action, "a": states, "g": g, "v": trace["v"].swapaxes(0, 1)}

    report = check_sampler(call, CHECKPOINT, rows=8, coverage=False)
    assert report.agrees
    assert "a holds T + 1 states: write a[:T]" in str(report)
    assert "v was recorded batch-major" in str(report)


def test_a_statistic_over_the_batch_is_not_taken_for_inputs_ignored() -> None:
    """What all rows share is undone by BatchNorm in training mode, which still sees the rows."""
    inputs = {"observations": GIVEN.obs}

    def normalised(given: Arrays) -> Arrays:
        obs = given["observations"]
        return {"action": (obs - obs.mean(axis=0)) / obs.std(axis=0)}

    assert broken_premise("it", normalised, inputs, normalised(inputs), another(inputs)) is None


# ---- the record before the sampler


def states(trace: Trace) -> Array:
    last = trace["a"][-1] + (trace["v"][-1] + W * trace["g"][-1]) / np.float32(T)
    return np.concatenate([trace["a"], last[None]])


def unclipped(trace: Trace) -> Array:
    t = np.arange(T, dtype=np.float32)[:, None, None] / np.float32(T)
    return trace["a"] + (1 - t) * trace["v"]


def across(x: Array) -> Array:
    return np.ascontiguousarray(x.swapaxes(0, 1)).reshape(x.shape)


def transposed(x: Array) -> Array:
    return x.reshape(*x.shape[:-1], 2, 2).swapaxes(-1, -2).reshape(x.shape)


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
    monkeypatch.setattr(diagnosis, "MAX_PAIRS", 0)
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
