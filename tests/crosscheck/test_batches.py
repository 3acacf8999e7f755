"""`check_batches`: a vectorised port in the official code's terms, right and with each mistake."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.crosscheck.batches.check import EXPOSING_GOALS, exposing_data
from qgf_ref.crosscheck.batches.literal import MISTAKES
from qgf_ref.data.goals.sampling import GoalLaw
from qgf_ref.testing import CrossCheckError, check_batches
from tests.helpers.goal_port import port_batch


def test_a_right_port_agrees_and_every_mistake_would_show() -> None:
    report = check_batches(port_batch)
    assert report.passed and report.unseen == ()
    assert "128 rows agree in obs, goal, policy_goal, action" in str(report)


@pytest.mark.parametrize("seed", range(4))
def test_right_ports_of_other_settings_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    laws = (GoalLaw(0, 0.5, 0.5, geometric=True), GoalLaw(0.3, 0.7, 0), GoalLaw(0.5, 0, 0.5))
    value, policy = (laws[k] for k in rng.integers(0, 3, 2))
    sampling = replace(
        EXPOSING_GOALS, horizon=int(rng.integers(1, 8)), discount=float(rng.uniform(0.5, 0.99)),
        value_goals=value, policy_goals=policy,
    )  # fmt: skip
    assert check_batches(port_batch, exposing_data(seed), sampling, rows=60, seed=seed).passed


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_alone(name: str) -> None:
    with pytest.raises(CrossCheckError) as caught:
        check_batches(partial(port_batch, wrong=name))
    assert caught.value.report.named == ((name,),)  # type: ignore[attr-defined]
    said = str(caught.value)
    assert said.startswith(f"{name}\nbatches with goals: WRONG, first in ")
    assert max(map(len, said.splitlines())) <= 100


def test_two_mistakes_and_one_without_a_name() -> None:
    floored = partial(port_batch, wrong="trajectory-floor")

    def both(*given: Any) -> dict[str, Any]:
        batch = floored(*given)
        return {**batch, "masks": 1 - batch["masks"]}

    with pytest.raises(CrossCheckError) as caught:
        check_batches(both)
    assert caught.value.report.named == (("trajectory-floor", "mask-inverted"),)  # type: ignore[attr-defined]

    def halved(*given: Any) -> dict[str, Any]:
        batch = port_batch(*given)
        return {**batch, "rewards": batch["rewards"] / 2}

    with pytest.raises(CrossCheckError, match="unknown at rewards") as caught:
        check_batches(halved)
    assert "theirs" in str(caught.value) and "None of the mistakes" in str(caught.value)


def test_what_a_port_writes_into_its_draws_is_its_own_mistake() -> None:
    def altering(data: Any, draws: Any, sampling: Any) -> dict[str, Any]:
        draws.value.along[:] = 0
        return port_batch(data, draws, sampling)

    with pytest.raises(CrossCheckError, match="WRONG, first in goal"):
        check_batches(altering)


def test_what_is_no_number_is_wrong() -> None:
    def undefined(*given: Any) -> dict[str, Any]:
        batch = port_batch(*given)
        return {**batch, "rewards": np.full_like(batch["rewards"], np.nan)}

    with pytest.raises(CrossCheckError, match="WRONG, first in rewards, 128 of 128 rows"):
        check_batches(undefined)


def test_what_was_not_returned_is_not_vouched_for() -> None:
    def few(*given: Any) -> dict[str, Any]:
        return {name: port_batch(*given)[name] for name in ("obs", "masks")}

    report = check_batches(few)
    assert report.compared == ("obs", "masks")
    assert {"actions-unclipped", "reward-undiscounted"} <= set(report.unseen)
    assert "this check cannot see" in str(report)


def test_a_port_that_draws_for_itself_is_seeded() -> None:
    def theirs(data: Any, draws: Any, sampling: Any) -> dict[str, Any]:
        np.random.seed(3)  # noqa: NPY002
        count = int((sampling.horizon <= _to_the_final(data)).sum())
        start = np.random.randint(count, size=len(draws.start))  # noqa: NPY002
        np.testing.assert_array_equal(start, draws.start)
        return port_batch(data, replace(draws, start=start), sampling)

    assert check_batches(theirs, seed=3).passed


def _to_the_final(data: dict[str, Any]) -> Any:
    ends = np.flatnonzero(data["terminals"])
    rows = np.arange(len(data["terminals"]))
    return ends[np.searchsorted(ends, rows)] - 1 - rows


DOUBLED = exposing_data()["terminals"]
DOUBLED[:-1] += DOUBLED[1:]


@pytest.mark.parametrize(
    ("answer", "data", "says"),
    [
        (lambda *given: [1], None, "expected a mapping of arrays by name, got list"),
        (lambda *given: {}, None, "nothing was returned"),
        (lambda *given: {"observations": 0}, None, "unknown array of a batch 'observations'"),
        (
            lambda *given: {"masks": np.ones(3)},
            None,
            r"masks must be of shape \(128,\), got \(3,\)",
        ),
        (lambda *given: {"masks": np.random.rand(128)}, None, "differs between two calls"),  # noqa: NPY002
        (lambda *given: {"masks": 1j * np.ones(128)}, None, "masks must hold real numbers"),
        (lambda *given: {"action": [[1], [1, 2]]}, None, "action is no array"),
        (port_batch, {**exposing_data(), "goals": np.full((78, 2), np.nan)}, "must be finite"),
        (port_batch, {"observations": np.ones((4, 2))}, "the data lack actions, terminals"),
        (port_batch, {**exposing_data(), "goals": np.ones((3, 1))}, "of one length"),
        (port_batch, {**exposing_data(), "terminals": np.zeros(78)}, "must be terminal"),
        (port_batch, {**exposing_data(), "terminals": DOUBLED}, "the data: terminals are 1 on th"),
    ],
)
def test_bad_input(answer: Any, data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_batches(answer, data)


def test_a_port_that_raises_is_told_with_its_line() -> None:
    """Of the check, not a traceback of the port's."""

    def raising(*given: Any) -> Any:
        raise KeyError("value_goals")

    with pytest.raises(CrossCheckError, match="your function raised KeyError on 128 rows") as told:
        check_batches(raising)
    assert "test_batches.py" in str(told.value) and "\n" not in str(told.value)
