"""The compiled sampler against the reference loop: same numbers for every estimator and network."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from benchmarks import verify
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends import engine
from qgf_ref.backends.numba import sampler as compiled
from qgf_ref.backends.numba.weights import gather
from qgf_ref.backends.program.executor import execute
from qgf_ref.backends.program.networks import time_constants
from qgf_ref.backends.program.program import Kind
from qgf_ref.backends.program.record import networks_of, record
from qgf_ref.backends.program.registers import assign
from qgf_ref.backends.program.remembered import KEPT
from qgf_ref.denoising import GradientSteps, denoise
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.flow.closed_form_critics import QuadraticCritic
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.queries import critic_gradient
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.structure import scaled
from qgf_ref.sampling import sample
from tests.conftest import Golden, small_checkpoint, states
from tests.helpers.compiled_sampler import (
    FLOAT64,
    both,
    teams_on_small_networks,
    without_layer_norm,
)

RECORDED = [name for name in learned_estimator_names() if estimator(name).recordable]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_every_estimator(checkpoint: Checkpoint, name: str, rows: int) -> None:
    obs, noise = states(checkpoint, rows)
    expected, got = both(checkpoint.flow, obs, estimator=name, weight=0.3, noise=noise)
    assert abs(expected).max() <= 1 and abs(expected).min() < 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def test_which_estimators_are_recorded() -> None:
    """All but one that takes a singular value decomposition, and one that draws random numbers."""
    others = set(learned_estimator_names()) - set(RECORDED)
    assert others == {"qgf_jacobian_ortho", "qgf_jacobian_smooth"}


@pytest.mark.parametrize("name", RECORDED)
def test_every_instruction_is_the_executors(name: str) -> None:
    """Every value on the way is a result, and compared with what NumPy makes of it.

    Where the weight is 0, qgf_shifted divides rounding by rounding on the way to a 0: hence none.
    """
    flow = estimator(name).on(small_checkpoint(1).flow)
    rng = np.random.default_rng(0)
    obs, noise = rng.standard_normal((9, 5)), rng.standard_normal((9, 3))
    weight = rng.uniform(0.1, 2, (9, 1))

    def chain(flow: GuidedFlow, obs: Array, noise: Array, weight: Any) -> tuple[Array, ...]:
        last = denoise(flow, obs, noise, estimator(name), weight)
        return (last, flow.critic.forward(obs, last)[0])

    program = record(flow, chain)
    values = tuple(n for n, kind in enumerate(program.kinds) if kind < len(Kind))
    program = replace(program, results=values)
    networks, code = networks_of(flow), assign(program)
    weights = gather(networks, frozenset(range(len(networks))))
    constants = time_constants(networks, code, weights.sizes.wide)
    sampler = compiled.CompiledSampler(code, weights, constants, "exact")
    found = sampler(obs, noise, weight, 1)
    assert found is not None
    expected = execute(program, flow, obs, noise, weight)
    for value, ours, theirs in zip(values, found, expected, strict=True):
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=1e-12 * scale, err_msg=f"{name}: value {value}"
        )


NETWORKS: dict[str, Any] = {
    **{name: {"activation": name} for name in ACTIVATIONS},
    "mean": {"aggregation": "mean", "members": 3},
    "one member": {"members": 1},
    "five members": {"members": 5},
    "wide": {"hidden": (70, 33), "obs_dim": 1, "action_dim": 40},
    "one action": {"action_dim": 1, "obs_dim": 1},
    "one hidden layer": {"hidden": (5,), "steps": 1},
    "no layer norm": {"norm": False},
    "two-pass variance": {"variance": "two_pass"},
}


@pytest.mark.parametrize("case", NETWORKS)
def test_every_kind_of_network(case: str) -> None:
    settings = dict(NETWORKS[case])
    norm, variance = settings.pop("norm", True), settings.pop("variance", "fast")
    checkpoint = small_checkpoint(3, **settings)
    if not norm:
        parts = ("policy", "critic", "target_critic", "value")
        plain: dict[str, Any] = {
            part: without_layer_norm(getattr(checkpoint, part)) for part in parts
        }
        checkpoint = replace(checkpoint, **plain)
    flow = checkpoint.flow
    options = replace(flow.field.options, variance=variance)  # type: ignore[attr-defined]
    flow = replace(
        flow,
        field=replace(flow.field, options=options),  # type: ignore[type-var]
        critic=replace(flow.critic, options=options),  # type: ignore[type-var]
    )
    obs, noise = states(checkpoint, 9)
    for name in ("qgf", "qgf_jacobian", "bptt", "qgf_covariance", "qgf_shifted_taylor"):
        expected, got = both(flow, obs, estimator=name, weight=0.1, noise=noise)
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64, err_msg=name)


def test_members_in_a_tie_share_the_derivative(checkpoint: Checkpoint) -> None:
    twins = checkpoint.target_critic.map(lambda a: np.repeat(a[:1], 2, axis=0))
    flow = checkpoint.with_params(target_critic=twins).flow
    obs, noise = states(checkpoint, 5)
    expected, got = both(flow, obs, weight=0.5, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def test_the_bits_depend_on_neither_threads_nor_the_other_rows(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teams_on_small_networks(monkeypatch)
    obs, noise = states(checkpoint, 150)

    def run(rows: slice, threads: int) -> Array:
        return sample(
            checkpoint.flow, obs[rows], estimator="qgf_jacobian", weight=0.2, noise=noise[rows],
            backend="numba", threads=threads,
        )  # fmt: skip

    whole = run(slice(None), 1)
    for threads in (2, 3):
        np.testing.assert_array_equal(run(slice(None), threads), whole)
        for rows in (slice(5, 6), slice(17, 19), slice(0, 30), slice(3, 44)):
            np.testing.assert_array_equal(run(rows, threads), whole[rows])


def test_weights_draws_and_gradient_steps(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teams_on_small_networks(monkeypatch)
    obs, _ = states(checkpoint, 5)
    weights = np.array([0.0, 0.1, 0.3, 1.0, 3.0])
    for steps, draws, threads in itertools.product((None, GradientSteps(2, 0.05)), (1, 4), (1, 2)):
        noise = np.random.default_rng(2).standard_normal((5 * draws, 3))
        expected, got = both(
            checkpoint.flow, obs, threads, weight=weights, noise=noise, best_of=draws,
            gradient_steps=steps,
        )  # fmt: skip
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
    many = np.random.default_rng(2).standard_normal((5 * 30, 3))
    expected, got = both(checkpoint.flow, obs, 2, weight=weights, noise=many, best_of=30)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def test_what_cannot_be_recorded_runs_layer_by_layer(checkpoint: Checkpoint) -> None:
    def guide(flow: GuidedFlow, step: DenoisingStep) -> Array:
        q, cache = flow.critic.forward(step.obs, step.action)
        return flow.critic.vjp(np.where(q > q.mean(), 1.0, 0.5), cache)

    obs, noise = states(checkpoint, 4)
    signs = GradientSteps(2, 0.05, sign=True)
    for name, steps in ((guide, None), ("qgf_jacobian_ortho", None), ("qgf", signs)):
        expected, got = both(
            checkpoint.flow, obs, estimator=name, weight=0.2, noise=noise, gradient_steps=steps
        )
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)  # ortho's SVD: 2e-14


def test_no_rows_one_row_and_float32(checkpoint: Checkpoint) -> None:
    obs, noise = states(checkpoint, 1)
    empty = sample(checkpoint.flow, obs[:0], weight=0.1, noise=noise[:0], backend="numba")
    assert empty.shape == (0, 3)
    single = sample(checkpoint.flow, obs[0], weight=0.1, noise=noise, backend="numba")
    assert single.shape == (3,)
    half = checkpoint.astype("float32").flow
    expected, got = both(half, obs, weight=0.1, noise=noise)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)  # measured 1e-7


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_official_actions(golden_official: Golden, dtype: str) -> None:
    """All methods of the official float32 files: the reference's target, measured 4.5e-7."""
    assert verify.official_actions(golden_official.name, "float32", dtype, "numba") < 2e-6


def test_non_finite_values_are_named_as_by_the_reference(checkpoint: Checkpoint) -> None:
    broken = checkpoint.target_critic.map(lambda a: a * 1e200)
    flow = checkpoint.with_params(target_critic=broken).flow
    obs, noise = states(checkpoint, 3)
    with pytest.raises(NonFiniteError) as reference:
        sample(flow, obs, weight=1.0, noise=noise)
    with pytest.raises(NonFiniteError) as got:
        sample(flow, obs, weight=1.0, noise=noise, backend="numba")
    assert str(got.value) == str(reference.value)


def test_bad_arguments(checkpoint: Checkpoint) -> None:
    obs, noise = states(checkpoint, 2)
    with pytest.raises(InputError, match=r"unknown backend 'jax'.*numba, numpy"):
        sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="jax")
    with pytest.raises(InputError, match="threads is for backend numba"):
        sample(checkpoint.flow, obs, weight=0.1, noise=noise, threads=2)
    with pytest.raises(InputError, match="threads must be a whole number"):
        sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="numba", threads=0)
    mixture = GaussianMixture.isotropic([1.0], [[0.0]], 0.3)
    exact = GuidedFlow(MixtureFlow(mixture), QuadraticCritic(np.zeros(1), np.eye(1)), 5, None)
    with pytest.raises(InputError, match=r"MixtureFlow.*use backend numpy"):
        sample(exact, np.zeros((2, 0)), weight=0.1, rng=0, backend="numba")


def test_samplers_are_remembered_and_forgotten(checkpoint: Checkpoint) -> None:
    obs, noise = states(checkpoint, 2)
    before = len(compiled.compiled_sampler.samplers)
    for _ in range(3):
        sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="numba")
    assert len(compiled.compiled_sampler.samplers) <= before + 1
    for seed in range(30):
        other = small_checkpoint(seed)
        sample(other.flow, obs, weight=0.1, noise=noise, backend="numba")
    assert len(compiled.compiled_sampler.samplers) <= KEPT
    assert len(compiled.compiled_sampler.networks) <= KEPT


def test_calls_from_several_threads(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teams_on_small_networks(monkeypatch)
    obs, noise = states(checkpoint, 200)
    expected = sample(checkpoint.flow, obs, weight=0.1, noise=noise, backend="numba", threads=1)
    wrong: list[int] = []

    def work(start: int, rows: int) -> None:
        for _ in range(20):
            part = slice(start, start + rows)
            got = sample(
                checkpoint.flow, obs[part], weight=0.1, noise=noise[part], backend="numba",
                threads=3,
            )  # fmt: skip
            if not np.array_equal(got, expected[part]):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(3 * i, 2 + 40 * i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@dataclass(frozen=True)
class Halved(Estimator):
    """A user's estimator, straight-line."""

    name = "halved"
    summary = "½∇Q(s, ½a_t)"
    recordable = True

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        x = flow.kernels(scaled, 0.5, step.action)
        found = critic_gradient(flow, step.obs, x)
        return replace(found, gradient=flow.kernels(scaled, 0.5, found.gradient))


def test_an_estimator_of_a_user_is_recorded(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("not recorded")

    monkeypatch.setattr(engine, "_layer_by_layer", refuse)
    obs, noise = states(checkpoint, 6)
    expected, got = both(checkpoint.flow, obs, estimator=Halved(), weight=0.3, noise=noise)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
