"""Names of other frameworks: mapped by themselves, by a rule file, or refused, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.cli.main import main
from qgf_ref.interop.load import load_as_stored
from qgf_ref.interop.mapping.by_names import mapping_by_names
from qgf_ref.nets.initialisers import init_value, init_velocity
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, same
from tests.helpers.foreign_names import (
    Tensors,
    damaged,
    drop,
    is_norm,
    members_first,
    put,
    tensors_of,
    torch_leaf,
)


def sequential(network: str, layer: int, part: str, e: int | None, hidden: int = 3) -> str:
    """nn.Sequential(Linear, LayerNorm, GELU, …), twin critics q1, q2, q1_target, …

    The policy's last hidden layer, without a LayerNorm, leaves no number for one.
    """
    place = 3 * layer + is_norm(part) - (network == "policy" and layer == hidden)
    head = {"policy": "actor.net", "value": "v"}.get(network)
    if head is None:
        head = f"q{(e or 0) + 1}" + ("_target" if network == "target_critic" else "")
    return f"{head}.{place}.{torch_leaf(part)}"


def numbered(network: str, layer: int, part: str, e: int | None) -> str:
    """fc1, ln1, …, out under a list of critics."""
    module = f"ln{layer + 1}" if is_norm(part) else "out" if layer == 3 else f"fc{layer + 1}"
    member = "" if e is None else f".ensemble.{e}"
    return f"agent/{network}{member}/{module}/{torch_leaf(part)}".replace(".", "/")


def blocks(network: str, layer: int, part: str, e: int | None) -> str:
    """block.0.linear, block.0.norm in one list, heads critic_0, critic_1."""
    member = "" if e is None else f"_{e}"
    module = "norm" if is_norm(part) else "linear"
    return f"model.{network}{member}.block.{layer}.{module}.{torch_leaf(part)}"


def flax_modules(network: str, layer: int, part: str, e: int | None) -> str:
    """Single-network agents of the official code: network/params/modules_target_critic/…"""
    leaf = {"kernel": "kernel", "scale": "scale"}.get(part, "bias")
    module = f"LayerNorm_{layer}" if is_norm(part) else f"Dense_{layer}"
    return f"agent/network/params/modules_{network}/value_net/{module}/{leaf}"


def short(network: str, layer: int, part: str, e: int | None) -> str:
    """w0, b0, gamma0, beta0."""
    leaf = {"kernel": "w", "bias": "b", "scale": "gamma", "offset": "beta"}[part]
    return f"{network}.{leaf}{layer}"


SCHEMES = {
    "sequential": (sequential, True, True),
    "numbered": (numbered, True, True),
    "numbered, stacked": (numbered, True, False),
    "blocks": (blocks, True, True),
    "members first": (members_first, True, True),
    "members first, stacked": (members_first, True, False),
    "flax modules": (flax_modules, False, False),
    "short": (short, False, False),
    "short, transposed": (short, True, False),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("members", [2, 3])
def test_schemes_are_recognised(scheme: str, members: int, tmp_path: Path) -> None:
    name, transposed, apart = SCHEMES[scheme]
    ck = small_checkpoint(members=members)
    tensors = tensors_of(ck, name, transposed=transposed, apart=apart)
    same(qgf_ref.load(put(tmp_path / "a.npz", tensors), **OPTIONS), ck)
    shuffled = list(tensors.items())
    np.random.default_rng(0).shuffle(shuffled)
    same(qgf_ref.load(put(tmp_path / "b.npz", dict(shuffled)), **OPTIONS), ck)


@pytest.mark.parametrize("scheme", ["sequential", "members first", "flax modules"])
def test_eleven_layers_are_in_numerical_order(scheme: str, tmp_path: Path) -> None:
    name, transposed, apart = SCHEMES[scheme]
    ck = small_checkpoint(hidden=(7,) * 11)
    name = partial(sequential, hidden=11) if scheme == "sequential" else name
    tensors = tensors_of(ck, name, transposed=transposed, apart=apart)
    tensors = dict(sorted(tensors.items()))
    same(qgf_ref.load(put(tmp_path / "a.npz", tensors), **OPTIONS), ck)


def test_biases_that_broadcast(tmp_path: Path) -> None:
    ck = small_checkpoint()
    tensors = tensors_of(ck, members_first, transposed=True, apart=False)
    wide = {
        k: a[:, None] if k.endswith("bias") and "critic" in k and "norms" not in k else a
        for k, a in tensors.items()
    }
    same(qgf_ref.load(put(tmp_path / "a.npz", wide), **OPTIONS), ck)


def square_checkpoint() -> Checkpoint:
    """A critic whose kernels are all square but the last, and a policy with none that is not."""
    rng = np.random.default_rng(3)
    ck = small_checkpoint(obs_dim=5, action_dim=3)
    value = init_value(rng, 5, (5, 5), dtype="float64")
    critic = init_value(rng, 8, (8, 8), ensemble=2, dtype="float64")
    policy = init_velocity(rng, 5, 3, (24, 24), dtype="float64")
    return ck.with_params(value=value, critic=critic, target_critic=critic, policy=policy)


@pytest.mark.parametrize("transposed", [True, False])
def test_square_kernels_follow_the_rest_of_the_chain(transposed: bool, tmp_path: Path) -> None:
    """Hidden kernels are square; the output layer tells the orientation, whatever the name."""
    ck = square_checkpoint()
    tensors = tensors_of(ck, members_first, transposed=transposed, apart=False)
    loaded, mapping = load_as_stored(put(tmp_path / "a.npz", tensors), OPTIONS)
    same(loaded, ck)
    assert mapping is not None
    said = [n for n in mapping.notes if "called weight are (in, out): their shapes say so" in n]
    assert len(said) == (0 if transposed else 4)


@pytest.mark.parametrize(("leaf", "transposed"), [("weight", True), ("kernel", False), ("w", None)])
def test_where_no_shape_tells_the_name_does(leaf: str, transposed: bool | None) -> None:
    """Only kernels that are all square leave it open; no complete checkpoint has such a network."""
    tensors: Tensors = {f"policy.{i}.{leaf}": np.zeros((4, 4)) for i in range(2)}
    tensors |= {f"policy.{i}.bias": np.zeros(4) for i in range(2)}
    if transposed is None:
        with pytest.raises(InputError, match=r"neither shapes nor names tell whether policy\.0\.w"):
            mapping_by_names(tensors, "x")
        return
    entries = mapping_by_names(tensors, "x").entries
    assert {e.transpose for e in entries if e.part == "kernel"} == {transposed}


def rename(tensors: Tensors, old: str, new: str) -> None:
    for name in [n for n in tensors if old in n]:
        tensors[name.replace(old, new)] = tensors.pop(name)


AMBIGUOUS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "no target critic": (
        lambda t: drop(t, "target"),
        r"no target critic.*--target-critic-from critic.*Mapping found so far: policy\.layers\.0",
    ),
    "no policy": (lambda t: drop(t, "PolicyNet"), "which tensors are the policy; write a rule"),
    "nothing known": (lambda t: rename(t, ".", "-"), "the policy and the critic"),
    "two policies": (
        lambda t: t.update({k.replace("PolicyNet", "actor"): v for k, v in t.items()}),
        "2 candidates for the policy: PolicyNet, actor",
    ),
    "an old policy": (
        lambda t: t.update({f"old.{k}": v for k, v in t.items() if "PolicyNet" in k}),
        "2 candidates for the policy",
    ),
    "kernel and weight": (
        lambda t: t.update({"PolicyNet.layers.0.kernel": t["PolicyNet.layers.0.weight"]}),
        "two candidates for one parameter",
    ),
    "left over": (
        lambda t: t.update({"encoder.bias": np.zeros(3)}),
        r"no parameter of ours fits encoder\.bias \(1 tensors left over\)"
        r'.*--rules R.json\): \{"ignore": \["encoder\.\*"\]\}.*found so far',
    ),
    "left over within": (
        lambda t: t.update({"PolicyNet.layers.0.mask": np.zeros(11)}),
        r"fits PolicyNet\.layers\.0\.mask",
    ),
    "a target policy": (
        lambda t: t.update({f"target_{k}": v for k, v in t.items() if "PolicyNet" in k}),
        "fits target_PolicyNet",
    ),
    "a missing member": (
        lambda t: rename(t, "critic.1", "critic.2"),
        r"members of the critic are numbered \(0,\), \(2,\); one is missing|numbered",
    ),
    "a missing layer": (lambda t: drop(t, "PolicyNet.layers.1"), "in no order do its kernels"),
    "a missing bias": (lambda t: drop(t, "PolicyNet.layers.1.bias"), "has no bias beside it"),
    "members that differ": (
        lambda t: t.update({"critic.1.layers.3.bias": np.zeros(2)}),
        "critic",
    ),
    "a LayerNorm of another width": (
        lambda t: t.update({f"PolicyNet.norms.0.{x}": np.zeros(12) for x in ("weight", "bias")}),
        "of width 12 does not fit the layer of width 11",
    ),
    "a LayerNorm at the end": (
        lambda t: t.update({f"PolicyNet.norms.3.{x}": np.zeros(3) for x in ("weight", "bias")}),
        "the last layer has no LayerNorm",
    ),
    "a LayerNorm of no layer": (
        lambda t: t.update({f"PolicyNet.norms.9.{x}": np.zeros(11) for x in ("weight", "bias")}),
        r"do not tell which layer PolicyNet\.norms\.9\.weight follows",
    ),
    "half a LayerNorm": (lambda t: drop(t, "PolicyNet.norms.0.bias"), "no bias beside it|fits"),
    "an RMSNorm": (
        lambda t: [t.pop(n) for n in list(t) if re.search(r"norms.*bias", n)],
        r"norms\.0\.weight has no bias beside it: an RMSNorm.*store zeros as its bias",
    ),
    "a PReLU": (
        lambda t: t.update({"PolicyNet.acts.0.weight": np.zeros(1)}),
        r"PolicyNet\.acts\.0\.weight is a PReLU's, which our networks have not",
    ),
    "weight_norm": (
        lambda t: rename(t, "layers.0.weight", "layers.0.parametrizations.weight.original1"),
        r"parts of which PyTorch computes kernels.*remove_parametrizations\(LINEAR, 'weight'\)",
    ),
    "spectral_norm": (
        lambda t: rename(t, "PolicyNet.layers.1.weight", "PolicyNet.layers.1.weight_orig"),
        r"weight_orig \(1 in all\) are parts of which PyTorch computes kernels",
    ),
    "a LayerNorm without scale": (
        lambda t: [t.pop(n) for n in list(t) if re.search(r"norms.*weight", n)],
        r"norms\.0\.bias has no weight beside it.*store ones as its scale",
    ),
    "a convolution": (
        lambda t: t.update({"PolicyNet.layers.0.weight": np.zeros((11, 24, 3, 3))}),
        "not 2 or 3 axes",
    ),
    "a raw time input": (
        lambda t: t.update({"PolicyNet.layers.0.weight": np.zeros((11, 9))}),
        "first layer takes 9 features.*must take 24",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_nothing_is_guessed(case: str, tmp_path: Path) -> None:
    change, message = AMBIGUOUS[case]
    path = put(tmp_path / "a.npz", damaged(change))
    with pytest.raises(InputError, match=message) as caught:
        qgf_ref.load(path, **OPTIONS)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("last", [False, True])
def test_layers_without_bias(last: bool, tmp_path: Path) -> None:
    """Linear(…, bias=False), as before a LayerNorm, is one whose bias is 0; the user is told."""
    tensors = damaged(lambda t: None)
    bare = [n for n in tensors if re.search(r"layers\.\d\.bias", n)]
    bare = [n for n in bare if last or f"{n[:-4]}weight".replace("layers", "norms") in tensors]
    zeros = {n: np.zeros_like(a) if n in bare else a for n, a in tensors.items()}
    expected = qgf_ref.load(put(tmp_path / "zeros.npz", zeros), **OPTIONS)
    less = {n: a for n, a in tensors.items() if n not in bare}
    checkpoint, mapping = load_as_stored(put(tmp_path / "less.npz", less), OPTIONS)
    same(checkpoint, expected)
    assert mapping is not None
    assert "without a bias in the file, which is 0 then: critic.layers.0" in mapping.notes[0]
    assert sum(name == "(none: 0)" for name in mapping.sources().values()) >= len(bare) // 2


def test_what_is_not_needed_to_act_may_be_absent(tmp_path: Path) -> None:
    """Without a value one samples, converts and compares; what needs it says so."""
    path = put(tmp_path / "a.npz", damaged(lambda t: drop(t, "ValueFunction")))
    loaded, mapping = load_as_stored(path, OPTIONS)
    assert list(loaded.params) == ["policy", "critic", "target_critic"]
    assert mapping is not None
    assert any("which tensors are the value: to train" in note for note in mapping.notes)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in OPTIONS.items() if k != "action_chunking"]
    for name in ("b.safetensors", "b.pt", "b.msgpack", "b.npz"):
        assert main(["convert", str(path), str(tmp_path / name), *flags, "--action-chunking"]) == 0
        assert qgf_ref.load(tmp_path / name).params.keys() == loaded.params.keys()
    with pytest.raises(InputError, match=r"a.npz has no value; it has: policy, critic, target"):
        loaded.networks()


def test_layers_that_can_follow_each_other_in_two_orders(tmp_path: Path) -> None:
    """Blocks of two kernels each, all of one width: a0 b0 a1 b1, or a0 a1 b0 b1."""
    ck = small_checkpoint(hidden=(3, 3, 3, 3), obs_dim=3, action_dim=3)

    def paired(network: str, layer: int, part: str, e: int | None) -> str:
        if network != "value" or is_norm(part):
            return members_first(network, layer, part, e)
        place = "out" if layer == 4 else f"blocks.{layer // 2}.{'ab'[layer % 2]}"
        return f"v.{place}.{torch_leaf(part)}"

    tensors = tensors_of(ck, paired, transposed=True, apart=True)
    tensors = {k: a for k, a in tensors.items() if not k.startswith("ValueFunction")}
    with pytest.raises(InputError, match=r"follow each other as .*, or as "):
        qgf_ref.load(put(tmp_path / "a.npz", tensors), **OPTIONS)


def test_names_beyond_reason(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for name in ("policy." + "9" * 5000 + ".weight", "policy" + ".0" * 3000 + ".weight"):
        save_file({name: np.zeros((2, 2))}, tmp_path / "a.safetensors")
        with pytest.raises(InputError):
            qgf_ref.load(tmp_path / "a.safetensors", **OPTIONS)
    save_file({f"policy.{i}.weight": np.zeros(1) for i in range(6000)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="at most 5000 are mapped"):
        qgf_ref.load(tmp_path / "a.safetensors", **OPTIONS)


# --- a missing target critic ---------------------------------------------------------------------
