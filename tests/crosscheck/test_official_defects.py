"""What our tools say about each defect of the official code (official.md, D1 to D17).

The samplers here are written out, not made from the bank of mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.sampler.mistakes.bank import mistake
from qgf_ref.crosscheck.sampler.port import Substituted
from qgf_ref.crosscheck.update.mistakes import MISTAKES as TRAINING_MISTAKES
from qgf_ref.data.datasets import MASKS
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.losses.batch import Batch
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.ops.kernels import reference_kernels
from qgf_ref.ops.linear import linear, linear_vjp
from qgf_ref.testing import SamplerReport, check_losses, check_sampler
from tests.conftest import SHARED, small_checkpoint, states
from tests.helpers.checkpoints import OPTIONS, official_tree, write


def small(**options: Any) -> Checkpoint:
    return small_checkpoint(hidden=(8, 7), steps=4, **options).astype("float32").astype("float64")


CHECKPOINT = small()
Trace = dict[str, Array]


def min_share(q: Array) -> Array:
    """The derivative of min over members, shared by those that tie: q (E, B) → (E, B)."""
    least = q == q.min(axis=0)
    return (least / least.sum(axis=0)).astype(q.dtype)


def same(g: Array) -> Array:
    return g


@dataclass(frozen=True)
class Official:
    """A float32 sampler after official.md, section 5, of which a defect replaces something.

    shown   what a forward-only evaluation of the critic says, (obs, x) → (E, B)
    share   q (E, B) → its cotangent; scaled  what is done to the gradient
    choose  q (B, n) → which of n candidates
    """

    flow: GuidedFlow
    share: Callable[[Array], Array] = min_share
    scaled: Callable[[Array], Array] = same
    shown: Callable[[Array, Array], Array] | None = None
    choose: Callable[[Array], Array] = lambda q: q.argmax(axis=1)
    traced: bool = True

    def __call__(self, obs: Array, noise: Array, weight: float) -> Trace | Array:
        flow, T, w = self.flow, np.float32(self.flow.denoise_steps), np.float32(weight)
        n = len(noise) // len(obs)
        rows, a = np.repeat(obs, n, axis=0), noise
        steps: dict[str, list[Array]] = {name: [] for name in ("a", "v", "a1_hat", "q", "g")}
        for t in flow.times:
            v = flow.field.forward(rows, a, t)[0]
            x = np.clip(a + np.float32(1 - t) * v, -1, 1)
            q, cache = flow.critic.forward(rows, x)
            g = self.scaled(flow.critic.vjp(self.share(q), cache))
            seen = q if self.shown is None else self.shown(rows, x)
            for name, value in zip(steps, (a, v, x, seen, g), strict=True):
                steps[name].append(value)
            a = a + (v + w * g) / T
        action = np.clip(a, -1, 1)
        if n > 1:
            values = (self.shown or (lambda s, x: flow.critic.forward(s, x)[0]))(rows, action)
            chosen = self.choose(values.min(axis=0).reshape(-1, n))
            return action.reshape(len(obs), n, -1)[np.arange(len(obs)), chosen]
        if not self.traced:
            return action
        return {**{name: np.stack(x) for name, x in steps.items()}, "action": action}


def official(checkpoint: Checkpoint = CHECKPOINT, **changed: Any) -> Official:
    return Official(checkpoint.astype("float32").guided_flow(embedding="float32"), **changed)


def check(fn: Any, checkpoint: Checkpoint = CHECKPOINT, **options: Any) -> SamplerReport:
    return check_sampler(fn, checkpoint, **{"rows": 8, "coverage": False, **options})


def named(fn: Any, checkpoint: Checkpoint = CHECKPOINT, **options: Any) -> list[tuple[str, ...]]:
    """What the mistake is said to be."""
    with pytest.raises(CrossCheckError) as caught:
        check(fn, checkpoint, **options)
    report = caught.value.report
    assert isinstance(report, SamplerReport)
    return [e.names for e in report.diagnosis.explanations]


def test_the_sampler_without_a_defect_agrees() -> None:
    assert check(official()).agrees
    assert check(official(), best_of=4).agrees


def member_0_norms(params: MLPParams) -> MLPParams:
    def changed(layer: LayerParams) -> LayerParams:
        if layer.scale is None or layer.offset is None:
            return layer
        first = layer.scale[:1], layer.offset[:1]
        return replace(layer, scale=0 * layer.scale + first[0], offset=0 * layer.offset + first[1])

    return MLPParams(tuple(changed(layer) for layer in params.layers))


def member_0_forward(checkpoint: Checkpoint) -> Callable[[Array, Array], Array]:
    """What jaxlib 0.4.30 computes on CPU: member 0's LayerNorm for all, unless of one row."""
    right = checkpoint.astype("float32").networks().target_critic
    wrong = replace(right, params=member_0_norms(right.params))
    return lambda obs, x: (right if len(x) == 1 else wrong).forward(obs, x)[0]


@pytest.mark.slow
def test_d1_forward_only_values_use_member_0s_layer_norm() -> None:
    defect = official(shown=member_0_forward(CHECKPOINT))
    assert named(defect) == [("layer-norm-member-0-forward",)]
    # gradients are right, so that the final action of one candidate does not show it ...
    bare = replace(defect, traced=False)
    assert check(bare).agrees
    # ... but the choice among several does, and these rankings fit
    assert ("layer-norm-member-0-forward",) in named(bare, best_of=16)


CRASHES: dict[str, tuple[Callable[..., Any], str]] = {
    "bptt": (lambda obs, noise, weight: obs._bc_flow_from, "AttributeError .*_bc_flow_from"),
    "robust_q": (lambda obs, noise: noise, "TypeError .*positional argument"),
    "robust_q's body": (lambda obs, noise, weight: cfg, "NameError .*'cfg'"),  # type: ignore[name-defined]  # noqa: F821
    "ifql": (
        lambda obs, noise, weight: np.concatenate([obs, np.tile(noise, (32, 1))], axis=1),
        "ValueError .*dimensions",
    ),
}


@pytest.mark.parametrize("agent", CRASHES)
def test_d2_a_sampler_that_crashes(agent: str) -> None:
    fn, message = CRASHES[agent]
    with pytest.raises(CrossCheckError, match=f"your sampler raised {message}"):
        check(fn)


def test_d2_a_sampler_that_returns_another_shape() -> None:
    """ifql's block of 32 actions for any batch; iql's obs_dim numbers instead of D."""
    for shape in ((32, 3), (8, CHECKPOINT.obs_dim)):
        came = rf"floats of shape \(8, 3\) were expected, .*{shape[1]}\)"
        with pytest.raises(CrossCheckError, match=came):
            check(lambda obs, noise, weight, shape=shape: np.zeros(shape, np.float32))


def test_d4_the_minimum_over_the_batch_of_a_single_critic() -> None:
    """num_qs = 1: Q has no ensemble axis, and axis 0, which is reduced, is the batch."""

    def first_axis(q: Array) -> Array:
        least = q[0] == q[0].min(axis=0)
        return (least / least.sum())[None].astype(q.dtype)

    one = small(members=1)
    defect = official(one, share=first_axis)
    assert named(defect, one) == [("ensemble-min-over-batch",)]
    assert "D4" in mistake("ensemble-min-over-batch").says
    # best-of-N of it is a reshape error
    rank = official(one, share=first_axis, choose=lambda q: np.zeros(1).reshape(-1, 4))
    with pytest.raises(CrossCheckError, match=r"your sampler raised ValueError .*reshape"):
        check(rank, one, best_of=4, weight=0.0)


@pytest.mark.slow
def test_d5_the_mean_over_the_batch_is_differentiated() -> None:
    defect = official(scaled=lambda g: g / np.float32(len(g)))
    assert named(defect) == [("gradient-batch-mean",)]
    assert "D5" in mistake("gradient-batch-mean").says


def policy_loss(weighted: bool) -> Callable[[Batch, Array, Array], dict[str, float]]:
    """The behaviour-cloning loss, in the official way or with `valid`."""

    def step(batch: Batch, x0: Array, t: Array) -> dict[str, float]:
        policy = CHECKPOINT.astype("float32").networks(embedding="float32").policy
        point = (1 - t[:, None]) * x0 + t[:, None] * batch.action
        error = policy.forward(batch.obs, point, t)[0] - (batch.action - x0)
        rows = batch.valid[:, None] if weighted else np.float32(1)
        return {"policy": float((rows * error * error).mean(dtype=np.float32))}

    return step


def test_d6_the_cloning_loss_ignores_valid() -> None:
    assert check_losses(policy_loss(weighted=False), CHECKPOINT).passed
    with pytest.raises(CrossCheckError, match=r"valid-in-policy-loss.*(?s:.*)\(D6\)"):
        check_losses(policy_loss(weighted=True), CHECKPOINT)


@pytest.mark.slow
def test_d9_best_of_n_is_swallowed() -> None:
    defect = official(choose=lambda q: np.zeros(len(q), int))
    assert named(defect, best_of=4, rows=24) == [("best-of-ignored",)]
    assert "D9" in mistake("best-of-ignored").says


def test_d15_parameters_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The official restore loads wrong widths, which fail only when they are applied."""
    path = tmp_path / "params_1.pkl"
    tree = official_tree(CHECKPOINT)
    kernel = tree["agent"]["critic"]["params"]["value_net"]["Dense_0"]
    kernel["kernel"] = np.concatenate([kernel["kernel"]] * 2, axis=1)
    write(path, tree, OPTIONS)
    with pytest.raises(InputError, match="critic"):
        qgf_ref.load(path)
    tree = official_tree(CHECKPOINT)
    del tree["agent"]["target_critic"]
    write(path, tree, OPTIONS)
    with pytest.raises(InputError, match="target_critic"):
        qgf_ref.load(path)
    # and a run of one network is not compared with another
    save_checkpoint(CHECKPOINT, tmp_path / "m.safetensors")
    other = small(obs_dim=4)
    obs, noise = (x.astype("f4") for x in states(other, 4))
    trace = official(other)(obs, noise, 0.3)
    assert isinstance(trace, dict)
    np.savez(tmp_path / "t.npz", obs=obs, noise=noise, **trace)  # type: ignore[arg-type]
    command = ["compare", "--checkpoint", str(tmp_path / "m.safetensors"), "--trace"]
    command += [str(tmp_path / "t.npz"), "--estimator", "qgf", "--weight", "0.3"]
    assert main(command) == 2
    assert "obs has 4 columns" in capsys.readouterr().err


def test_d16_an_unknown_activation_becomes_gelu(tmp_path: Path) -> None:
    relu = small(activation="relu")
    silently = replace(relu, options=replace(relu.options, activation="gelu"))
    assert named(official(silently), relu) == [("activation-gelu",)]
    assert "D16" in mistake("activation-gelu").says
    path = write(tmp_path / "params_1.pkl", official_tree(relu), {**OPTIONS, "activation": "gleu"})
    with pytest.raises(InputError, match="unknown activation 'gleu'; the valid ones are"):
        qgf_ref.load(path)


def test_d17_a_float64_time_embedding() -> None:
    flow = CHECKPOINT.astype("float32").guided_flow(embedding="exact")
    assert named(Official(flow)) == [("time-float64",)]


def tf32(x: Array) -> Array:
    """x with the 11 significant bits of TF32."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(x.dtype)


@pytest.mark.slow
def test_d17_matrix_products_in_tf32() -> None:
    by: dict[Any, Any] = {
        linear: lambda x, kernel, bias: linear(tf32(x), tf32(kernel), bias),
        linear_vjp: lambda y_bar, cache: linear_vjp(tf32(y_bar), cache),
    }
    flow = CHECKPOINT.astype("float32").guided_flow(
        embedding="float32", kernels=Substituted(reference_kernels, by)
    )
    assert named(Official(flow)) == [("matmul-tf32",)]


def with_variance(checkpoint: Checkpoint, variance: Any) -> GuidedFlow:
    flow = checkpoint.astype("float32").guided_flow(embedding="float32")

    def changed(net: Any) -> Any:
        return replace(net, options=replace(net.options, variance=variance))

    return replace(flow, field=changed(flow.field), critic=changed(flow.critic))


@pytest.mark.parametrize("variance", ["fast", "two_pass"])
def test_d17_either_formula_of_the_variance_is_rounding(variance: str) -> None:
    """Mean and standard deviation are of one size here, as in any network that was trained."""
    assert check(Official(with_variance(CHECKPOINT, variance))).agrees


def test_d17_the_official_formula_agrees_where_the_two_are_apart() -> None:
    """A mean of 30 standard deviations: the fast formula loses three digits."""
    first, *rest = CHECKPOINT.policy.layers
    shifted = MLPParams((replace(first, bias=first.bias + 30.0), *rest))
    far = CHECKPOINT.with_params(policy=shifted).astype("float32").astype("float64")
    assert check(Official(with_variance(far, "fast")), far).agrees
    assert check(Official(with_variance(far, "two_pass")), far).agrees


DATA = "what a data loader does is given to a training step, not made by it"
OTHER = "another algorithm than the guided sampler and its training step"
LOGS = "what is logged, not what is computed"

SAYS: dict[str, tuple[str, ...] | str] = {
    "D1": ("layer-norm-member-0-forward",),
    "D2": "CrossCheckError: your sampler raised …, or returned another shape",
    "D3": f"out of reach: {DATA}; load_transitions(masks='official-100m') reproduces it",
    "D4": ("ensemble-min-over-batch",),
    "D5": ("gradient-batch-mean",),
    "D6": ("valid-in-policy-loss",),
    "D7": f"out of reach: {OTHER} (dcgql's DDPM sampler)",
    "D8": f"out of reach: {OTHER} (dcgql's condition encoder)",
    "D9": ("best-of-ignored",),
    "D10": f"out of reach: {LOGS}",
    "D11": f"out of reach: {DATA}",
    "D12": f"out of reach: {DATA}",
    "D13": f"out of reach: {DATA}",
    "D14": "out of reach: noise and times are injected, so that no key is ever split",
    "D15": "InputError: the parameters, or the run, do not fit the checkpoint",
    "D16": ("activation-gelu",),
    "D17": ("time-float64", "matmul-tf32"),
}
"""Mistakes by which a defect is named; or what is said instead, or why nothing can be."""


def test_no_defect_is_forgotten() -> None:
    assert list(SAYS) == [f"D{n}" for n in range(1, 18)]
    training = {m.name: m for m in TRAINING_MISTAKES}
    tests = [name for name in globals() if name.startswith("test_d")]
    for defect, said in SAYS.items():
        has_test = any(name.startswith(f"test_{defect.lower()}_") for name in tests)
        reached = isinstance(said, tuple) or not said.startswith("out of reach")
        assert has_test == reached, f"{defect}: {said}"
        if isinstance(said, tuple):
            for name in said:
                says = training[name].says if name in training else mistake(name).says
                assert defect in says or defect == "D17", f"{name} does not say that it is {defect}"
    assert "official-100m" in MASKS


def test_the_table_lists_what_official_md_lists() -> None:
    spec = SHARED / "spec" / "official.md"
    if not spec.is_file():
        pytest.skip(f"needs {spec}, which a bare clone does not have")
    text = spec.read_text()
    found = set(re.findall(r"^(D\d+) ", text, re.MULTILINE)) | {"D2"}
    assert found == set(SAYS)
