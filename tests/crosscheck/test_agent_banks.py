"""check_losses of the paper's other agents: their banks, and steps of theirs that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.recipe import Recipe
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.update.banks import bank_of
from qgf_ref.crosscheck.update.check import TrainingReport, TrainingStep
from qgf_ref.crosscheck.update.inputs import case_of
from qgf_ref.crosscheck.update.mistake import TrainingMistake, combined
from qgf_ref.crosscheck.update.rounding import exact, size
from qgf_ref.crosscheck.update.runs import TrainingCase
from qgf_ref.errors import InputError
from qgf_ref.losses.batch import Batch
from qgf_ref.testing import EXPOSING, CrossCheckError, check_losses
from tests.agents.toy.agent import TOY
from tests.helpers.agents import VARIANTS, showing, variant

HYPER = replace(EXPOSING, denoise_steps=3)
SHOWN_BY_FEW = ("-strict", "-over-batch", "-bound-float32")
"""Mistakes that only special networks show."""


def port(name: str, recipe: Recipe | None = None, updates: int = 0) -> TrainingStep:
    """Ours, in float32, with a recipe that may be wrong."""
    ck = variant(name)
    bank = bank_of(ck.agent)

    def step(batch: Batch, *arrays: Array) -> Mapping[str, Any]:
        names = [draw.name for draw in bank.reference.draws]
        drawn = {n: a if updates else a[None] for n, a in zip(names, arrays, strict=True)}
        case = TrainingCase(bank, ck, batch, drawn, HYPER, updates)
        return case.run(recipe or bank.reference, "float32").quantities()

    return step


def named(name: str, *mistakes: str, updates: int = 0) -> TrainingReport:
    """The report on a port with these mistakes, which names them and no others."""
    bank = {m.name: m for m in bank_of(variant(name).agent).mistakes}
    recipe = combined([bank[m] for m in mistakes])
    with pytest.raises(CrossCheckError) as error:
        check_losses(port(name, recipe, updates), variant(name), hyper=HYPER, updates=updates)
    report = error.value.report
    assert isinstance(report, TrainingReport) and report.diagnosis is not None
    assert [fit.name for fit in report.diagnosis.fits] == [" + ".join(mistakes)]
    return report


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mistake_changes_first_what_it_says(name: str) -> None:
    """In float64, one update: losses first, then gradients, what Adam is given, parameters."""
    bank = bank_of(variant(name).agent)
    assert len({m.name for m in bank.mistakes}) == len(bank.mistakes)

    @cache
    def right(own: str, updates: int) -> tuple[TrainingCase, dict[str, Any]]:
        case = case_of(bank, showing(name, own), None, {}, HYPER, updates, 0)
        return case, exact(bank.reference, case, "float64", "exact")

    for mistake in bank.mistakes:
        late = mistake.first.startswith("params") or "in_turn" in mistake.changes
        own = mistake.name if mistake.name.endswith(SHOWN_BY_FEW) else ""
        case, expected = right(own, int(late))
        values = exact(mistake.recipe, case, "float64", "exact")
        changed = [n for n in bank.quantities if n in values and _apart(values[n], expected[n])]
        assert changed and changed[0].startswith(_first(mistake, bank.reference)), mistake.name


def _first(mistake: TrainingMistake, recipe: Recipe) -> str:
    # of several averages, the first
    first = mistake.first
    return f"params/{next(iter(recipe.targets))}" if first == "params/target_critic" else first


def _apart(a: Any, b: Any) -> bool:
    return size(a.map(lambda x, y: x - y, b) if hasattr(a, "map") else a - b) > 1e-12


@pytest.mark.parametrize("name", ["edp", "fql", "qam ddpg", "dac", "qsm ddpg"])
def test_a_right_step_passes_and_all_that_it_gave_is_judged(name: str) -> None:
    report = check_losses(port(name), variant(name), hyper=HYPER)
    kinds = {c.quantity.partition("/")[0] for c in report.comparisons}
    assert "grad" in kinds and ("received" in kinds) == (name[:3] in ("qam", "dac", "qsm"))
    # what is left over shows after an update alone
    bank = {m.name: m for m in bank_of(variant(name).agent).mistakes}
    for unseen in report.unseen:
        assert bank[unseen].first.startswith("params") or "in_turn" in bank[unseen].changes


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("edp", "valid-in-actor-q"),
        ("fql", "endpoint-differentiated"),
        ("fql ddpg", "next-action-unclipped"),
        ("qam", "adjoint-jacobian-earlier"),
        ("dac", "clip-actor-and-critics-apart"),
        ("qsm", "features-sin-first"),
    ],
)
def test_a_mistake_is_named(name: str, mistake: str) -> None:
    named(name, mistake)


def test_two_mistakes_of_two_stages() -> None:
    report = named("fql", "valid-ignored-in-cloning", "actor-min")
    assert report.first == "actor_bc_flow"


def test_an_agent_without_a_bank_is_compared_all_the_same() -> None:
    bank = bank_of(TOY)
    assert bank.mistakes == () and bank.reference is TOY.recipe


def test_a_draw_of_another_agent_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown draw 'eps'.*adj_x0"):
        check_losses(port("qam"), variant("qam"), drawn={"eps": np.zeros((24, 3))})
