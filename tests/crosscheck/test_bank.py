"""The bank itself: names, the catalogue, and the first quantity that each mistake changes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qgf_ref.crosscheck.sampler.mistakes.bank import (
    BANK,
    Made,
    candidates,
    first_quantity,
    mistake,
    mistake_names,
    order,
    with_mistakes,
)
from qgf_ref.crosscheck.sampler.mistakes.base import AREAS, offset_variant, offsets_of
from qgf_ref.crosscheck.sampler.runs import Predicted, free_running, teacher_forced
from qgf_ref.errors import InputError
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.sampling import sample, trace
from tests.conftest import SHARED
from tests.crosscheck.ports import inputs, lively, setting

# every entry of ../shared/spec/mutants.md, A to D: the bank's name, or why it is not in the bank
CATALOGUE = {
    "A1": "gelu-erf", "A2": "gelu-quick", "A3": "activation-relu", "A4": "layer-norm-eps-1e-5",
    "A5": "layer-norm-eps-1e-3", "A6": "layer-norm-unbiased",
    "A7": "!equal in float64, and no further from it than the official formula in float32",
    "A8": "layer-norm-affine-missing", "A9": "layer-norm-member-0",
    "A10": "policy-norm-last-hidden", "A11": "critic-norm-last-hidden-missing",
    "A12": "policy-activation-last-hidden-missing", "A13": "activation-before-norm",
    "A14": "biases-missing", "A15": "kernels-transposed", "A16": "critic-input-action-first",
    "A17": "policy-input-action-first", "A18": "ensemble-axis-reshaped", "A19": "time-sin-first",
    "A20": "time-interleaved", "A21": "time-unscaled", "A22": "time-scale-1000",
    "A23": "time-half-minus-1", "A25": "time-index", "A26": "time-float64",
    "A27": "!the width of the input does not fit: the port crashes", "A28": "policy-output-tanh",
    "B1": "grid-next", "B2": "grid-inclusive", "B3": "grid-reversed", "B4": "grid-midpoint",
    "B5": "steps-plus-1", "B6": "query-factor-t", "B7": "query-factor-minus-dt",
    "B8": "query-factor-1", "B9": "query-factor-dt", "B10": "query-unclipped",
    "B12": "query-noisy", "B13": "query-noisy-clipped", "B15": "query-guided-velocity",
    "B16": "query-clip-inside",
    "C1": "gradient-clip-masked", "C2": "gradient-jacobian", "C3": "gradient-jacobian-unmasked",
    "C4": "gradient-jvp-for-vjp", "C5": "gradient-bptt", "C6": "gradient-at-noisy-action",
    "C7": "ensemble-mean", "C8": "ensemble-sum", "C9": "ensemble-max", "C10": "ensemble-member-0",
    "C11": "ensemble-min-of-batch-sum", "C12": "ensemble-min-over-batch", "C13": "critic-online",
    "C14": "gradient-batch-mean", "C15": "gradient-batch-ensemble-mean",
    "C16": "gradient-unit-norm", "C17": "gradient-sign", "C19": "gradient-times-1-t",
    "C20": "gradient-velocity-norm",
    "C21": "!the scale of the action is the port's own number: reported as unknown at g",
    "C22": "gradient-negated", "C23": "gradient-of-observation", "C24": "gradient-action-mean",
    "C25": "ties-first", "C27": "gradient-jacobian", "C28": "best-of-tiled",
    "D1": "guidance-without-dt", "D2": "weight-inverted", "D3": "guidance-convex",
    "D4": "guidance-on-clean-estimate", "D5": "guidance-after-step", "D6": "weight-default-1",
    "D7": "weight-squared", "D9": "clip-every-step", "D10": "final-clip-missing",
    "D11": "best-of-ranks-unclipped", "D12": "noise-clipped", "D13": "chunk-action-major",
    "D14": "best-of-tiled", "D15": "best-of-argmin", "D16": "best-of-whole-batch",
    "D17": "best-of-last", "D18": "!the noise is given", "D19": "weight-zero-as-default",
}  # fmt: skip

GELU, RELU = lively(), lively(1, activation="relu", aggregation="mean", members=3)
# what random members and distinct candidates cannot show is shown in test_testing.py
SILENT = {"ties-first", "best-of-last", "weight-zero-as-default", "grid-accumulated"}
# for other estimators or precisions: below, and in test_diagnosis.py
ELSEWHERE = {"gradient-plain", "gradient-masked-too", "time-float32"}


def test_the_catalogue_is_covered() -> None:
    for name in CATALOGUE.values():
        if not name.startswith("!"):
            mistake(name)
    listing = SHARED / "spec" / "mutants.md"
    if not listing.exists():
        pytest.skip(f"needs {listing}, which a bare clone does not have")
    ids = re.findall(r"^\| ([A-D]\d+) \|", listing.read_text(), re.MULTILINE)
    assert len(ids) > 60
    assert set(ids) == set(CATALOGUE)


def test_entries_are_well_formed() -> None:
    assert len(BANK) >= 40
    assert len(set(mistake_names())) == len(BANK)
    assert {m.area for m in BANK} == set(AREAS)
    for m in BANK:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", m.name)
        assert m.first in CAUSAL
        assert len(m.says) > 10 and m.says[-1] not in ".:;"
        assert m.variants or m.family


def test_unknown_mistakes_list_the_names() -> None:
    with pytest.raises(InputError, match=r"unknown mistake 'gelu-exact'.*gelu-erf"):
        mistake("gelu-exact")


def test_a_port_without_mistakes_is_the_reference_bit_for_bit() -> None:
    given = inputs(GELU, best_of=3)
    port = setting(GELU).port()
    flow = GELU.guided_flow(embedding="float32")
    obs, noise = given.obs.astype(np.float64), given.noise.astype(np.float64)
    cast = given._replace(obs=obs, noise=noise)
    ours = sample(flow, obs, weight=given.weight, noise=noise, best_of=3)
    found = free_running(port, cast)
    np.testing.assert_array_equal(found["action"], ours)
    whole = trace(flow, np.repeat(obs, 3, axis=0), weight=given.weight, noise=noise)
    forced = teacher_forced(port, cast, whole.a)
    for name in ("a", "v", "a1_hat", "q", "g"):
        np.testing.assert_array_equal(found[name], getattr(whole, name), err_msg=name)
        np.testing.assert_array_equal(forced[name], getattr(whole, name), err_msg=name)
    np.testing.assert_array_equal(forced["action"], ours)


def first_changes(name: str, variant: str) -> tuple[str | None, int]:
    """The first quantity that this mistake changes in a teacher-forced run, and its own claim."""
    made = Made(name, variant)
    for checkpoint in (GELU, RELU):
        chosen = setting(checkpoint)
        if made not in candidates(chosen.port(), 2):
            continue
        seen: set[str] = set()
        for weight in (0.3, 1.5):
            given = inputs(checkpoint, best_of=2 if mistake(name).selects else 1, weight=weight)
            given = given._replace(obs=given.obs.astype(float), noise=given.noise.astype(float))
            right = free_running(chosen.port(), given)
            wrong = teacher_forced(with_mistakes(chosen.port(), (made,)), given, right["a"])
            seen |= {n for n in CAUSAL if not _same(wrong, right, n)}
        return next((n for n in CAUSAL if n in seen), None), first_quantity(made)
    raise AssertionError(f"{made} applies to neither checkpoint")


def _same(one: Predicted, two: Predicted, name: str) -> bool:
    return one[name].shape == two[name].shape and np.array_equal(one[name], two[name])


@pytest.mark.parametrize(
    ("name", "variant"),
    [(m.name, v) for m in BANK for v in m.variants if m.name not in SILENT | ELSEWHERE],
    ids=lambda x: x.replace(" ", "_") or "usual",
)
def test_each_mistake_first_shows_where_it_says(name: str, variant: str) -> None:
    found, claimed = first_changes(name, variant)
    assert found is not None
    assert order(found) == claimed


def test_mistakes_of_other_estimators() -> None:
    given = inputs(GELU)
    given = given._replace(obs=given.obs.astype(float), noise=given.noise.astype(float))
    for estimator, wrong, equal in (
        ("qgf_jacobian", "gradient-plain", "qgf"),
        ("qgf_jacobian_unmasked", "gradient-masked-too", None),
        ("qgf_masked", "gradient-plain", "qgf"),
    ):
        port = setting(GELU, estimator).port((Made(wrong, ""),))
        found = free_running(port, given)
        stated = free_running(setting(GELU, estimator).port(), given)
        assert not np.array_equal(found["g"], stated["g"])
        if equal is not None:
            right = free_running(setting(GELU, equal).port(), given)
            np.testing.assert_array_equal(found["action"], right["action"])


def test_no_offset_is_the_reference_and_offsets_are_read_back() -> None:
    given = inputs(GELU)
    given = given._replace(obs=given.obs.astype(float), noise=given.noise.astype(float))
    chosen = setting(GELU)
    none = chosen.port((Made("time-frequencies", offset_variant((0,) * 8)),))
    one = chosen.port((Made("time-frequencies", offset_variant((0, 1, 0, 0, 0, 0, 0, 0))),))
    right = free_running(chosen.port(), given)["v"]
    np.testing.assert_allclose(free_running(none, given)["v"], right, atol=2e-6)
    assert np.abs(free_running(one, given)["v"] - right).max() > 2e-6
    assert offsets_of(offset_variant((0, -1, 12))) == (0, -1, 12)
