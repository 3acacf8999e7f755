"""The sampler on the stand-in for a GPU, in both ways: the reference's actions."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref import sample, trace
from qgf_ref.backends.cupy import sampler as samplers
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.guidance.registry import estimator, learned_estimator_names
from qgf_ref.nets.probability import ProbabilityCritic
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import FLOAT64, sampled, small
from tests.helpers.gpu.on_cpu import ORDERS
from tests.helpers.some import some

RECORDED = [name for name in learned_estimator_names() if estimator(name).recordable]
WAYS = pytest.mark.parametrize("few", [True, False], ids=["one launch", "many launches"])
NETWORKS: dict[str, dict[str, Any]] = {
    "mean": {"aggregation": "mean", "members": 3},
    "one member": {"members": 1},
    "wide": {"hidden": (70, 33), "obs_dim": 1, "action_dim": 40, "rows": 2},
    "one action": {"action_dim": 1, "obs_dim": 1, "rows": 1},
    "one hidden layer": {"hidden": (5,), "steps": 1},
    "no layer norm": {"bare": "all"},
    "two-pass variance": {"options": {"variance": "two_pass"}},
    "the time itself": {"inputs": ("raw_time", "action", "obs")},
}
SQUARE: dict[str, Any] = {"hidden": (9, 9, 9, 6, 6)}
"""Two residual blocks, a hidden layer that is none, and one whose output is the head's."""
ORDERED: dict[str, dict[str, Any]] = {
    "norm after": {"options": {"norm_after_activation": True}},
    "residual": {**SQUARE, "options": {"residual": True}},
    "both": {
        **SQUARE, "bare": (1, 4), "activation": "tanh", "members": 3,
        "options": {"residual": True, "norm_after_activation": True, "variance": "two_pass"},
    },
    "wide": {
        "hidden": (40, 40), "options": {"residual": True, "norm_after_activation": True},
    },
    "each its own": {
        **SQUARE, "activation": "mish", "field": {"residual": True},
        "critic": {"activation": "silu", "norm_after_activation": True},
    },
}  # fmt: skip
"""LayerNorm after the activation, residual blocks, an activation for each network."""


@WAYS
@pytest.mark.parametrize("name", some(RECORDED, 5))
def test_every_estimator(gpu: ModuleType, name: str, few: bool) -> None:
    flow, obs, noise = small(rows=3)
    weight = np.array([0.3, 0.0, 1.0])
    assert sampled(flow, obs, few, [name], weight=weight, noise=noise) < FLOAT64


@WAYS
@pytest.mark.parametrize("case", some(NETWORKS, 3))
def test_every_kind_of_network(gpu: ModuleType, case: str, few: bool) -> None:
    flow, obs, noise = small(3, **NETWORKS[case])
    names = "qgf", "bptt", "qgf_covariance", "qgf_jacobian"
    assert sampled(flow, obs, few, names, weight=0.1, noise=noise) < FLOAT64


@WAYS
@pytest.mark.parametrize("case", ORDERED)
def test_the_order_of_a_block(gpu: ModuleType, case: str, few: bool) -> None:
    """In one program, all products: jvp (shifted), vjp, and the critic's Hessian (covariance)."""
    flow, obs, noise = small(3, **ORDERED[case])
    names = "qgf", "bptt", "qgf_covariance", "qgf_shifted"
    assert sampled(flow, obs, few, names, weight=0.1, noise=noise) < FLOAT64


@WAYS
def test_a_critic_of_probabilities(gpu: ModuleType, few: bool) -> None:
    """Of goals: q = σ(z), whose slope is part of the program; beside its logits, in turn."""
    logits, obs, noise = small(3, members=3)
    flow = replace(logits, critic=ProbabilityCritic(logits.critic))
    names = "qgf", "bptt", "qgf_jacobian"
    for each in (flow, logits, flow):
        assert sampled(each, obs, few, names, weight=2.0, noise=noise) < FLOAT64
    how: dict[str, Any] = {"weight": 2.0, "noise": noise, "estimator": "qgf_covariance"}
    expected, got = (sample(flow, obs, backend=b, **how) for b in ("numpy", "cupy"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)  # layer by layer


@WAYS
def test_no_order_is_taken_for_another(gpu: ModuleType, few: bool) -> None:
    """Of the same parameters, in turn: nothing remembered of one order is used for another."""
    found = []
    for options in ({}, {"residual": True}, {"norm_after_activation": True}):
        flow, obs, noise = small(3, **SQUARE, options=options)
        assert sampled(flow, obs, few, weight=0.3, noise=noise) < FLOAT64
        found.append(sample(flow, obs, weight=0.3, noise=noise, backend="cupy"))
    for one, other in combinations(found, 2):
        assert abs(one - other).max() > 1e-2


@WAYS
def test_options_and_a_lower_bound(gpu: ModuleType, few: bool) -> None:
    names = "qgf+gate=0.3,soft+norm=0.1+prefix=2/3", "qgf"
    kinds: tuple[dict[str, Any], ...] = {}, {"aggregation": "lcb=0.7", "members": 3}
    for kind in kinds:
        flow, obs, noise = small(3, **kind)
        assert sampled(flow, obs, few, names, weight=0.5, noise=noise) < FLOAT64


@WAYS
def test_float32(gpu: ModuleType, few: bool) -> None:
    flow, obs, noise = small(dtype="float32")
    assert sampled(flow, obs, few, ("qgf", "qgf_shifted"), weight=0.1, noise=noise) < 1e-6


@WAYS
def test_draws_ties_and_gradient_steps(gpu: ModuleType, few: bool) -> None:
    flow, obs, _ = small(rows=3)
    params = flow.critic.params  # type: ignore[attr-defined]
    twins = params.map(lambda a: np.repeat(a[:1], 2, axis=0))
    tied = flow.critic.__class__(twins, flow.critic.options)  # type: ignore[attr-defined, call-arg]
    noise = np.random.default_rng(2).standard_normal((12, 3))
    how: dict[str, Any] = {"weight": 0.5, "noise": noise, "best_of": 4}
    how["gradient_steps"] = GradientSteps(2, 0.05)
    assert sampled(flow, obs, few, **how) < FLOAT64
    assert sampled(replace(flow, critic=tied), obs, few, weight=0.5, noise=noise[:3]) < FLOAT64


def test_many_rows_in_every_order_of_threads(gpu: ModuleType) -> None:
    """More rows than a tile has, of which each member has some: the same bits, whoever is first."""
    flow, obs, noise = small(rows=130)
    runs = []
    for order in ORDERS:
        stand_in.settings.order = order
        samplers.device_sampler.samplers.clear()
        runs.append(sample(flow, obs, weight=0.5, noise=noise, backend="cupy", denoise_steps=2))
    for run in runs[1:]:
        np.testing.assert_array_equal(runs[0], run)
    expected = sample(flow, obs, weight=0.5, noise=noise, denoise_steps=2)
    np.testing.assert_allclose(runs[0], expected, rtol=0, atol=FLOAT64)


def test_few_rows_in_every_order_of_threads(gpu: ModuleType) -> None:
    flow, obs, noise = small(rows=2)
    runs = []
    for order in ORDERS:
        stand_in.settings.order = order
        runs.append(sample(flow, obs, weight=0.5, noise=noise, estimator="bptt", backend="cupy"))
    assert set(stand_in.settings.launches) == {"run_program"}
    for run in runs[1:]:
        np.testing.assert_array_equal(runs[0], run)


def test_the_second_call_is_captured_and_the_third_replayed(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", False)
    flow, obs, noise = small(rows=4)
    runs = [sample(flow, obs, weight=w, noise=noise, backend="cupy") for w in (0.1, 0.2, 0.1)]
    np.testing.assert_array_equal(runs[0], runs[2])
    (sampler,) = samplers.device_sampler.samplers.values()
    (ready,) = sampler._ready.values()
    assert ready.graph is not None and ready.calls == 3 and capsys.readouterr().err == ""
    samplers.device_sampler.samplers.clear()
    stand_in.settings.refuse_capture = True
    runs += [sample(flow, obs, weight=w, noise=noise, backend="cupy") for w in (0.1, 0.2, 0.1)]
    for ours, theirs in zip(runs[3:], runs[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    said = capsys.readouterr().err
    assert said.count("no CUDA graph") == 1 and "OperationNotPermitted" not in said


@WAYS
def test_all_numbers_of_rows_share_one_workspace(
    gpu: ModuleType, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows with the largest call; what was captured of the old one is captured anew."""
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", few)
    flow, obs, _ = small(rows=20)  # too many for one launch
    noise = np.random.default_rng(2).standard_normal((20, 3))
    before, sizes = stand_in.settings.taken, []
    for rows in (3, 3, 3, 2, 2, 20, 3, 3, 20, 5, 4, 6, 3, 2, 20, 3):
        how: dict[str, Any] = {"weight": 0.3, "noise": noise[:rows]}
        got = sample(flow, obs[:rows], backend="cupy", **how)
        expected = sample(flow, obs[:rows], **how)
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64, err_msg=str(rows))
        (sampler,) = samplers.device_sampler.samplers.values()
        assert sampler._ready[rows, 1].plan.memory is sampler.memory
        kept = [ready.plan for ready in sampler._ready.values()]
        assert {id(plan.memory) for plan in kept} <= {id(sampler.memory), id(None)}
        sizes.append(sampler.memory.nbytes)
    assert sizes == sorted(sizes) and len(set(sizes)) == 2 and len(kept) == samplers.KEPT
    tables = sum(plan.offset_array.nbytes for plan in kept)
    assert sampler.bytes == sizes[-1] + tables < stand_in.settings.taken - before
    assert few or sampler._ready[3, 1].graph is not None
    held, weights = sampler.bytes, sampler.tables
    taken = stand_in.settings.taken
    del sampler, kept, weights
    samplers.device_sampler.samplers.clear()
    assert taken - stand_in.settings.taken >= held


def test_few_memory_means_several_parts(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", False)
    flow, obs, _ = small(rows=80)
    noise = np.random.default_rng(1).standard_normal((160, 3))
    how: dict[str, Any] = {"weight": 0.2, "noise": noise, "best_of": 2, "denoise_steps": 1}
    expected = sample(flow, obs, **how)
    stand_in.settings.free = stand_in.settings.taken + 260_000
    got = sample(flow, obs, backend="cupy", **how)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
    (sampler,) = samplers.device_sampler.samplers.values()
    assert len(sampler._ready) >= 1 and max(rows for rows, _ in sampler._ready) < 160
    assert 0 < sampler.bytes < 260_000
    samplers.device_sampler.samplers.clear()
    stand_in.settings.free = stand_in.settings.taken + 500
    with pytest.raises(InputError, match=r"the GPU has not enough memory: .* bytes are needed"):
        sample(flow, obs, backend="cupy", **how)
    # and once there is some again
    stand_in.settings.free = 1 << 33
    got = sample(flow, obs, backend="cupy", **how)
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)


def _bare(array: Any) -> Any:
    return array.get()


def test_arrays_of_the_device_come_back_as_such(gpu: ModuleType) -> None:
    flow, obs, noise = small(rows=4)
    there = gpu.asarray(obs)
    for name in ("qgf", "qgf_jacobian_ortho"):  # recorded, and layer by layer
        how: dict[str, Any] = {"estimator": name, "noise": noise}
        expected = sample(flow, obs, weight=0.2, **how)
        how["weight"] = gpu.asarray(np.full(4, 0.2))
        got = sample(flow, there, backend="cupy", **how)
        assert isinstance(got, gpu.ndarray)
        np.testing.assert_allclose(_bare(got), expected, rtol=0, atol=1e-12)  # ortho's SVD
    draws = np.random.default_rng(0).standard_normal((12, 3))
    expected = sample(flow, obs, weight=0.2, noise=draws, best_of=3)
    got = sample(flow, there, weight=0.2, noise=draws, best_of=3, backend="cupy")
    np.testing.assert_allclose(_bare(got), expected, rtol=0, atol=FLOAT64)
    single = sample(flow, there[0], weight=0.2, noise=noise[:1], backend="cupy")
    assert single.shape == (3,) and isinstance(single, gpu.ndarray)
    traced = trace(flow, there, weight=0.2, noise=noise, backend="cupy")
    reference = trace(flow, obs, weight=0.2, noise=noise)
    for quantity, array in reference.arrays().items():
        ours = _bare(traced.arrays()[quantity])
        np.testing.assert_allclose(ours, array, rtol=0, atol=1e-12, err_msg=quantity)
    with pytest.raises(InputError, match=r"backend numba takes NumPy arrays.*use backend cupy"):
        sample(flow, there, weight=0.2, noise=noise, backend="numba")


class Foreign:
    """An array of another library on the GPU, of which only DLPack's part is there."""

    __module__ = "foreign.arrays"

    def __init__(self, own: Any, number: int = 0, refused: str = "") -> None:
        self.own, self.number, self.refused = own, number, refused

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def __dlpack__(self) -> Any:
        if self.refused:
            raise BufferError(self.refused)
        return self.own


class Standard(Foreign):
    """One whose class is of another module than its functions, as JAX's: it says which."""

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=Standard)


@pytest.mark.parametrize("kind", [Foreign, Standard])
def test_arrays_of_any_library_with_dlpack(
    gpu: ModuleType, kind: type[Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "foreign", SimpleNamespace(from_dlpack=Foreign))
    flow, obs, noise = small(rows=4)
    expected = sample(flow, obs, weight=0.2, noise=noise)
    there = kind(gpu.asarray(obs)), kind(gpu.asarray(noise)), kind(gpu.asarray(np.full(4, 0.2)))
    got: Any = sample(flow, there[0], weight=there[2], noise=there[1], backend="cupy")  # type: ignore[arg-type]
    assert type(got) is kind
    np.testing.assert_allclose(_bare(got.own), expected, rtol=0, atol=FLOAT64)
    elsewhere = kind(gpu.asarray(obs), number=1)
    with pytest.raises(InputError, match=r"on GPU 1, and CuPy works on GPU 0: copy it"):
        sample(flow, elsewhere, weight=0.2, noise=noise, backend="cupy")
    taught = kind(gpu.asarray(obs), refused="tensors that require gradient")
    with pytest.raises(InputError, match=r"cannot be read where it is.*require gradient"):
        sample(flow, taught, weight=0.2, noise=noise, backend="cupy")
    with pytest.raises(InputError, match="backend numpy takes NumPy arrays"):
        sample(flow, there[0], weight=0.2, noise=noise)  # type: ignore[arg-type]


@WAYS
def test_what_is_not_finite_is_named_as_by_the_reference(
    gpu: ModuleType, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", few)
    flow, obs, noise = small(rows=3)
    critic = flow.critic
    broken = critic.params.map(lambda a: a * 1e200)  # type: ignore[attr-defined]
    flow = replace(flow, critic=replace(critic, params=broken))  # type: ignore[type-var]
    messages = []
    for backend in ("numpy", "cupy"):
        with pytest.raises(NonFiniteError) as raised:
            sample(flow, obs, weight=1.0, noise=noise, backend=backend)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_no_rows(gpu: ModuleType) -> None:
    flow, obs, noise = small(rows=1)
    assert sample(flow, obs[:0], weight=0.1, noise=noise[:0], backend="cupy").shape == (0, 3)


def test_a_bound_for_each_coordinate_runs_layer_by_layer(gpu: ModuleType) -> None:
    """Programs clip to one number; a symmetric pair is one."""
    flow, obs, noise = small(rows=3)
    boxed = replace(flow, action_bound=(-0.3, 0.5))
    how: dict[str, Any] = {"weight": 0.3, "noise": noise, "estimator": "qgf_jacobian"}
    expected = sample(boxed, obs, **how)
    assert not samplers.device_sampler.samplers
    for given in (obs, gpu.asarray(obs)):
        got: Any = sample(boxed, given, backend="cupy", **how)
        assert type(got) is type(given) and "glue" not in stand_in.settings.launches
        got = got if given is obs else _bare(got)
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
    same = replace(flow, action_bound=(-0.4, 0.4))
    assert sampled(same, obs, True, ["qgf"], weight=0.3, noise=noise) < FLOAT64
