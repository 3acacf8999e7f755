"""Every mistake of the bank, made in the PyTorch port: it shows where the bank says it does.

Run with `pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.errors import InputError

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from benchmarks.peers import (  # noqa: E402
    torch_mistakes_gradient,
    torch_mistakes_sampler,
)
from benchmarks.peers.torch_mistakes import HELD_OUT, MISTAKES, applies, broken  # noqa: E402
from benchmarks.peers.torch_sampler import ESTIMATORS, TorchSampler  # noqa: E402
from tests.peers.test_torch_sampler import (  # noqa: E402
    CHECKPOINTS,
    TOLERANCES,
    agree,
    inputs,
    ours,
    probes,
    small,
)

Q = {
    "layer-norm-member-0",
    "layer-norm-member-0-forward",
    "critic-norm-last-hidden-missing",
    "critic-input-action-first",
    "ensemble-axis-reshaped",
    "critic-online",
    "unknown-critic-offset",
}
QUERY = {
    *torch_mistakes_sampler.QUERY,
    "gradient-bptt",
    "guidance-after-step",
    "unknown-query-clip-0.9",
}
ACTION = {"final-clip-missing", "chunk-action-major", "unknown-final-tanh"}
RARE = {"ties-first", "best-of-last"}
"""Mistakes that need exact ties: they do not show on random networks, see below."""


def first_quantity(name: str) -> str | None:
    """Where the bank says that the mistake shows first; None: in the choice among candidates."""
    for quantity, names in (
        ("q", Q),
        ("a1_hat", QUERY),
        ("action", ACTION),
        ("a", "noise-clipped"),
    ):
        if name in names:
            return quantity
    if name in torch_mistakes_sampler.BEST_OF:
        return None
    if name in torch_mistakes_sampler.UPDATE or name in ("unknown-heun", "unknown-weight-schedule"):
        return "next"
    if name in torch_mistakes_gradient.GRADIENT | torch_mistakes_gradient.AGGREGATION:
        return "g"
    return "g" if name.startswith("unknown-gradient") else "v"


@lru_cache
def settings(case: str) -> Any:
    """Checkpoint, probes, the port's traces, its distance from ours; and best-of-4 likewise."""
    ck = CHECKPOINTS[case]()
    given = probes(ck)
    right = [TorchSampler(ck).trace(*probe) for probe in given]
    floor = [
        {name: abs(trace[name] - array) for name, array in ours(ck, probe).items()}
        for probe, trace in zip(given, right)
    ]
    groups = [(*inputs(ck, rows, 9 + rows, 3.0, draws=4), 0.3, 4) for rows in (16, 1)]
    chosen = [TorchSampler(ck).sample(*group) for group in groups]
    return ck, given, right, floor, groups, chosen


def first_difference(trace: Any, right: Any, floor: Any) -> str | None:
    """The first quantity, in causal order, that is off by far more than the port's own error."""

    def off(name: str, step: Any = ...) -> bool:
        difference = abs(trace[name][step] - right[name][step]).max()
        return not difference <= max(10 * floor[name][step].max(), 1e-6)

    if off("a", 0):
        return "a"
    for k in range(len(right["v"])):
        for name in ("v", "a1_hat", "q", "g"):
            if off(name, k):
                return name
        if k + 1 < len(right["v"]) and off("a", k + 1):
            return "next"
    return "action" if off("action") else None


@pytest.mark.parametrize("name", sorted((MISTAKES | HELD_OUT).keys() - RARE))
def test_a_mistake_shows_where_the_bank_says(name: str) -> None:
    cases = [case for case in CHECKPOINTS if applies(settings(case)[0], name)]
    assert cases
    for case in cases:
        ck, given, right, floor, groups, chosen = settings(case)
        port = broken(ck, name)
        found = {
            first_difference(port.trace(*probe), *of_probe)
            for probe, *of_probe in zip(given, right, floor)
        }
        picked = [abs(port.sample(*g) - c).max() > 1e-3 for g, c in zip(groups, chosen)]
        expected = first_quantity(name)
        # what cannot show in some probe (w = 0, one row, nothing to clip) may be missing there
        assert found - {None} == ({expected} - {None}), case
        assert expected is not None or any(picked), case


@pytest.mark.parametrize("name", MISTAKES | HELD_OUT)
def test_replaced_methods_exist(name: str) -> None:
    made = (MISTAKES | HELD_OUT)[name]
    assert made.methods or made.edit
    assert all(callable(getattr(TorchSampler, method)) for method in made.methods)
    assert set(made.estimators) <= set(ESTIMATORS)


def test_what_does_not_apply_changes_nothing() -> None:
    """But for mistakes whose name needs another activation or aggregation than the options'."""
    for case in CHECKPOINTS:
        ck, given, right, *_ = settings(case)
        for name in MISTAKES:
            if name.startswith(("gelu", "activation", "ensemble", "ties", "best-of")):
                continue
            if not applies(ck, name):
                trace = broken(ck, name).trace(*given[0])
                assert all((trace[key] == right[0][key]).all() for key in trace), name


def test_fresh_networks_hide_what_is_not_loaded() -> None:
    ck = small()

    def fresh(params: Any) -> Any:
        def initial(layer: Any) -> Any:
            if layer.scale is None:
                return replace(layer, bias=0 * layer.bias)
            return replace(
                layer, bias=0 * layer.bias, scale=0 * layer.scale + 1, offset=0 * layer.offset
            )

        return replace(params, layers=tuple(map(initial, params.layers)))

    target = fresh(ck.target_critic)
    ck = ck.with_params(policy=fresh(ck.policy), target_critic=target, critic=target)
    hidden = {name for name in MISTAKES if applies(small(), name) and not applies(ck, name)}
    assert hidden == {
        "layer-norm-affine-missing",
        "layer-norm-offset-missing",
        "layer-norm-member-0",
        "layer-norm-member-0-forward",
        "biases-missing",
        "critic-online",
        "best-of-online",
    }


def tied() -> Checkpoint:
    """Member 0 sees the action's column 0 alone, member 1 column 1 alone, with equal parameters:
    where both are clipped to the same bound, the members are equal and their gradients are not.
    """
    ck = small()
    layers = []
    for i, layer in enumerate(ck.target_critic.layers):
        parts: list[Any] = [None if p is None else np.stack([p[0], p[0]]) for p in layer.parts()]
        if i == 0:
            row, kernel = layer.kernel[0, ck.obs_dim], np.zeros_like(layer.kernel)
            kernel[0, ck.obs_dim] = kernel[1, ck.obs_dim + 1] = row
            parts[0] = kernel
        layers.append(type(layer)(*parts))
    return ck.with_params(target_critic=replace(ck.target_critic, layers=tuple(layers)))


def test_ties_first() -> None:
    ck = tied()
    obs, noise = inputs(ck, 16, 0)
    noise[:, :2] = 20
    trace = TorchSampler(ck).trace(obs, noise, 0.3)
    assert (trace["q"][:, 0] == trace["q"][:, 1]).all()
    expected = ours(ck, (obs, noise, 0.3))
    agree(trace, expected)
    np.testing.assert_allclose(trace["g"], expected["g"], rtol=1e-3)
    g, of_first = trace["g"], broken(ck, "ties-first").trace(obs, noise, 0.3)["g"]
    np.testing.assert_allclose(g[..., 0], g[..., 1], rtol=1e-6)
    np.testing.assert_allclose(of_first[0, :, 0], 2 * g[0, :, 0], rtol=1e-6)
    assert (of_first[..., 1] == 0).all()
    assert g[0, :, 0].min() > 1e-4


def test_best_of_last() -> None:
    ck = small()
    *hidden, last = ck.target_critic.layers
    constant = (*hidden, replace(last, kernel=0 * last.kernel))
    ck = ck.with_params(target_critic=replace(ck.target_critic, layers=constant))
    obs, noise = inputs(ck, 4, 0, draws=3)
    flow = ck.guided_flow(embedding="float32")
    first = TorchSampler(ck).sample(obs, noise, 0.3, best_of=3)
    expected = qgf_ref.sample(flow, obs, weight=0.3, noise=noise, best_of=3)
    assert abs(first - expected).max() < TOLERANCES["action"]
    every = TorchSampler(ck).sample(obs.repeat(3, axis=0), noise, 0.3)
    assert (first == every[::3]).all()
    mistaken = broken(ck, "best-of-last").sample(obs, noise, 0.3, best_of=3)
    assert (mistaken == every[2::3]).all()
    assert abs(mistaken - first).max() > 1e-2


def test_an_unknown_name_lists_the_known() -> None:
    for call in (broken, applies):
        with pytest.raises(InputError, match=r"'gelu-erm'.*gelu-erf"):
            call(small(), "gelu-erm")
