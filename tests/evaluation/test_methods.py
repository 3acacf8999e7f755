"""The grammar of methods."""

from __future__ import annotations

import pytest

from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import DEFAULT_METHODS, Method, parse_method, parse_methods
from qgf_ref.evaluation.settings import Settings
from qgf_ref.guidance.registry import _REGISTRY, learned_estimator_names, register


@pytest.mark.parametrize(
    ("text", "expected", "label"),
    [
        ("bc", Method(), "bc"),
        ("none", Method(), "bc"),
        ("bfn-4", Method(best_of=4), "bfn-4"),
        ("none+bfn-16", Method(best_of=16), "bfn-16"),
        ("qfql", Method("ood"), "ood"),
        ("qgf+bfn-2", Method("qgf", 2), "qgf+bfn-2"),
        ("gradstep", Method(gradient_steps=GradientSteps(3, 0.01)), "gradstep"),
        (
            "gradstep+bfn-2",
            Method(best_of=2, gradient_steps=GradientSteps(3, 0.01)),
            "gradstep+bfn-2",
        ),
    ],
)
def test_grammar(text: str, expected: Method, label: str) -> None:
    assert parse_method(text) == expected
    assert parse_method(text).label == label
    assert parse_method(label) == expected


def test_every_estimator_and_its_best_of_n_is_a_method() -> None:
    for name in learned_estimator_names():
        assert parse_method(name).estimator == parse_method(f"{name}+bfn-3").estimator == name
        assert parse_method(name).weighted == (name != "none")
    assert len(parse_methods(DEFAULT_METHODS)) == 9


def test_an_estimator_of_ones_own() -> None:
    method = parse_method("qgf_ref.guidance.qgf:QGF+bfn-4")
    assert (method.estimator, method.best_of) == ("qgf_ref.guidance.qgf:QGF", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qfg", "unknown method 'qfg'; the valid ones are: .*bptt.*gradstep.*qgf"),
        ("oracle", "unknown method 'oracle'"),
        ("qgf+bon-4", "only bfn-N may follow"),
        ("qgf+bfn-0", "N ≥ 1"),
        ("", "unknown method ''"),
        ("+bfn-4", "unknown method ''"),
        ("no_such_module:f", "cannot import"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(text)


def test_lists() -> None:
    with pytest.raises(InputError, match="bc is given twice"):
        parse_methods(["bc", "qgf", "none"])
    with pytest.raises(InputError, match="at least one"):
        parse_methods([])


def test_identity_tells_gradient_steps_apart() -> None:
    three, five = (parse_method("gradstep", GradientSteps(n, 0.01)) for n in (3, 5))
    assert three.label == five.label
    assert three.identity != five.identity


def test_identity_tells_numbers_of_denoising_steps_apart() -> None:
    own, five = Method("qgf"), Method("qgf", denoise_steps=5)
    assert own.label == five.label
    assert (own.identity, five.identity) == ("qgf", "qgf T=5")
    assert own != five


def test_the_number_of_steps_is_checked_and_told_apart() -> None:
    with pytest.raises(InputError, match="denoise_steps must be from 1"):
        Method("qgf", denoise_steps=0)
    assert Method("qgf", denoise_steps=5).identity == "qgf T=5"


def test_a_registered_estimator_plays_in_this_process_only() -> None:
    """Spawned workers import the package, not what `register` added in the parent."""
    try:
        register("mine", lambda flow, step: step.velocity)
        mine = parse_methods(["mine", "bfn-2"])
        assert Settings(mine, workers=1).methods == mine
        with pytest.raises(InputError, match=r"'mine' was added with register.*module:function"):
            Settings(mine, workers=2)
    finally:
        _REGISTRY.pop("mine", None)
    named = parse_methods(["tests.evaluation.fakes:nudge", "bc", "qgf"])
    assert Settings(named, workers=2).workers == 2
