"""What rounding explains: permuted networks, scatter, and rows that rounding decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.case import PEAK_LIMIT, RMS_LIMIT, RecordedCase
from qgf_ref.crosscheck.sampler.port import divided_times, divides_otherwise
from qgf_ref.crosscheck.sampler.rounding import permuted, reordered
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.flow.path import time_grid
from tests.crosscheck.ports import OTHER_ORDER, case, inputs, lively, port_run, setting


@pytest.mark.parametrize("activation", ["gelu", "relu", "residual"])
def test_permuted_networks_are_the_same_functions(activation: str) -> None:
    """Of residual blocks, units that are added stay beside each other."""
    checkpoint = lively(activation="relu", hidden=(9, 9, 9, 7), members=3)
    if activation == "residual":
        options = replace(checkpoint.options, residual="all", norm_after_activation="all")
        checkpoint = replace(checkpoint, options=options)
    else:
        checkpoint = lively(activation=activation, hidden=(9, 12, 7), members=3)
    given = inputs(checkpoint)
    chosen = setting(checkpoint)
    wide = given._replace(obs=given.obs.astype(float), noise=given.noise.astype(float))
    right = free_running(chosen.port(), wide)
    other = free_running(reordered(chosen.port(), 3), wide)
    for name, value in right.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    params = checkpoint.target_critic
    again = permuted(params, np.random.default_rng(0), checkpoint.options.mlp)
    assert [a.shape for a in again.arrays()] == [a.shape for a in params.arrays()]
    np.testing.assert_array_equal(
        np.sort(again.layers[0].bias, axis=-1), np.sort(params.layers[0].bias, axis=-1)
    )


def test_float32_rounds_otherwise_in_another_order() -> None:
    checkpoint = lively()
    given = inputs(checkpoint)
    one = port_run(setting(checkpoint), (), given)
    port = setting(checkpoint).port((), "float32")
    assert not np.array_equal(free_running(port, given)["v"], one["v"])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["qgf", "qgf_jacobian", "bptt", "ood"])
@pytest.mark.parametrize("rows", [1, 12])
def test_an_independent_float32_run_scores_about_one(estimator: str, rows: int) -> None:
    ratios = []
    for seed in range(4):
        checkpoint = lively(seed, hidden=(24, 24, 24))
        given = inputs(checkpoint, rows=rows, seed=seed)
        chosen = setting(checkpoint, estimator)
        recorded = case(given, port_run(chosen, (), given))
        scatter = recorded.scatter(chosen)
        for name in recorded.observed:
            judged = recorded.judge(name, scatter)
            assert judged.agrees, (name, judged)
            if name in ("v", "q", "g"):
                ratios.append(judged.ratio)
    typical = float(np.sqrt((np.concatenate(ratios) ** 2).mean()))
    assert 0.7 < typical < 1.4


def test_an_error_of_a_few_roundings_in_one_element_is_seen() -> None:
    """A single wrong element among hundreds, at 1e-5: what `query-clip-inside` does."""
    checkpoint = lively()
    given = inputs(checkpoint, rows=40)
    chosen = setting(checkpoint)
    found = port_run(chosen, (), given)
    found["a1_hat"][2, 17, 1] *= np.float32(1 - 1e-5)
    recorded = case(given, found)
    judged = recorded.judge("a1_hat", recorded.scatter(chosen))
    assert judged.excess.argmax() == 2 and judged.excess[2] > 1
    assert (np.delete(judged.excess, 2) <= 1).all()
    assert RMS_LIMIT < PEAK_LIMIT


def test_rows_that_rounding_decides_are_left_out_of_g_but_not_of_q() -> None:
    """Members tied to the last bits: float32 may take either gradient."""
    checkpoint = lively()
    given = inputs(checkpoint, rows=6)
    chosen = setting(checkpoint)
    found = port_run(chosen, (), given)
    gap = found["q"][0, 0, 3] - found["q"][0, 1, 3]
    critic = checkpoint.target_critic
    *rest, last = critic.layers
    shift = np.array([[-gap + 1e-9], [0.0]])
    near = checkpoint.with_params(
        target_critic=type(critic)((*rest, replace(last, bias=last.bias + shift))),
    )
    chosen = setting(near)
    found = port_run(chosen, (), given)
    recorded = case(given, found)
    scatter = recorded.scatter(chosen)
    assert not scatter.decided[3]
    assert scatter.rows("q").all() and not scatter.rows("g")[3] and not scatter.rows("action")[3]
    swapped = {name: x.copy() for name, x in found.items()}
    swapped["g"][0, 3] += 1
    assert case(given, swapped).judge("g", scatter).agrees
    swapped["g"][0, 0] += 1
    assert not case(given, swapped).judge("g", scatter).agrees


def test_relu_kinks_and_clip_edges_are_undecided_where_a_derivative_jumps() -> None:
    checkpoint = lively(activation="relu")
    given = inputs(checkpoint, rows=3)
    for estimator, flagged in (("qgf", False), ("qgf_jacobian", True)):
        chosen = setting(checkpoint, estimator)
        obs, noise = given.obs.astype(float), given.noise.astype(float)
        port = chosen.port()
        velocity, _ = port.flow.field.forward(obs, noise, 0.0)
        # one coordinate's one-step estimate at the bound, to a few units of rounding
        noise = _at_the_edge(port.flow.field, obs, noise, velocity)
        recorded = RecordedCase(case(Inputs(obs, noise, 0.3, 1), port_run(chosen, (), Inputs(
            obs.astype(np.float32), noise.astype(np.float32), 0.3, 1))).trace, 0.3)  # fmt: skip
        assert bool(~recorded.scatter(chosen).decided[1]) is flagged


def _at_the_edge(field: object, obs: Array, noise: Array, velocity: Array) -> Array:
    noise = noise.copy()
    for _ in range(60):
        v, _ = field.forward(obs, noise, 0.0)  # type: ignore[attr-defined]
        noise[1, 0] += 1 + 1e-7 - (noise[1, 0] + v[1, 0])
    return noise.astype(np.float32).astype(float)


def test_divided_times_differ_from_multiplied_ones_only_for_some_numbers_of_steps() -> None:
    assert not divides_otherwise(4) and not divides_otherwise(5)
    assert divides_otherwise(6) and divides_otherwise(7) and divides_otherwise(50)
    np.testing.assert_allclose(divided_times(7), time_grid(7, "float32"), rtol=1e-7)
    assert OTHER_ORDER > 16
