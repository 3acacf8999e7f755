"""check_losses: steps that their inputs do not decide, and agents with draws of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import Options
from qgf_ref.agents.stage import Loss, StageInputs
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.mistake import TrainingBank, TrainingMistake
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import Batch
from qgf_ref.testing import EXPOSING, CrossCheckError, check_losses
from tests.agents.toy.agent import STAGES, TOY
from tests.agents.toy.losses import regression
from tests.conftest import small_checkpoint

SMALL = small_checkpoint(hidden=(8, 7))
FRESH = np.random.default_rng(0)


def policy_loss(batch: Batch, x0: Array, t: Array) -> float:
    policy = SMALL.astype("float32").networks(embedding="float32").policy
    point = (1 - t[:, None]) * x0 + t[:, None] * batch.action
    error = policy.forward(batch.obs, point, t)[0] - (batch.action - x0)
    return float((error * error).mean(dtype=np.float32))


def own_noise(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
    return {"policy": policy_loss(batch, FRESH.standard_normal(x0.shape).astype("f4"), t)}


def own_times(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
    return {"policy": policy_loss(batch, x0, np.linspace(0, 1, len(t), dtype="f4"))}


def dropout(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
    kept = FRESH.random(batch.obs.shape) > 0.1
    return {"policy": policy_loss(replace(batch, obs=batch.obs * kept.astype("f4")), x0, t)}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (own_noise, "gives another answer to the same call"),
        (dropout, "gives another answer to the same call"),
        (own_times, "does not depend on the t given"),
    ],
)
def test_a_step_with_a_will_of_its_own(
    step: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgf_ref.crosscheck.update.check.diagnose", None)  # nothing is simulated
    with pytest.raises(CrossCheckError, match=f"^your training step {message}"):
        check_losses(step, SMALL)


def test_a_right_step_passes_and_is_called_once() -> None:
    calls = []

    def step(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
        calls.append(t)
        return {"policy": policy_loss(batch, x0, t)}

    assert check_losses(step, SMALL).passed and len(calls) == 1


def halved(inputs: StageInputs) -> Loss:
    """The regression with a factor ½."""
    loss, gradients = regression(inputs)
    return loss / 2, {part: bar.map(lambda a: a / 2) for part, bar in gradients.items()}


HALF = TrainingMistake(
    "half-regression", "The regression has a factor ½.", "actor",
    {"stages": (replace(STAGES[0], loss=halved), STAGES[1])},
    TOY.require_recipe(),
)  # fmt: skip
BANK = TrainingBank(TOY.require_recipe(), (HALF,))


def toy_checkpoint() -> Checkpoint:
    params = TOY.initial(np.random.default_rng(0), 4, 6, (8, 7), 2)
    agent: Agent = TOY
    return Checkpoint(Options("gelu", "min", 5, 3, True, 0.9, 0.8), params=params, agent=agent)


def toy_step(checkpoint: Checkpoint, loss: Any = regression, seen: list[Any] | None = None) -> Any:
    nets = checkpoint.astype("float32").networks()

    def step(batch: Batch, z: Array, next_z: Array) -> Mapping[str, Any]:
        if seen is not None:
            seen.append((z, next_z))
        drawn = {"z": z, "next_z": next_z}
        value, gradients = loss(StageInputs(nets, batch, EXPOSING, drawn))
        return {"actor": value, "grad/actor": gradients["actor"]}

    return step


def test_an_agent_with_draws_of_its_own() -> None:
    """The toy agent's z and next_z, drawn or given; a mistake in its own bank is named."""
    ck, rng = toy_checkpoint(), np.random.default_rng(1)
    assert check_losses(toy_step(ck), ck, hyper=EXPOSING, bank=BANK).passed
    drawn = {n: rng.standard_normal((24, 6)).astype("f4") for n in ("z", "next_z")}
    seen: list[Any] = []
    report = check_losses(toy_step(ck, seen=seen), ck, hyper=EXPOSING, bank=BANK, drawn=drawn)
    assert report.passed
    np.testing.assert_array_equal(seen[0][0], drawn["z"])
    with pytest.raises(CrossCheckError, match=r"^half-regression\n") as caught:
        check_losses(toy_step(ck, halved), ck, hyper=EXPOSING, bank=BANK, drawn=drawn)
    assert "a factor ½" in str(caught.value)
    for name in ("x0", "zed"):
        with pytest.raises(InputError, match=f"unknown draw '{name}'.*z"):
            check_losses(toy_step(ck), ck, bank=BANK, hyper=EXPOSING, drawn={name: drawn["z"]})
    with pytest.raises(InputError, match=r"z must have shape \(24, 6\)"):
        check_losses(toy_step(ck), ck, bank=BANK, hyper=EXPOSING, drawn={"z": np.zeros((2, 6))})
