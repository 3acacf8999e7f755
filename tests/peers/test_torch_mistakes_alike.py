"""Mistakes in the PyTorch port that our own code computes too: as another estimator, with other
options or with other parameters.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.nets.mlp import MLPOptions

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from benchmarks.peers import torch_mistakes_networks  # noqa: E402
from benchmarks.peers.torch_mistakes import broken  # noqa: E402
from benchmarks.peers.torch_sampler import TorchSampler  # noqa: E402
from tests.peers.test_torch_sampler import (  # noqa: E402
    agree,
    chunked,
    ours,
    probes,
    small,
)

SAME = {
    "query-noisy": "ood",
    "gradient-clip-masked": "qgf_masked",
    "gradient-jacobian": "qgf_jacobian",
    "gradient-jacobian-unmasked": "qgf_jacobian_unmasked",
    "gradient-bptt": "bptt",
}


@pytest.mark.parametrize("name", SAME)
def test_mistakes_that_are_other_estimators(name: str) -> None:
    ck = small()
    for probe in probes(ck):
        agree(broken(ck, name).trace(*probe), ours(ck, probe, SAME[name]))


def test_jvp_for_vjp() -> None:
    ck = small()
    probe = probes(ck)[0]
    trace = broken(ck, "gradient-jvp-for-vjp").trace(*probe)
    flow, plain = ck.guided_flow(embedding="float32"), TorchSampler(ck).trace(*probe)
    step = qgf_ref.denoising_step(flow, probe[0].astype(float), probe[1].astype(float), 0)
    g = plain["g"][0].astype(float)
    expected = g + flow.field.jvp(g, step.velocity_cache)
    assert abs(trace["g"][0] - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gelu-erf", MLPOptions("gelu_erf")),
        ("activation-relu", MLPOptions("relu")),
        ("activation-silu", MLPOptions("silu")),
        ("layer-norm-eps-1e-5", MLPOptions("gelu", 1e-5)),
        ("layer-norm-eps-1e-3", MLPOptions("gelu", 1e-3)),
        ("unknown-layer-norm-eps-1e-4", MLPOptions("gelu", 1e-4)),
    ],
)
def test_mistakes_that_are_other_options(name: str, options: MLPOptions) -> None:
    ck = small()
    flow: Any = ck.guided_flow(embedding="float32")
    flow = replace(
        flow,
        field=replace(flow.field, options=options),
        critic=replace(flow.critic, options=options),
    )
    obs, noise, w = probes(ck)[0]
    agree(
        broken(ck, name).trace(obs, noise, w),
        qgf_ref.trace(flow, obs, weight=w, noise=noise).arrays(),
    )


def test_float64_time() -> None:
    ck = small()
    obs, noise, w = probes(ck)[0]
    exact = qgf_ref.trace(ck.flow, obs, weight=w, noise=noise).arrays()
    agree(broken(ck, "time-float64").trace(obs, noise, w), exact)


def test_other_parameters() -> None:
    """Mistakes that are other parameters, made here in the arrays of the checkpoint."""
    ck = chunked()
    probe = probes(ck)[0]

    def edited(f: Any, *names: str) -> Checkpoint:
        def of(params: Any) -> Any:
            last = len(params.layers) - 1
            layers = (f(layer, i == last) for i, layer in enumerate(params.layers))
            return replace(params, layers=tuple(layers))

        return replace(ck, **{name: of(getattr(ck, name)) for name in names})

    def transposed(layer: Any, last: bool) -> Any:
        square = layer.kernel.shape[-1] == layer.kernel.shape[-2]
        kernel = layer.kernel.swapaxes(-1, -2) if square and not last else layer.kernel
        return replace(layer, kernel=kernel)

    def reshaped(layer: Any, last: bool) -> Any:
        E, fan_in, fan_out = layer.kernel.shape
        kernel = layer.kernel.reshape(fan_in, E, fan_out).transpose(1, 0, 2)
        return replace(layer, kernel=kernel)

    def without_bias(layer: Any, last: bool) -> Any:
        return replace(layer, bias=0 * layer.bias)

    both = ("policy", "target_critic")
    for name, other in (
        ("kernels-transposed", edited(transposed, *both)),
        ("ensemble-axis-reshaped", edited(reshaped, "target_critic")),
        ("biases-missing", edited(without_bias, *both)),
    ):
        agree(broken(ck, name).trace(*probe), ours(other, probe))


def test_tf32_rounds_to_nearest_even() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(1000) * 10.0 ** rng.integers(-9, 9, 1000)).astype(np.float32)
    ties = np.ldexp(2049 + 2 * np.arange(100, dtype=np.float32), -11) * np.float32(-8)
    x = np.concatenate([x, ties, np.zeros(1, np.float32)])
    mantissa, exponent = np.frexp(x.astype(float))
    # np.rint rounds halves to even; a mantissa in [½, 1) has 11 bits, the first of them implicit
    expected = np.ldexp(np.rint(np.ldexp(mantissa, 11)), exponent - 11)
    rounded = torch_mistakes_networks.tf32(torch.tensor(x)).numpy()
    assert (rounded == expected).all()
