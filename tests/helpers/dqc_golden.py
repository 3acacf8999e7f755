"""Golden cases of DQC and the goal-conditioned flows: shared/golden/gc (README there)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import DQCSettings, dqc
from qgf_ref.agents.options import Options
from qgf_ref.agents.stage import StageInputs
from qgf_ref.arrays import Array
from qgf_ref.interop.official import params_from_flax
from qgf_ref.interop.unpickle import read_pickle
from qgf_ref.losses.batch import Batch, GoalBatch, Hyperparameters
from qgf_ref.nets.mlp import MLPParams

PARTS = {"policy": "actor_bc"}
"""Ours → the official name, where that is another."""
BATCH = {
    "obs": "observations", "action": "high_value_action_chunks", "goal": "high_value_goals",
    "next_obs": "high_value_next_observations", "rewards": "high_value_rewards",
    "masks": "high_value_masks", "steps": "high_value_backup_horizon", "valid": "valids",
}  # fmt: skip


def column_of_official(own: DQCSettings, inputs: StageInputs) -> Array:
    """T5: h_a·A − 1, which jit clamps to the last column. NumPy raises an IndexError there."""
    valid = inputs.batch.valid
    A = inputs.batch.action.shape[1] // own.backup_horizon
    column: Array = valid[:, min(own.policy_chunk_size * A, valid.shape[1]) - 1]
    return column


@cache
def arrays_of(path: Path) -> dict[str, Array]:
    with np.load(path) as file:
        return dict(file)


@cache
def tree_of(path: Path) -> Any:
    return read_pickle(path)["agent"]


class Case:
    """One golden case."""

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, json.loads((path / "config.json").read_text())

    def arrays(self, name: str) -> dict[str, Array]:
        return arrays_of(self.path / f"{name}.npz")

    def settings(self, **changes: Any) -> DQCSettings:
        c = self.config
        names = (
            "goal_dim", "backup_horizon", "policy_chunk_size", "use_chunk_critic", "kappa_d",
            "distill_method", "implicit_backup_type",
        )  # fmt: skip
        own = DQCSettings(
            **{name: c[name] for name in names}, policy_goals=False, policy_network="dqc"
        )
        return own.changed(changes)

    def checkpoint(self, dtype: str = "float64", agg: str = "", **changes: Any) -> Checkpoint:
        """DQC's; with another policy where the settings say that it has goals."""
        c, own = self.config, self.settings(**changes)
        options = Options(
            "gelu", agg or c["q_agg"], c["flow_steps"], c["policy_chunk_size"], True,
            c["discount"], c["kappa_b"],
        )  # fmt: skip
        agent, trees = dqc(own), tree_of(self.path / "params_0.pkl")["network"]["params"]
        params = {
            name: params_from_flax(trees[f"modules_{PARTS.get(name, name)}"], name)
            for name in agent.part_names
        }
        if own.policy_goals:
            params["policy"] = self.policy({"dqc": "gcfbc"}.get(own.policy_network, "qgf"))
        return Checkpoint(options, params=params, agent=agent).astype(dtype)

    def policy(self, name: str) -> MLPParams:
        tree = tree_of(self.path / f"policy_{name}.pkl")
        if name == "gcfbc":
            return params_from_flax(tree["network"]["params"]["modules_actor_flow"], name)
        return params_from_flax(tree["policy"]["params"], name)

    def batch(self, name: str, dtype: str) -> GoalBatch:
        z = self.arrays("batches_float32")
        fields = {ours: z[f"{name}/official/{theirs}"] for ours, theirs in BATCH.items()}
        rows = np.arange(len(fields["obs"]))
        nobody = {f"{of}row": rows for of in ("", "goal_", "policy_goal_")}
        empty = np.zeros((len(rows), 0), np.float32)
        return GoalBatch(**fields, policy_goal=empty, **nobody).astype(dtype)

    def hyper(self) -> Hyperparameters:
        c = self.config
        return Hyperparameters(
            c["discount"], c["policy_chunk_size"], c["kappa_b"], c["tau"], c["lr"],
            denoise_steps=c["flow_steps"],
        )  # fmt: skip

    def drawn(self, dtype: str, prefix: str = "") -> dict[str, Array]:
        z = self.arrays("train_step_float32")
        return {name: z[f"{prefix}{name}"].astype(dtype) for name in ("x0", "t")}


def official_losses(z: dict[str, Array], prefix: str) -> dict[str, float]:
    """What is stored under prefix/NETWORK, by our names."""
    ours = {theirs: name for name, theirs in PARTS.items()}
    keys = (key for key in z if key.startswith(prefix) and "/" not in key.removeprefix(prefix))
    return {ours.get(k.removeprefix(prefix), k.removeprefix(prefix)): float(z[k]) for k in keys}


def golden_like(O: int, D: int) -> Batch:
    """A batch of one task, all zeros."""
    rows = np.zeros(4)
    return Batch(np.zeros((4, O)), np.zeros((4, D)), np.zeros((4, O)), rows, rows, rows)
