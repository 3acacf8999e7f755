"""check_losses of DQC: the official numbers, right variants, batches that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.golden import GOLDEN, nested
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import ONLINE
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update import check as training
from qgf_ref.crosscheck.update.banks import bank_of
from qgf_ref.crosscheck.update.check import TrainingStep
from qgf_ref.crosscheck.update.inputs import case_of
from qgf_ref.crosscheck.update.runs import TrainingCase
from qgf_ref.errors import InputError
from qgf_ref.interop.official import params_from_flax
from qgf_ref.losses.batch import GoalBatch
from qgf_ref.ops.logits import logit_of, probability
from qgf_ref.testing import EXPOSING, CrossCheckError, TrainingReport, check_losses, default_batch
from tests.conftest import small_checkpoint
from tests.helpers.agents import VARIANTS, saying, small_agent, variant
from tests.helpers.dqc_golden import PARTS, Case, official_losses

HYPER = replace(EXPOSING, denoise_steps=3)
LOSSES = {
    "policy": "actor/bc_flow_loss", "chunk_critic": "chunk_critic/critic_loss",
    ONLINE: "action_critic/critic_loss", "value": "action_critic/value_loss",
}  # fmt: skip


def golden(name: str) -> Case:
    path = GOLDEN / "gc" / name
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    return Case(path)


def official_step(case: Case, ck: Checkpoint, prefix: str = "", after: int = 0) -> TrainingStep:
    """The official float32 losses and gradients, and the parameters after so many updates."""
    z, recipe = case.arrays("train_step_float32"), ck.agent.require_recipe()

    def arrays(kind: str, part: str) -> Any:
        return params_from_flax(
            nested(z, f"{prefix}official/{kind}/{PARTS.get(part, part)}/"), part
        )

    def step(*given: Any) -> Mapping[str, Any]:
        losses = {n: float(z[f"{prefix}official/info/{LOSSES[n]}"]) for n in recipe.losses}
        bars = {f"grad/{part}": arrays("grad", part) for part in recipe.trained}
        moved = {f"params/{p}": arrays(f"after{after}", p) for p in ck.agent.part_names if after}
        return {**losses, **bars, **moved}

    return step


@pytest.mark.parametrize("name", ["cube", *(pytest.param(n, marks=pytest.mark.slow)
                                            for n in ("puzzle", "state_goals"))])  # fmt: skip
def test_the_official_steps_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured 1.5 times rounding at most, of a limit of 5."""
    monkeypatch.setattr(training, "unseen", lambda *arguments: ())
    case = golden(name)
    ck, z = case.checkpoint("float32"), case.arrays("train_step_float32")
    for after in (1, 5):
        drawn: dict[str, Any] = {
            n: np.concatenate([a[None], z[f"more/{n}"][: after - 1]]).astype(np.float32)
            for n, a in case.drawn("float32").items()
        }
        step, batch = official_step(case, ck, after=after), case.batch("train", "float32")
        report = check_losses(
            step, ck, batch=batch, hyper=case.hyper(), updates=after, **drawn
        )  # fmt: skip
        assert max(c.ratio for c in report.comparisons) < 2.5


def fits_of(step: TrainingStep, ck: Checkpoint, **options: Any) -> list[str]:
    with pytest.raises(CrossCheckError) as error:
        check_losses(step, ck, **options)
    report = error.value.report
    assert isinstance(report, TrainingReport) and report.diagnosis is not None
    return [fit.name for fit in report.diagnosis.fits]


def test_the_official_column_of_valid_is_named() -> None:
    """T5, of official losses and gradients on windows that an episode's end cuts."""
    case = golden("puzzle")
    ck = case.checkpoint("float32")
    step, batch = official_step(case, ck, "edge/"), case.batch("edge", "float32")
    drawn = {name: a[None] for name, a in case.drawn("float32", "edge/").items()}
    named = fits_of(step, ck, batch=batch, hyper=case.hyper(), updates=1, drawn=drawn)
    assert named == ["valid-of-flat-chunk"]


@pytest.mark.slow
def test_the_official_bound_is_named() -> None:
    """T10, of the official float32 losses of quantiles distilled from n-step targets."""
    case, kind = golden("cube"), "quantile-quantile-min-nstep"
    own = {"distill_method": "quantile", "use_chunk_critic": False}
    ck, z = case.checkpoint("float32", "min", **own), case.arrays("train_step_float32")
    losses, batch = official_losses(z, f"variant_float32/{kind}/"), case.batch("train", "float32")
    drawn = {name: a[None] for name, a in case.drawn("float32").items()}
    named = fits_of(
        lambda *given: losses, ck, batch=batch, hyper=case.hyper(), updates=1, drawn=drawn
    )
    assert named == ["distillation-bound-float32"]


def test_the_logit_of_a_rounded_probability_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DQC's code takes it: at 9 it is 3e-4 off in float32; this was "unknown at value"."""
    monkeypatch.setattr(training, "unseen", lambda *arguments: ())
    ck = variant("dqc", members=1)
    ck = ck.with_params(target_action_critic=saying(9, ck.params["target_action_critic"]))
    bank = bank_of(ck.agent)
    recipe: Any = bank.reference
    rounded = replace(recipe, backup=lambda i: logit_of(probability(recipe.backup(i))[0]))

    def step(batch: Any, x0: Array, t: Array) -> Mapping[str, Any]:
        case = TrainingCase(bank, ck, batch, {"x0": x0[None], "t": t[None]}, HYPER, 0)
        return case.run(rounded, "float32").quantities()

    errors = {c.quantity: c.error for c in check_losses(step, ck, hyper=HYPER).comparisons}
    assert errors["value"] > 1e-6


def test_the_logit_of_a_saturated_probability_is_told() -> None:
    """T9: infinite, or nan where valid is 0; a finite loss of the same networks is right."""
    ck = variant("dqc", members=1)
    ck = ck.with_params(target_action_critic=saying(20, ck.params["target_action_critic"]))
    bank = bank_of(ck.agent)
    recipe: Any = bank.reference

    def saturated(inputs: Any) -> Array:
        q = probability(recipe.backup(inputs))[0].astype(np.float32)
        return logit_of(q)

    def step(batch: Any, x0: Array, t: Array) -> Mapping[str, Any]:
        case = TrainingCase(bank, ck, batch, {"x0": x0[None], "t": t[None]}, HYPER, 0)
        with np.errstate(invalid="ignore"):
            return case.run(replace(recipe, backup=saturated), "float32").quantities()

    with pytest.raises(CrossCheckError, match=r"infinite, and 0·∞.*\(T9\)|z = 16\.64"):
        check_losses(step, ck, hyper=HYPER)


def test_a_batch_shows_what_data_do_not() -> None:
    ck = variant("dqc")
    batch = default_batch(ck)
    assert isinstance(batch, GoalBatch) and batch.steps.dtype == np.int64
    assert batch.obs.dtype == np.float32 and batch.policy_goal.shape == batch.goal.shape
    early = (batch.masks == 1) & (batch.steps < 5)
    assert early.any() and (batch.masks[batch.steps == 5] == 1).all()
    inside = batch.valid.sum(axis=1)
    assert set(inside) == {1, 2, 5}
    assert ((batch.rewards == 1) & (batch.steps == 0) & (batch.masks == 0)).any()


def changed(ck: Checkpoint, **arrays: Array) -> Any:
    return replace(default_batch(ck), **arrays)  # type: ignore[arg-type]


def test_batches_that_do_not_fit() -> None:
    ck, plain = variant("dqc"), small_checkpoint()
    batch = default_batch(ck)

    def step(*given: Any) -> Any:
        raise AssertionError("it is not called")

    wrong: dict[str, Any] = {
        r"GoalBatch .* agent dqc, got Batch, which lacks goal, ": default_batch(plain),
        r"batch.goal must have shape \(rows, 2\), got \(24, 3\)": changed(
            ck, goal=np.ones((24, 3))
        ),
        r"batch.action must have shape \(rows, 15\)": changed(ck, action=np.ones((24, 6))),
        r"batch.valid must have shape \(rows, 5\)": changed(ck, valid=np.ones((24, 2))),
        r"batch.steps must be an array of integers": changed(ck, steps=np.ones(24)),
        r"batch.steps must lie in 0 … backup_horizon 5, got 6 … 6": changed(
            ck, steps=np.full(24, 6)
        ),
        r"batch.masks has shape \(2,\); batch.obs has 24 rows": changed(ck, masks=np.ones(2)),
    }
    for message, other in wrong.items():
        with pytest.raises(InputError, match=message):
            check_losses(step, ck, batch=other)
    with pytest.raises(InputError, match=r"must be a Batch .* agent iql, got GoalBatch"):
        check_losses(step, plain, batch=batch)
    with pytest.raises(InputError, match=r"unknown draw 'z'.*t, x0"):
        check_losses(step, ck, drawn={"z": np.zeros((24, 6))})


def test_equal_horizons_have_no_mistakes_of_chunks() -> None:
    """QC and OS: what h = h_a makes right is not looked for."""
    for h in (1, 3):
        own = {"backup_horizon": h, "policy_chunk_size": h, "use_chunk_critic": False}
        ck = small_agent("dqc", {**VARIANTS["dqc"], **own})
        names = {m.name for m in bank_of(ck.agent).mistakes}
        assert not names & {"valid-of-flat-chunk", "chunk-from-the-end", "chunk-critic-short"}
        case = case_of(bank_of(ck.agent), ck, None, {}, HYPER, 0, 0)
        assert np.isfinite(list(case.run(case.bank.reference, "exact").first.values.values())).all()


@pytest.mark.parametrize("chunk", [True, False])
@pytest.mark.parametrize("policy", [(True, "dqc"), (False, "qgf")])
def test_every_mistake_is_simulated_whatever_the_policy(
    policy: tuple[bool, str], chunk: bool
) -> None:
    """time-unscaled failed on QGF's flow without goals."""
    own = {"policy_goals": policy[0], "policy_network": policy[1], "use_chunk_critic": chunk}
    ck = variant("dqc", own)
    case = case_of(bank_of(ck.agent), ck, None, {}, HYPER, 0, 0)
    right = case.run(case.bank.reference, "exact").first.values
    hidden = ("backup-of-one-member-over-batch", "distillation-strict")
    for mistake in case.bank.mistakes:
        values = case.run(mistake.recipe, "exact").first.values
        if mistake.first in right and not mistake.changes.keys() & {"in_turn"}:
            assert (values[mistake.first] != right[mistake.first]) == (mistake.name not in hidden)
