"""A sampler with a will of its own is told so before anything is diagnosed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.premises import Arrays, another, broken_premise
from qgf_ref.crosscheck.sampler import diagnosis
from qgf_ref.testing import (
    CrossCheckError,
    check_critic,
    check_gradient,
    check_sampler,
    check_velocity,
)
from tests.crosscheck.plain_port import (
    CHECKPOINT,
    GIVEN,
    RIGHT,
    T,
    Trace,
)

FRESH = np.random.default_rng(0)
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


def test_which_arrays_are_written_into_decides_nothing() -> None:
    """Right functions that work in place, and a sampler with noise of its own in one array."""
    field, critic = RIGHT.flow.field, RIGHT.flow.critic
    places: dict[tuple[int, ...], Array] = {}

    def kept(answer: Array, *spoilt: Array) -> Array:
        for each in spoilt:
            each *= 0
        place = places.setdefault(answer.shape, np.empty_like(answer))
        place[...] = answer
        return place

    def gradient(obs: Array, a: Array) -> Array:
        q, cache = critic.forward(obs, a)
        least = (q == q.min(axis=0)).astype(q.dtype)
        return kept(critic.vjp(least, cache), obs, a)

    def velocity(obs: Array, a: Array, t: Array) -> Array:
        return kept(field.forward(obs, a, t)[0], obs, a, t)

    assert check_velocity(velocity, CHECKPOINT, rows=8).agrees
    assert check_critic(
        lambda obs, a: kept(critic.forward(obs, a)[0], obs, a), CHECKPOINT, rows=8
    ).agrees
    assert check_gradient(gradient, CHECKPOINT, rows=8).agrees
    own, message = WILFUL["own noise"]
    with pytest.raises(CrossCheckError, match=message):
        check_sampler(
            lambda *given: kept(own(*given)["action"], *given[:2]), CHECKPOINT, rows=8,
            coverage=False,
        )  # fmt: skip


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
