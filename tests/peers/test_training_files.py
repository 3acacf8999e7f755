"""Checkpoints as PyTorch, flax and Orbax write them; and what a message says to do, done.

Every remedy that names a framework's call is executed here as it stands in the message, for each
framework that can reach it.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.interop import orbax_directory
from qgf_ref.interop.export import names_in
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, same

pytestmark = pytest.mark.peers

OURS = small_checkpoint(dtype="float32")


def load(path: Path, **more: Any) -> Checkpoint:
    return qgf_ref.load(path, dtype="float32", **{**OPTIONS, **more})


def nested() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for w in names_in(OURS, "flax"):
        *parents, leaf = w.name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = w.array
    return tree


def remedy(path: Path, pattern: str) -> str:
    """The line of code in the message that refuses `path`."""
    with pytest.raises(InputError) as caught:
        load(path)
    found = re.search(pattern, str(caught.value))
    assert found is not None, caught.value
    return found[1]


# --- PyTorch -----------------------------------------------------------------------------------


def state_dict() -> OrderedDict[str, Any]:
    torch = pytest.importorskip("torch")
    return OrderedDict(
        (w.name, torch.from_numpy(np.ascontiguousarray(w.array))) for w in names_in(OURS, "torch")
    )


def torch_cases() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    weights = state_dict()
    parameters = [torch.nn.Parameter(v.clone()) for v in weights.values()]
    adam = torch.optim.AdamW(parameters, amsgrad=True)
    sum((p**2).sum() for p in parameters).backward()
    adam.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [10, 20])
    scaler = torch.amp.GradScaler("cpu")
    own = {k: torch.nn.Parameter(v) for k, v in weights.items()}
    for parameter in own.values():
        parameter.about = "x"
    return {
        "tutorial": {"model_state_dict": weights, "optimizer_state_dict": adam.state_dict(),
                     "scheduler_state_dict": schedule.state_dict(), "loss": torch.tensor(0.4),
                     "scaler": scaler.state_dict(), "epoch": 3},
        "Lightning": {
            "epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.5", "loops": {"fit": {}},
            "state_dict": {f"agent.{k}": v for k, v in weights.items()},
            "optimizer_states": [adam.state_dict()], "lr_schedulers": [schedule.state_dict()],
            "callbacks": {"EarlyStopping{'monitor': 'x'}": {"best_score": torch.tensor(0.1)}},
            "hyper_parameters": {"lr": 3e-4}, "MixedPrecision": {},
        },
        "one optimizer a network": {
            **weights, "policy_optimizer": adam.state_dict(), "q_optim": adam.state_dict(),
        },
        "average": {"n_averaged": torch.tensor(7),
                    **{f"module.{k}": v for k, v in weights.items()}},
        "safe list": {
            "weights": weights, "a": torch.device("cpu"), "b": torch.bfloat16, "c": torch.Size([3]),
            "d": {1, 2}, "e": Counter("aab"), "f": bytearray(b"x"), "g": 1j, "h": torch.strided,
            "i": torch.zeros(2, dtype=torch.complex64), "j": torch.zeros(2, dtype=torch.uint16),
            "k": torch.eye(2).to_sparse(), "l": torch.zeros(2, device="meta"),
            "m": torch.zeros(2).to(torch.float8_e4m3fn),
            "o": {torch.float32: 1, (1, "x"): 2, None: 3, 0.5: 4},
            "p": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        },
        "generators": {"weights": weights, "torch": torch.get_rng_state(),
                       "numpy": np.random.get_state(),  # noqa: NPY002
                       "generator": np.random.default_rng(0)},
        "parameters": {k: torch.nn.Parameter(v) for k, v in weights.items()},
        "parameters with attributes": own,
        "half": {k: v.bfloat16().float().bfloat16() for k, v in weights.items()},
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_training_checkpoints_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name, content in torch_cases().items():
        torch.save(content, tmp_path / "agent.ckpt")
        loaded = load(tmp_path / "agent.ckpt")
        if name != "half":
            same(loaded, OURS)


@pytest.mark.filterwarnings("ignore")
def test_remedies_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    names: dict[str, Any] = {
        "torch": torch,
        "F": str(tmp_path / "f.pt"),
        "G": str(tmp_path / "g.pt"),
    }
    weights = state_dict()
    torch.save(weights, names["F"], _use_new_zipfile_serialization=False)
    exec(remedy(tmp_path / "f.pt", r"(torch\.save\(.*\))$"), names)
    same(load(tmp_path / "g.pt"), OURS)

    class Agent(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            for name, value in weights.items():
                node: Any = self
                *path, leaf = name.split(".")
                for part in path:
                    if part not in dict(node.named_children()):
                        node.add_module(part, torch.nn.Module())
                    node = getattr(node, part)
                node.register_parameter(leaf, torch.nn.Parameter(value))

        def forward(self, x: Any) -> Any:
            return x

    globals()["Agent"] = Agent
    Agent.__qualname__ = "Agent"
    for save in (torch.save, lambda agent, path: torch.jit.script(agent).save(path)):
        save(Agent(), names["F"])
        (tmp_path / "g.pt").unlink()
        code = remedy(
            tmp_path / "f.pt", r"(m = torch\.load\(.*?, G\)|torch\.save\(torch\.jit.*?G\))"
        )
        exec(code, names)
        same(load(tmp_path / "g.pt"), OURS)


# --- flax and Orbax ----------------------------------------------------------------------------


def nnx_state() -> Any:
    """The agent as modules of NNX, with lists; and its generators."""
    nnx = pytest.importorskip("flax.nnx")

    class MLP(nnx.Module):  # type: ignore[name-defined]
        def __init__(self, params: Any, rngs: Any) -> None:
            self.layers = nnx.List()
            self.norms = nnx.List()
            for layer in params.layers:
                dense = nnx.Linear(1, 1, rngs=rngs)
                dense.kernel, dense.bias = nnx.Param(layer.kernel), nnx.Param(layer.bias)
                self.layers.append(dense)
                if layer.scale is not None:
                    norm = nnx.LayerNorm(1, rngs=rngs)
                    norm.scale, norm.bias = nnx.Param(layer.scale), nnx.Param(layer.offset)
                    self.norms.append(norm)

    class Agent(nnx.Module):  # type: ignore[name-defined]
        def __init__(self, rngs: Any) -> None:
            for name, params in OURS.params.items():
                setattr(self, name, MLP(params, rngs))
            self.rngs = rngs

    return nnx.state(Agent(nnx.Rngs(0)))


def jax_trees() -> dict[str, Any]:
    nnx = pytest.importorskip("flax.nnx")
    optax = pytest.importorskip("optax")
    linen = nested()
    state = nnx_state()
    adam = optax.adam(1e-3).init(linen["policy"])
    return {
        "linen": {"params": linen, "step": 3, "opt_state": adam},
        "linen in bfloat16": {"params": linen},
        "NNX": state,
        "NNX, pure": nnx.to_pure_dict(state),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["linen", "linen in bfloat16", "NNX", "NNX, pure"])
def test_orbax(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by TensorStore; and without it exported as the message says."""
    jax, ocp = pytest.importorskip("jax"), pytest.importorskip("orbax.checkpoint")
    flax = pytest.importorskip("flax")
    tree = jax_trees()[what]
    if "bfloat16" in what:
        tree = jax.tree.map(lambda a: jax.numpy.asarray(a, jax.numpy.bfloat16), tree)
    if what.startswith("NNX"):
        # typed keys are arrays of another kind, which PyTreeCheckpointer does not take
        tree = jax.tree.map(
            lambda a: jax.random.key_data(a) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
            else a, tree)  # fmt: skip
    ocp.PyTreeCheckpointer().save(tmp_path / "item", tree)
    direct = load(tmp_path / "item")
    if "bfloat16" not in what:
        same(direct, OURS)
    monkeypatch.setattr(orbax_directory, "find_spec", lambda name: None)
    code = remedy(tmp_path / "item", r"trained: (tree = .*)$")
    monkeypatch.chdir(tmp_path)
    import orbax.checkpoint as _  # noqa: F401

    names = {"orbax": __import__("orbax"), "flax": flax, "jax": jax, "numpy": np,
             "DIR": str(tmp_path / "item")}  # fmt: skip
    exec(code, names)
    same(load(tmp_path / "x.msgpack"), direct)


@pytest.mark.filterwarnings("ignore")
def test_layouts_of_orbax(tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint")
    tree = {"params": nested()}
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)).save(tmp_path / "a", tree)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)).save(tmp_path / "b", tree)
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        for step in (1, 20):
            manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    for place in ("a", "b", "c/20", "c/1/default"):
        same(load(tmp_path / place), OURS)
    with pytest.raises(InputError, match=r"several items: name one of 1/default, 20/default"):
        load(tmp_path / "c")
    database = next((tmp_path / "b" / "d").iterdir())
    database.write_bytes(database.read_bytes()[:20])
    with pytest.raises(InputError, match="incomplete or damaged"):
        load(tmp_path / "b")


def test_pickles_of_jax(tmp_path: Path) -> None:
    jax, ml_dtypes = pytest.importorskip("jax"), pytest.importorskip("ml_dtypes")
    optax, flax = pytest.importorskip("optax"), pytest.importorskip("flax")
    tree: Any = official_tree(OURS)
    tree["agent"]["rng"] = jax.random.key(0)
    tree["agent"]["policy"]["opt_state"] = optax.adam(1e-3).init(tree["agent"]["policy"]["params"])
    path = tmp_path / "params_1.pkl"
    path.write_bytes(pickle.dumps(tree))
    same(load(path), OURS)
    tree = {"params": nested(), "opt_state": optax.sgd(1e-3, 0.9).init(nested())}
    path.write_bytes(pickle.dumps(jax.tree.map(jax.numpy.asarray, tree)))
    same(load(path), OURS)
    half = jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16), nested())
    path.write_bytes(pickle.dumps(half))
    np.savez(tmp_path / "a.npz", **flax.traverse_util.flatten_dict(half, sep="/"))
    same(load(path), load(tmp_path / "a.npz"))
    (tmp_path / "b.msgpack").write_bytes(flax.serialization.to_bytes(half))
    same(load(path), load(tmp_path / "b.msgpack"))


@pytest.mark.filterwarnings("ignore")
def test_the_remedy_for_pickles_of_classes(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    flax, optax = pytest.importorskip("flax"), pytest.importorskip("optax")
    from flax.training.train_state import TrainState

    state = TrainState.create(apply_fn=None, params=nested(), tx=optax.identity())
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(state.replace(tx=None)))
    code = remedy(tmp_path / "f.pkl", r"written: (tree = .*sep='/'\)\))")
    names = {"flax": flax, "numpy": np, "pickle": pickle, "F": str(tmp_path / "f.pkl"),
             "G": str(tmp_path / "g.npz")}  # fmt: skip
    exec(code, names)
    same(load(tmp_path / "g.npz"), OURS)


def test_shards_of_hugging_face(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    where: dict[str, str] = {}
    for i, names in enumerate((list(state_dict())[:40], list(state_dict())[40:]), 1):
        part = {n: state_dict()[n] for n in names}
        torch.save(part, tmp_path / f"pytorch_model-{i:05}-of-00002.bin")
        where |= dict.fromkeys(part, f"pytorch_model-{i:05}-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    same(load(tmp_path), OURS)
    save_file({n: v.numpy() for n, v in state_dict().items()}, tmp_path / "model.safetensors")
    same(load(tmp_path), OURS)
