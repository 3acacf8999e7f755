"""What was wrong in somebody's first hour with the adapters: a sentence, or the right number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import Convention, adapters
from qgf_ref.adapters.observations import known_observations
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.flow.convention import convention
from tests.helpers.numpy_flow import bowl, flow, inputs, wave

UNITS = adapters.Normalisation


def units(*shape: int) -> adapters.Normalisation:
    return UNITS(np.zeros(shape), np.ones(shape))


def two_arguments(x: Array, time: Array) -> Array:
    return x


def flat_but_for_differences(obs: Array, x: Array) -> Array:
    return np.rint(x).sum(axis=(1, 2))


def by_row(count: int) -> dict[str, Array]:
    return {"state": np.arange(2.0 * count).reshape(count, 2)}


def selecting(select: Any, count: int = 4) -> Callable[[], Any]:
    return lambda: flow(
        lambda s, x, t: wave(s["state"], x, t), None, obs_dim=None, observations=by_row(count),
        select=select,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *((lambda s=s: flow(action_shape=s), r"action_shape must be D or \(H, A\), got")
          for s in (3.0, "3", (True,), (), 0, np.zeros((2, 2), int))),
        *((lambda n=n: flow(obs_dim=n), "obs_dim must be a whole number ≥ 0")
          for n in (-1, 2.0, "2")),
        (lambda: flow(real=np.array([True, False]), held="a"), "held is the number"),
        *((lambda c=c: flow(convention=c), "unknown convention of type")
          for c in ({"a": 1}, [1], 3)),
        *((lambda d=d: flow(differences=d), r"must name products \(vjp, jvp, hvp\)") for d in (3,)),
        (lambda: flow(differences="jv"), "unknown product 'jv'"),
        (lambda: flow(action_bound="1"), "action_bound must be positive or None, or a pair"),
        (lambda: flow(critic_units="x"), "must be a qgf_ref.adapters.Normalisation, got str"),
        (lambda: flow(critic_units=units(3)), r"must have shape \(2,\) or \(6,\), got \(3,\)"),
        (lambda: units(4, 6), r"must have shape \(D,\) or \(\), got \(4, 6\)"),
        (lambda: UNITS(np.zeros(2), np.ones(3)), r"\(D,\) or \(\), got \(2,\) and \(3,\)"),
        (selecting(3), "select must be a function .* got int"),
        (selecting(lambda s, rows: 1 / 0), r"rows \[1, 2, 0\] of 4 .* raised ZeroDivisionError"),
        (selecting(lambda s, rows: s), "was given 3 rows out of 4 observations, by select"),
        (selecting(lambda s, rows: {"state": s["state"][np.sort(rows)]}), "in the order asked for"),
        (lambda: flow(select=lambda s, rows: s), "chooses rows of observations=…, and there are"),
        (selecting(None, 0), r"observations\['state'\] has no rows"),
        (lambda: flow(two_arguments), r"2 positional arguments.*it is called as f\(obs, x, τ\)"),
        (lambda: flow(lambda s, x, t: [[1], [1, 2]]), "a NumPy array, it returned list"),
        (lambda: flow(critic=lambda s, x: np.stack([bowl(s, x)[0]] * 3, 1)), "transpose it"),
        (lambda: adapters.functions(wave, None, action_shape=2, obs_dim=1, dtype="foo"), "one of"),
        (lambda: convention_of((0.25, 0.5, 0.75, 1.0), noise_time=1), "must go from noise, t = 1"),
        (lambda: convention_of((0, 0.1, 0.3, 0.6)), r"in steps of 1/T = 1/4, as the loop does"),
        (lambda: convention_of((0, 5.0, -3, 100.0)), "must go from noise"),
        (lambda: convention_of((0, np.nan, 0.5, 0.75)), "must go from noise"),
        (lambda: convention_of(None), "accumulated, or T numbers, got None"),
        (lambda: convention_of(("a", "b")), "or T numbers"),
        *((lambda n=n: Convention("x", buckets=n), "whole number ≥ 1") for n in ("a", 2.5, True)),
    ],
)  # fmt: skip
def test_one_sentence(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def convention_of(grid: Any, **rest: Any) -> Any:
    return Convention("own", grid=grid, **rest).times(4)


def test_numpy_integers_and_one_product_are_taken() -> None:
    adapted = flow(action_shape=(np.int64(3), 2), obs_dim=np.int64(2), differences="vjp")
    assert adapted.field.action_dim == 6 and adapted.critic.differenced == ("vjp",)  # type: ignore[attr-defined]
    own = Convention("own", grid=np.array([0.0, 0.25, 0.5, 0.75]))  # type: ignore[arg-type]
    assert own.times(4) == (0.0, 0.25, 0.5, 0.75)


def test_one_steps_units_are_those_of_every_step() -> None:
    obs, a = inputs()
    offset, scale = np.array([0.1, -0.2]), np.array([2.0, 0.5])
    q = [
        flow(critic_units=UNITS(*u)).critic.forward(obs, a)[0]
        for u in ((offset, scale), (np.tile(offset, 3), np.tile(scale, 3)))
    ]
    assert np.array_equal(q[0], q[1])
    raw = a.reshape(4, 3, 2) * scale + offset
    assert np.allclose(q[0], bowl(obs, raw), rtol=0, atol=1e-14)
    masked = flow(critic_units=UNITS(offset, scale), real=np.array([False, True]), held=0.0)
    q_held = masked.critic.forward(obs, a[:, :3])[0]
    only = flow(
        critic_units=UNITS(np.array(-0.2), np.array(0.5)), real=np.array([False, True]), held=0.0
    )
    assert np.array_equal(q_held, only.critic.forward(obs, a[:, :3])[0])


def test_what_a_function_writes_into_its_arguments_changes_nothing() -> None:
    def field(obs: Array, x: Array, time: Array) -> Array:
        x += time[:, None, None]
        time[:] = 0
        return x * obs.sum(axis=1)[:, None, None]

    adapted = flow(field, None)
    obs, a = inputs()
    v, cache = adapted.field.forward(obs, a, 0.5)
    expected = (a + 0.5) * obs.sum(axis=1, keepdims=True)
    assert np.allclose(v, expected) and np.allclose(adapted.field.forward(obs, a, 0.5)[0], expected)
    x_dot = np.ones_like(a)
    slope = np.broadcast_to(obs.sum(axis=1, keepdims=True), a.shape)
    assert np.allclose(adapted.field.jvp(x_dot, cache), slope, rtol=0, atol=1e-8)
    with pytest.raises(InputError, match="the field writes into its observations in place"):
        flow(lambda s, x, t: x + np.multiply(s, 2, out=s)[:, :1, None], None)


@pytest.mark.parametrize(("layers", "count"), [(2, 6), (3, 2), (1, 3), (4, 4), (2, 1)])
@pytest.mark.parametrize("first", ["cache", "state"])
def test_a_select_tells_how_many_observations_there_are(
    layers: int, count: int, first: str
) -> None:
    """Whatever array comes first: a cache has its rows along its second axis."""
    arrays = {"cache": np.ones((layers, count, 3)), "state": np.zeros((count, 2))}
    batch = {name: arrays[name] for name in sorted(arrays, reverse=first == "state")}

    def select(s: Any, rows: Array) -> Any:
        return {"cache": s["cache"][:, rows], "state": s["state"][rows]}

    adapted = flow(
        lambda s, x, t: x * s["cache"].mean(axis=(0, 2))[:, None, None], None, obs_dim=None,
        observations=batch, select=select,
    )  # fmt: skip
    known = known_observations(adapted)
    assert known is not None and len(known) == max(count, 2)
    assert known.max() == count - 1


def test_another_number_of_steps_asks_on_its_own_grid() -> None:
    """The times of the port at that T: floor(1000·k/T) of gr00t, float32 sums of openpi."""
    for name, told in ((n, convention(n)) for n in ("gr00t", "openpi", "flow_matching")):
        asked: list[float] = []

        def field(s: Array, x: Array, t: Array, asked: list[float] = asked) -> Array:
            asked.append(float(t[0]))
            return 0 * x

        adapted = flow(field, None, convention=name, denoise_steps=10, check=False)
        qgf_ref.sample(adapted, np.zeros((1, 2)), estimator="none", rng=0, denoise_steps=100)
        assert asked == [told.asked(t) for t in told.times(100)], name
    own = flow(wave, None, convention=Convention("own", grid=(0, 0.5)), denoise_steps=2)
    with pytest.raises(InputError, match="own has 2 times, expected T = 4"):
        qgf_ref.sample(own, np.zeros((1, 2)), estimator="none", rng=0, denoise_steps=4)


def test_a_critic_whose_gradient_is_lost_is_refused() -> None:
    from qgf_ref.adapters.differences import NumpyFunction
    from qgf_ref.adapters.examination import examine
    from qgf_ref.adapters.networks import AdaptedCritic, AdaptedField

    class Lost(NumpyFunction):
        slope = 0.0

        def vjp(self, y_bar: Array, cache: Any) -> Array:
            return np.full((3, 3, 2), self.slope)

    adapted = flow()
    field = adapted.field.base  # type: ignore[attr-defined]
    assert isinstance(field, AdaptedField) and isinstance(adapted.critic, AdaptedCritic)
    own = Lost(flat_but_for_differences, "the critic", float)
    lost = replace(adapted.critic, function=own)
    for own.slope, says in ((0.0, "0 though its values change"), (np.nan, "NaN or infinite")):
        with pytest.raises(InputError, match=f"the critic's gradient is {says}"):
            examine(replace(adapted, critic=lost), field, lost)


def test_a_chain_without_vjps_tells_the_function_so() -> None:
    """Nothing is kept for a vjp where the estimator states none; one that is asked for is right."""
    adapted = flow()
    lean = adapted.field.forward_only()  # type: ignore[attr-defined]
    obs, a = inputs()
    runs = [f.forward(obs, a, 0.3) for f in (adapted.field, lean)]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert np.array_equal(adapted.field.vjp(a, runs[0][1]), lean.vjp(a, runs[1][1]))
