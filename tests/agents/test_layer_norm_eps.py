"""LayerNorm's epsilon is an option of a checkpoint: in every path and backend, and in its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.interop.export import export
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.activations import activation
from qgf_ref.testing import check_sampler
from tests.conftest import small_checkpoint

EPS = 1e-2
"""Far from 1e-6, so that no path can hide that it uses another one."""
OFFICIAL = small_checkpoint()
OURS = replace(OFFICIAL, options=replace(OFFICIAL.options, layer_norm_eps=EPS))


def by_hand(params: MLPParams, x: Any) -> Any:
    """An MLP written once more, with EPS."""
    for layer in params.layers:
        x = x @ layer.kernel + layer.bias
        if layer.scale is not None and layer.offset is not None:
            deviation = x - x.mean(-1, keepdims=True)
            x = deviation / np.sqrt(np.mean(deviation**2, -1, keepdims=True) + EPS)
            x = x * layer.scale + layer.offset
        if layer is not params.layers[-1]:
            x, _ = activation(x, "gelu")
    return x


def test_every_network_has_it() -> None:
    rng = np.random.default_rng(0)
    obs, a = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    expected = by_hand(OURS.value, obs)[..., 0]
    np.testing.assert_allclose(OURS.network("value").forward(obs)[0], expected, rtol=1e-12)
    for made in (OURS.networks().value, OURS.network("value")):
        assert made.options.layer_norm_eps == EPS
    networks: list[Any] = [OURS.flow.field, OURS.flow.critic, OURS.networks().critic]
    for network in networks:
        assert network.options.layer_norm_eps == EPS
    assert not np.allclose(OFFICIAL.network("value").forward(obs)[0], expected, rtol=1e-4)
    q, _ = OURS.flow.critic.forward(obs, a)
    for e, member in enumerate(q):
        own = MLPParams(tuple(
            replace(layer, **{n: p[e] for n, p in vars(layer).items() if p is not None})
            for layer in OURS.target_critic.layers
        ))  # fmt: skip
        np.testing.assert_allclose(member, by_hand(own, np.hstack([obs, a]))[:, 0], rtol=1e-12)


def test_auxiliary_networks_have_it() -> None:
    ck = small_checkpoint()
    flow = replace(ck, options=replace(ck.options, layer_norm_eps=EPS)).flow.auxiliary
    networks: list[Any] = [flow.robust_q, flow.distill, *(flow.cfgrl or ())]
    assert [network.options.layer_norm_eps for network in networks] == [EPS] * 4


@pytest.mark.parametrize("estimator", ["qgf", "qgf_jacobian", "none"])
def test_backends_agree(estimator: str) -> None:
    rng = np.random.default_rng(0)
    obs, noise = rng.standard_normal((3, 5)), rng.standard_normal((3, 3))
    arguments: dict[str, Any] = {"estimator": estimator, "weight": 0.3, "noise": noise}
    ours, official = (
        qgf_ref.sample(ck.flow, obs, **arguments, backend="numpy") for ck in (OURS, OFFICIAL)
    )
    assert np.abs(ours - official).max() > 1e-3
    compiled = qgf_ref.sample(OURS.flow, obs, **arguments, backend="numba")
    np.testing.assert_allclose(compiled, ours, rtol=0, atol=1e-12)


def test_files_keep_it(tmp_path: Path) -> None:
    for name, form in (("a.safetensors", "qgf"), ("d", "qgf"), ("a.pt", "torch"),
                       ("a.msgpack", "flax"), ("a.npz", "npz")):  # fmt: skip
        export(OURS, tmp_path / name, form)
        assert qgf_ref.load(tmp_path / name).options == OURS.options
        assert qgf_ref.load(tmp_path / name, layer_norm_eps=1e-6).options == OFFICIAL.options
        export(OFFICIAL, tmp_path / name, form)
        assert qgf_ref.load(tmp_path / name, layer_norm_eps=EPS).options == OURS.options


def test_the_official_one_is_not_written_down() -> None:
    said = replace(OFFICIAL.options, layer_norm_eps=1e-6)
    assert said == OFFICIAL.options
    assert "layer_norm_eps" not in said.stated()
    assert OURS.describe()["layer_norm_eps"] == EPS
    for wrong in (0.0, -1e-6, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"layer_norm_eps must lie in \(0, 1\)"):
            replace(OFFICIAL.options, layer_norm_eps=wrong)


def test_a_port_with_the_same_eps_is_right() -> None:
    """PyTorch's 1e-5 is named as a mistake of an official agent, and none of this one."""
    torch_like = replace(OFFICIAL, options=replace(OFFICIAL.options, layer_norm_eps=1e-5))
    flow = torch_like.astype("float32").guided_flow(embedding="float32")

    def port(obs: Any, noise: Any, weight: float) -> Any:
        return qgf_ref.sample(flow, obs, estimator="none", weight=weight, noise=noise)

    settings: dict[str, Any] = {"estimator": "none", "rows": 8, "coverage": False}
    assert check_sampler(port, torch_like, **settings)
    with pytest.raises(CrossCheckError, match="layer-norm-eps-1e-5"):
        check_sampler(port, OFFICIAL, **settings)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qgf_ref.save_checkpoint(OFFICIAL, tmp_path / "a.safetensors")
    flag = ["--layer-norm-eps", "1e-5"]
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt"), *flag]) == 0
    assert "LayerNorm needs eps=1e-5, gelu" in capsys.readouterr().out
    assert qgf_ref.load(tmp_path / "b.pt").options.layer_norm_eps == 1e-5
