"""Diagnosis of float32 ports made of our own simulations. Real ports: benchmarks/crosscheck.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.crosscheck.compare import as_dict, compare
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, Mistakes, candidates
from qgf_ref.crosscheck.sampler.mistakes.base import offset_variant
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.crosscheck.sampler.report import heat_map, text
from qgf_ref.crosscheck.sampler.runs import free_running
from qgf_ref.interop.trace_file import recorded_trace
from tests.crosscheck.ports import case, inputs, lively, port_run, setting
from tests.helpers.some import some

CHECKPOINT = lively()
CHOSEN = setting(CHECKPOINT)
AREAS = {
    "layer-norm-affine-missing": "parameters",
    "gelu-erf": "networks",
    "layer-norm-eps-1e-5": "networks",
    "matmul-tf32": "networks",
    "time-interleaved": "time",
    "time-float64": "time",
    "grid-inclusive": "time",
    "query-unclipped": "query",
    "guidance-after-step": "query",
    "critic-online": "query",
    "ensemble-mean": "aggregation",
    "gradient-clip-masked": "gradient",
    "gradient-batch-mean": "batch",
    "guidance-convex": "update",
    "final-clip-missing": "update",
    "chunk-action-major": "update",
}


def made(*names: str) -> Mistakes:
    """The usual variant of each."""
    found = candidates(CHOSEN.port(), 2)
    return tuple(next(m for m in found if m.name == name) for name in names)


def found_in(mistakes: Mistakes, *, traced: bool = True, best_of: int = 1) -> Diagnosis:
    given = inputs(CHECKPOINT, best_of=best_of)
    run = port_run(CHOSEN, mistakes, given)
    kept = run if traced else {"action": run["action"]}
    return diagnose(CHOSEN, [case(given, kept)])[2]


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "final"])
@pytest.mark.parametrize("name", some(AREAS, 3))
def test_mistakes_are_named_alone(name: str, traced: bool) -> None:
    diagnosis = found_in(made(name), traced=traced)
    assert [e.names for e in diagnosis.explanations] == [(name,)]
    assert not diagnosis.agrees and not diagnosis.ambiguous


@pytest.mark.parametrize("name", some(["best-of-argmin", "best-of-mean", "best-of-tiled"], 1))
def test_best_of_n(name: str) -> None:
    diagnosis = found_in(made(name), traced=False, best_of=4)
    assert [e.names for e in diagnosis.explanations] == [(name,)]


def test_the_place_of_a_mistake_in_the_networks_is_told() -> None:
    for place in ("in the policy only", "in the critic only", "in policy and critic"):
        diagnosis = found_in((Made("gelu-erf", place),))
        assert [str(e.mistakes[0]) for e in diagnosis.explanations] == [f"gelu-erf ({place})"]
        assert not diagnosis.explanations[0].variants


@pytest.mark.parametrize(
    "names",
    [
        ("gelu-erf", "gradient-negated"),
        pytest.param(("layer-norm-eps-1e-3", "biases-missing"), marks=pytest.mark.slow),
        pytest.param(("ensemble-mean", "gradient-times-1-t"), marks=pytest.mark.slow),
        ("query-unclipped", "guidance-without-dt"),
    ],
    ids="+".join,
)
def test_pairs_are_found(names: tuple[str, str]) -> None:
    diagnosis = found_in(made(*names))
    assert [set(e.names) for e in diagnosis.explanations] == [set(names)]


@pytest.mark.slow
def test_three_mistakes_in_three_places_are_found() -> None:
    names = ("time-sin-first", "ensemble-sum", "clip-every-step")
    diagnosis = found_in(made(*names))
    assert [set(e.names) for e in diagnosis.explanations] == [set(names)]


def test_a_pair_is_found_from_final_actions() -> None:
    diagnosis = found_in(made("gelu-erf", "guidance-on-clean-estimate"), traced=False)
    assert {"gelu-erf", "guidance-on-clean-estimate"} in [
        set(e.names) for e in diagnosis.explanations
    ]


@pytest.mark.slow
def test_what_nothing_separates_is_called_ambiguous() -> None:
    """A weight below 1 that is cut to an integer is no guidance."""
    diagnosis = found_in(made("weight-integer"))
    assert {e.names for e in diagnosis.explanations} == {("weight-integer",), ("guidance-missing",)}
    assert diagnosis.ambiguous


@pytest.mark.parametrize(
    ("quantity", "step"),
    some(
        [("v", 0), ("v", 3), ("a1_hat", 3), ("q", 3), ("g", 0), ("g", 3), ("a", 3), ("action", 0)],
        2,
    ),
)
def test_an_unknown_mistake_is_reported_where_it_first_shows(quantity: str, step: int) -> None:
    """From a step on, one quantity of the record is off by 1e-3 of itself, with no pattern."""
    given = inputs(CHECKPOINT)
    run = port_run(CHOSEN, (), given)
    rng = np.random.default_rng(0)
    noise = 1 + 1e-3 * rng.standard_normal(run[quantity].shape).astype(np.float32)
    wrong = run[quantity].copy()
    wrong[step:] = wrong[step:] * noise[step:]
    recorded = recorded_trace({**run, quantity: wrong, "obs": given.obs, "noise": given.noise})
    result = compare(CHECKPOINT, recorded, estimator="qgf", weight=0.3)
    assert result.diagnosis.unknown is not None and not result.diagnosis.explanations
    assert result.first == (step, quantity)
    assert result.worst is not None and result.worst.quantity == quantity
    assert "unknown" in text(result)


def test_the_nearest_mistake_is_shown_when_none_fits() -> None:
    """LayerNorm with epsilon 1e-4 lies between the two of the bank."""
    given = inputs(CHECKPOINT)
    between = Made("layer-norm-eps-1e-3", "in policy and critic")
    run, off = port_run(CHOSEN, (), given), port_run(CHOSEN, (between,), given)
    v = (0.3 * run["v"] + 0.7 * off["v"]).astype(np.float32)
    diagnosis = diagnose(CHOSEN, [case(given, {**run, "v": v})])[2]
    assert diagnosis.unknown == "v"
    assert diagnosis.nearest[0].made.name == "layer-norm-eps-1e-3"
    assert diagnosis.nearest[0].explained == pytest.approx(1 - (0.3 / 0.7) ** 2, abs=0.01)


def test_frequencies_off_by_a_unit_are_harmless_and_more_are_named() -> None:
    small = Made("time-frequencies", offset_variant((0, 1, 0, -1, 0, 0, 0, 0)))
    diagnosis = found_in((small,))
    assert diagnosis.agrees
    assert [e.mistakes for e in diagnosis.explanations] == [(small,)]
    large = Made("time-frequencies", offset_variant((0, 3, 0, 0, 0, 0, 0, 0)))
    diagnosis = found_in((large,))
    assert not diagnosis.agrees
    assert [e.mistakes for e in diagnosis.explanations] == [(large,)]


SCALED = Made("time-scaled-frequencies", "")
OTHERS = Made("time-scaled-frequencies", offset_variant((0, 1, 0, 0, 0, -1, 0, 0)))
WORSE = Made("time-scaled-frequencies", offset_variant((0, 0, 1, 0, 0, 4, 0, 0)))
PAIR = (WORSE, Made("gradient-clip-masked", ""))


@pytest.mark.parametrize("made", [SCALED, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=str)
def test_angles_that_are_multiplied_in_another_order_agree(made: Made) -> None:
    """t·(10⁴·f) for (10⁴·t)·f, as a PyTorch port with a table of frequencies writes it."""
    assert found_in((made,)).agrees  # at T = 5 frequencies that are rounded otherwise say as much


@pytest.mark.parametrize(
    "both",
    [(SCALED,), *(pytest.param(m, marks=pytest.mark.slow) for m in ((OTHERS,), PAIR))],
    ids=lambda both: "+".join(map(str, both)),
)
def test_angles_that_are_multiplied_in_another_order_are_named(both: Mistakes) -> None:
    checkpoint = lively(steps=10)
    chosen, given = setting(checkpoint), inputs(checkpoint)
    (found,) = diagnose(chosen, [case(given, port_run(chosen, both, given))])[2].explanations
    assert found.names == tuple(item.name for item in both)


def test_quotients_for_products_of_times_agree() -> None:
    """T = 6: fl(5)/fl(6) is not fl(5)·fl(1/6); both are k/T."""
    checkpoint = lively(steps=6)
    chosen = setting(checkpoint)
    given = inputs(checkpoint)
    run = port_run(replace(chosen, divided=True), (), given)
    used, _, diagnosis = diagnose(chosen, [case(given, run)])
    assert diagnosis.agrees and used.divided
    wrong = port_run(replace(chosen, divided=True), made("gelu-erf"), given)
    used, _, diagnosis = diagnose(chosen, [case(given, wrong)])
    assert used.divided and [e.names for e in diagnosis.explanations] == [("gelu-erf",)]


def test_float64_ports_embed_exact_times_or_rounded_ones() -> None:
    given = inputs(CHECKPOINT)
    wide = given._replace(obs=given.obs.astype(float), noise=given.noise.astype(float))
    for precision in ("exact", "float32"):
        run = free_running(replace(CHOSEN, time_precision=precision).port(seed=77), wide)
        used, _, diagnosis = diagnose(CHOSEN, [case(wide, run)])
        assert diagnosis.agrees and used.time_precision == precision
    exact = replace(CHOSEN, time_precision="exact")
    run = free_running(exact.port(made("layer-norm-eps-1e-5"), seed=77), wide)
    diagnosis = diagnose(CHOSEN, [case(wide, run)])[2]
    assert [e.names for e in diagnosis.explanations] == [("layer-norm-eps-1e-5",)]


@pytest.mark.parametrize("kept", some(["g", "a", "v q", "a g", "a1_hat g"], 2))
def test_any_subset_of_quantities_is_enough(kept: str) -> None:
    given = inputs(CHECKPOINT)
    run = port_run(CHOSEN, made("gradient-clip-masked"), given)
    some_of_it = {name: run[name] for name in (*kept.split(), "action")}
    diagnosis = diagnose(CHOSEN, [case(given, some_of_it)])[2]
    assert [e.names for e in diagnosis.explanations] == [("gradient-clip-masked",)]


@pytest.mark.slow
def test_the_same_record_gives_the_same_report_twice() -> None:
    given = inputs(CHECKPOINT)
    run = port_run(CHOSEN, made("critic-online"), given)
    recorded = recorded_trace({**run, "obs": given.obs, "noise": given.noise})
    one, two = (compare(CHECKPOINT, recorded, estimator="qgf", weight=0.3) for _ in range(2))
    assert as_dict(one) == as_dict(two)
    assert text(one) == text(two)
    assert max(map(len, text(one).splitlines())) <= 100
    assert heat_map(one) == heat_map(two)


@pytest.mark.slow
def test_several_cases_must_all_be_explained() -> None:
    """Neither case alone tells the two apart; together they leave one."""
    ones = inputs(CHECKPOINT, weight=1.0)
    given = inputs(CHECKPOINT)
    mistakes = made("weight-squared")
    alone = diagnose(CHOSEN, [case(ones, port_run(CHOSEN, mistakes, ones))])[2]
    assert alone.agrees
    cases: list[RecordedCase] = [case(i, port_run(CHOSEN, mistakes, i)) for i in (ones, given)]
    both = diagnose(CHOSEN, cases)[2]
    assert [e.names for e in both.explanations] == [("weight-squared",)]


@pytest.mark.slow
def test_too_few_numbers_are_not_fitted() -> None:
    """v in float16, two rows, final actions alone: four numbers would fit seven offsets."""
    given = inputs(CHECKPOINT, rows=2)
    run = port_run(CHOSEN, (), given)
    off = {"action": (run["action"] + np.float32(3e-4) * np.sign(run["v"][0])).astype(np.float32)}
    diagnosis = diagnose(CHOSEN, [case(given, off)])[2]
    assert not any("time-frequencies" in e.names for e in diagnosis.explanations)


def test_numbers_of_half_precision_are_called_that() -> None:
    given = inputs(CHECKPOINT)
    run = {name: x.astype(np.float16) for name, x in port_run(CHOSEN, (), given).items()}
    recorded = recorded_trace({**run, "obs": given.obs, "noise": given.noise})
    result = compare(CHECKPOINT, recorded, estimator="qgf", weight=0.3)
    assert not result.agrees and "every number is a float16" in text(result)
