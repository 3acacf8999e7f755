"""Checkpoints of the official JAX code: `params_N.pkl` with its `flags.json`.

Layout (official.md, section 4; baselines.md, section 1): {"agent": {policy, critic, target_critic,
value}}, each {step, params, opt_state}, or {"agent": {"network": {"params": {modules_NAME, …}}}};
a flow's params {MLP_0: {Dense_i, LayerNorm_i}, Dense_0}, those of critics and values {value_net:
{Dense_i, LayerNorm_i}}, of a diffusion policy {FourierFeatures_0, MLP_0, MLP_1}. CFGRL's flow is
`actor` and has Embed_0 beside: it is read as the auxiliary network of that name, and as the policy
what it is at o = 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import options_from
from qgf_ref.agents.shapes import with_ensembles
from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError, listing
from qgf_ref.file_kinds import require_text
from qgf_ref.interop.flax_msgpack import FLAX
from qgf_ref.interop.format import Format
from qgf_ref.interop.official_agents import (
    MODULES,
    OFFICIAL,
    OfficialAgent,
    agent_of,
    of_goals,
    official_agent,
)
from qgf_ref.interop.real_tensors import TensorFile, flatten, tensor_file
from qgf_ref.interop.unpickle import read_pickle
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS, AuxiliaryParams
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.nets.velocity import at_label

LABELS = "Embed_0"
"""The module that holds a label's table."""


def read_flags(path: Path) -> dict[str, Any]:
    """The agent's options in a `flags.json` of the official code.

    Raises InputError when the file is unreadable, or describes an agent that is not QGF's kind of
    network (BroNet critics).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    require_text(data, path)
    try:
        flags = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(flags, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(flags).__name__}")
    agent = flags.get("agent", flags)
    if not isinstance(agent, dict):
        raise InputError(f"{path}: 'agent' must be an object, got {type(agent).__name__}")
    network = agent.get("value_network_class", "MLP")
    if network != "MLP":
        raise InputError(
            f"{path}: value_network_class {listing([network])} is not supported, only 'MLP'"
        )
    return agent


def load_official(path: Path, overrides: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint at `path`; options from `flags.json` beside it, `overrides` first.

    None when it is another's, whose names tell: without an agent that has a policy with a tree of
    its own, or one tree of networks without one.

    Raises InputError on a file that is refused, truncated, or not a QGF agent, and on options
    that neither source gives.
    """
    tree = read_pickle(path)
    agent = tree.get("agent") if isinstance(tree, dict) else None
    if not isinstance(agent, dict):
        return None
    together = isinstance(agent.get("network"), dict)
    if not together and not _has_tree(agent):
        return None
    trees = _networks_together(agent, str(path)) if together else {}
    if "policy" in trees:
        return None
    flags_path = path.with_name("flags.json")
    flags = read_flags(flags_path) if flags_path.exists() else {}
    kind = official_agent(trees, flags, str(path)) if together else _apart(agent, flags)
    where = str(flags_path) if flags_path.exists() else f"{path} (no flags.json beside it)"
    chosen = {k: v for k, v in overrides.items() if v is not None}
    values = {**kind.options(flags, where), **chosen}
    if kind.agent == "dqc":
        values |= of_goals(trees, values)
    if together and "value" not in trees:
        values.setdefault("critic_loss_type", "ddpg")
    ours = agent_of(kind, values)
    theirs = {name: kind.parts.get(name, name) for name in ours.part_names}
    if not together:
        trees = {
            name: _child(_child(agent, name, f"{path}: agent"), "params", f"{path}: agent/{name}")
            for name in theirs.values()
        }
    nets = {
        name: params_from_flax(_child(trees, their_name, str(path)), f"{path}: {their_name}")
        for name, their_name in theirs.items()
    }
    auxiliary = NO_AUXILIARY_PARAMS
    if kind.conditional:
        auxiliary = AuxiliaryParams(cfgrl=nets["policy"])
        nets["policy"] = at_label(nets["policy"], 0)
    # num_qs = 1 is stored without the ensemble axis (official.md, D4)
    nets = with_ensembles(ours, nets)
    # only now: of what is no agent, nobody needs to know the activation
    options = options_from(values, where)
    return Checkpoint(options, params=nets, source=str(path), agent=ours, auxiliary=auxiliary)


def _has_tree(agent: Mapping[str, Any]) -> bool:
    """Whether its policy is a network, and not an object that owns all of them."""
    policy = agent.get("policy")
    return _is_cfgrl(agent) or (
        isinstance(policy, dict) and ("params" in policy or "critic" in agent)
    )


def _is_cfgrl(agent: Mapping[str, Any]) -> bool:
    """Whether its actor reads a label."""
    actor = agent.get("actor")
    return isinstance(actor, dict) and LABELS in (actor.get("params") or ())


def _apart(agent: Mapping[str, Any], flags: Mapping[str, Any]) -> OfficialAgent:
    """The kind of an agent whose networks have trees of their own: EDP's are named like QGF's."""
    if _is_cfgrl(agent):
        return OFFICIAL["cfgrl"]
    return OFFICIAL["edp" if flags.get("agent_name") == "edp" else "iql"]


def _networks_together(agent: Any, where: str) -> dict[str, Any]:
    """The networks of an agent that keeps them in one tree, by name."""
    params = _child(_child(agent, "network", where), "params", f"{where}: network")
    if not isinstance(params, dict):
        raise InputError(f"{where}: network/params must be a dict, got {type(params).__name__}")
    return {str(name).removeprefix(MODULES): tree for name, tree in params.items()}


def params_from_flax(tree: Any, where: str) -> MLPParams:
    """One network's parameters from flax's nested dict, a policy's or a critic's or value's.

    where  names the network in errors (InputError) on another structure
    """
    for name in ("value_net", "mlp"):  # the latter a policy's of DQC
        if isinstance(tree, dict) and name in tree:
            return MLPParams(tuple(_layers(tree[name], where)))
    if isinstance(tree, dict) and "FourierFeatures_0" in tree:
        features = _child(tree, "FourierFeatures_0", where)
        frequencies = _array(features, "kernel", f"{where}/FourierFeatures_0")
        inside, trunk = (tuple(_layers(_child(tree, n, where), where)) for n in ("MLP_0", "MLP_1"))
        return MLPParams(trunk, encoder=MLPParams(inside, frequencies))
    layers = _layers(_child(tree, "MLP_0", where), where)
    head = _dense(_child(tree, "Dense_0", where), None, f"{where}/Dense_0")
    table = _array(tree[LABELS], "embedding", f"{where}/{LABELS}") if LABELS in tree else None
    return MLPParams((*layers, head), table)


def _child(node: Any, key: str, where: str) -> Any:
    if not isinstance(node, dict) or key not in node:
        found = listing(node) if isinstance(node, dict) else type(node).__name__
        raise InputError(f"{where} has no {key!r} (found: {found}); is it a QGF checkpoint?")
    return node[key]


def _array(node: Any, key: str, where: str) -> Array:
    array = _child(node, key, where)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise InputError(f"{where}/{key} must be an array of floats, got {type(array).__name__}")
    require_finite(array, f"{where}/{key}", InputError)
    return array


def _dense(dense: Any, norm: Any, where: str) -> LayerParams:
    kernel, bias = _array(dense, "kernel", where), _array(dense, "bias", where)
    if kernel.ndim not in (2, 3):
        raise InputError(f"{where}/kernel must have 2 or 3 axes, got shape {kernel.shape}")
    if norm is None:
        return LayerParams(kernel, bias)
    return LayerParams(kernel, bias, _array(norm, "scale", where), _array(norm, "bias", where))


def _layers(trunk: Any, where: str) -> list[LayerParams]:
    count = (
        sum(1 for key in trunk if str(key).startswith("Dense_")) if isinstance(trunk, dict) else 0
    )
    known = {f"{kind}_{i}" for kind in ("Dense", "LayerNorm") for i in range(count)}
    if count == 0 or not set(trunk) <= known:
        found = listing(trunk) if isinstance(trunk, dict) else type(trunk).__name__
        raise InputError(f"{where} is not an MLP of Dense and LayerNorm layers (found: {found})")
    norms = sum(1 for key in trunk if str(key).startswith("LayerNorm_"))
    lost = [f"LayerNorm_{i}" for i in range(norms) if f"LayerNorm_{i}" not in trunk]
    if lost:
        raise InputError(
            f"{where} has no {listing(lost)}, though a later one: a LayerNorm without parameters, "
            "which no network here has"
        )
    return [
        _dense(
            _child(trunk, f"Dense_{i}", where), trunk.get(f"LayerNorm_{i}"), f"{where}/Dense_{i}"
        )
        for i in range(count)
    ]


def _read(path: Path) -> TensorFile:
    """The arrays of a plain pickle, with dots between the keys. Raises InputError."""
    arrays, strings = flatten(read_pickle(path), str(path))
    if not arrays or "" in arrays:
        raise InputError(f"{path} holds no arrays by name; is it a QGF checkpoint?")
    return tensor_file(arrays, strings.get("options", ""), str(path))


PICKLE = Format(
    "pickle",
    (".pkl", ".pickle"),
    _read,
    # PROTO and a protocol number
    resembles=lambda start: start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"),
    load=load_official,
    names=FLAX.names,
)
