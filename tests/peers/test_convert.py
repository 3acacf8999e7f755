"""The frameworks themselves read what we write, bit for bit, and we read what they write."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.interop.export import export, names_in
from qgf_ref.interop.load import load_as_stored
from qgf_ref.interop.torch_file import read_torch
from qgf_ref.nets.mlp import MLPOptions, mlp
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, same

pytestmark = pytest.mark.peers

NETWORKS = ("policy", "critic", "target_critic", "value")


def torch_modules(ck: Checkpoint) -> Any:
    """The modules that the documentation of `export.py` shows."""
    import torch

    class MLP(torch.nn.Module):
        def __init__(self, widths: list[int], norms: int) -> None:
            super().__init__()
            pairs = list(pairwise(widths))
            self.layers = torch.nn.ModuleList(torch.nn.Linear(i, o) for i, o in pairs)
            self.norms = torch.nn.ModuleList(
                torch.nn.LayerNorm(o, eps=1e-6) for _, o in pairs[:norms]
            )

        def forward(self, x: Any) -> Any:
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if i < len(self.norms):
                    x = self.norms[i](x)
                if i < len(self.layers) - 1:
                    x = torch.nn.functional.gelu(x, approximate="tanh")
            return x

    def of(network: str) -> Any:
        params = getattr(ck, network)
        widths = [params.in_features, *(x.kernel.shape[-1] for x in params.layers)]
        norms = sum(x.scale is not None for x in params.layers)
        made = [MLP(widths, norms) for _ in range(params.ensemble or 1)]
        return torch.nn.ModuleList(made) if params.ensemble else made[0]

    return torch.nn.ModuleDict({name: of(name) for name in NETWORKS})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_we_write(dtype: str, mmap: bool, tmp_path: Path) -> None:
    import torch

    ck = small_checkpoint(dtype=dtype)
    export(ck, tmp_path / "a.pt", "torch")
    state = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    for written in names_in(ck, "torch"):
        np.testing.assert_array_equal(state[written.name].numpy(), written.array)
        assert state[written.name].numpy().dtype == dtype
    modules = torch_modules(ck).to(getattr(torch, dtype))
    modules.load_state_dict(state, strict=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, ck.critic.in_features)).astype(dtype)
    theirs = [m(torch.from_numpy(x)).detach().numpy()[:, 0] for m in modules["critic"]]
    expected = mlp(ck.critic, x, MLPOptions("gelu"))[0][..., 0]
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(np.stack(theirs), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("wrapped", [False, True])
def test_we_read_what_torch_saves(wrapped: bool, tmp_path: Path) -> None:
    """State dicts of modules (with versions), with optimizer states, as one or several dicts."""
    import torch

    ck = small_checkpoint(dtype="float32")
    modules = torch_modules(ck)
    if wrapped:
        optimizer = torch.optim.Adam(modules.parameters())
        sum(p.sum() for p in modules.parameters()).backward()
        optimizer.step()
        content: Any = {name: modules[name].state_dict() for name in NETWORKS}
        content |= {"optimizer": optimizer.state_dict(), "epoch": 3, "lr": 1e-3}
    else:
        content = modules.state_dict()
    torch.save(content, tmp_path / "a.pt")
    loaded = qgf_ref.load(tmp_path / "a.pt", dtype="float32", **OPTIONS)
    for network in NETWORKS:
        stored = modules[network].state_dict()
        written = [w for w in names_in(loaded, "torch") if w.target.split(".")[0] == network]
        assert len(written) == len(stored)
        for w in written:
            own = w.name.removeprefix(f"{network}.")
            np.testing.assert_array_equal(stored[own].numpy(), w.array)


def test_every_layout_that_torch_saves(tmp_path: Path) -> None:
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    tensors = {
        "plain": base, "transposed": base.t(), "slice": base[1:3, ::2],
        "expanded": base[:1].expand(5, 6),
        "parameter": torch.nn.Parameter(base), "double": base.double(), "half": base.half(),
        "bfloat16": base.bfloat16(), "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5),
        "long": torch.arange(3), "bool": torch.tensor([True, False]), "tied": base,
    }  # fmt: skip
    torch.save(tensors, tmp_path / "a.pt")
    read = read_torch(tmp_path / "a.pt").tensors
    for name, tensor in tensors.items():
        expected: Array = (
            tensor.detach().float().numpy()
            if name in ("half", "bfloat16")
            else (tensor.detach().numpy())
        )
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype


def test_what_torch_saves_and_we_refuse(tmp_path: Path) -> None:
    import torch

    linear = torch.nn.Linear(2, 2)
    torch.save(linear.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"before 1.6.*save it again"):
        qgf_ref.load(tmp_path / "old.pt")
    torch.save(linear, tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"the name torch\.nn\.modules\.linear\.Linear"):
        qgf_ref.load(tmp_path / "module.pt")
    with pytest.warns(DeprecationWarning):
        torch.jit.script(linear).save(str(tmp_path / "script.pt"))
    with pytest.raises(InputError, match="TorchScript"):
        qgf_ref.load(tmp_path / "script.pt")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_flax_restores_what_we_write(dtype: str, tmp_path: Path) -> None:
    from flax import serialization

    ck = small_checkpoint(dtype=dtype)
    export(ck, tmp_path / "a.msgpack", "flax")
    tree = serialization.msgpack_restore((tmp_path / "a.msgpack").read_bytes())
    assert set(tree) == {*NETWORKS, "options"}
    official = official_tree(ck)["agent"]
    for network in NETWORKS:
        expected = official[network]["params"]
        restored = serialization.from_state_dict(expected, tree[network])
        same_trees(restored, expected)
        same_trees(tree[network], expected)


def same_trees(a: Any, b: Any) -> None:
    if isinstance(b, dict):
        assert set(a) == set(b)
        for key in b:
            same_trees(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("chunked", [False, True])
def test_we_read_what_flax_writes(
    chunked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole official agent, with jax arrays, optimizer states and a key; in chunks as well."""
    import jax
    from flax import serialization

    ck = small_checkpoint(dtype="float32")
    tree: Any = jax.tree.map(jax.numpy.asarray, official_tree(ck))
    for network in ("policy", "critic", "value"):
        params = tree["agent"][network]["params"]
        moments = {"count": jax.numpy.zeros((), int), "mu": params, "nu": params}
        tree["agent"][network]["opt_state"] = {"0": moments, "1": {}}
    if chunked:
        monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(tree))
    loaded, mapping = load_as_stored(tmp_path / "a.msgpack", OPTIONS)
    same(loaded, ck)
    assert mapping is not None
    assert len(mapping.entries) == 54


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
def test_orbax_directories_and_what_flax_makes_of_them(tmp_path: Path) -> None:
    import jax

    orbax = pytest.importorskip("orbax.checkpoint")
    from flax import serialization

    ck = small_checkpoint(dtype="float32")
    agent = official_tree(ck)["agent"]
    tree = {network: {"params": agent[network]["params"]} for network in NETWORKS}
    tree = jax.tree.map(jax.numpy.asarray, tree)
    for name, options in (("ocdbt", {}), ("zarr", {"use_ocdbt": False, "use_zarr3": False})):
        orbax.PyTreeCheckpointer(**options).save(tmp_path / name, tree)
        same(qgf_ref.load(tmp_path / name, dtype="float32", **OPTIONS), ck)
        restored = orbax.PyTreeCheckpointer(**options).restore(tmp_path / name)
        data = serialization.msgpack_serialize(jax.tree.map(np.asarray, restored))
        (tmp_path / "x.msgpack").write_bytes(data)
        same(qgf_ref.load(tmp_path / "x.msgpack", dtype="float32", **OPTIONS), ck)


def test_safetensors_that_torch_writes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    ck = small_checkpoint(dtype="float32")
    modules = torch_modules(ck).bfloat16()
    save_file(modules.state_dict(), tmp_path / "a.safetensors")
    loaded, mapping = load_as_stored(tmp_path / "a.safetensors", OPTIONS)
    assert mapping is not None
    assert mapping.notes == ["82 bfloat16 tensors became float32, exactly"]
    weight = modules["policy"].layers[0].weight.detach().float().numpy()
    np.testing.assert_array_equal(loaded.policy.layers[0].kernel, weight.T)
