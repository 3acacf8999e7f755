"""Names that all begin with one word, and files that are no agent, before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.errors import InputError
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, flax_tree, official_tree, same, write
from tests.helpers.foreign_names import NETWORKS, Tensors, put, tensors_of, torch_leaf


def named(owner: str, policy: str = "actor", critic: str = "critic") -> Tensors:
    """A small agent whose networks are attributes of an object called `owner`."""
    names = dict(zip(NETWORKS, (policy, critic, f"target_{critic}", "value"), strict=True))

    def name(network: str, layer: int, part: str, member: int | None) -> str:
        kind = "norm" if part in ("scale", "offset") else "layers"
        return f"{owner}.{names[network]}.{member}.{kind}.{layer}.{torch_leaf(part)}".replace(
            ".None", ""
        )

    return tensors_of(small_checkpoint(), name, transposed=True, apart=True)


@pytest.mark.parametrize(
    ("owner", "policy"),
    [("policy", "actor"), ("policy", "net"), ("policy", "policy"), ("policy.policy", "actor"),
     ("policy.policy.policy", "net"), ("model.policy.policy", "velocity_net")],
)  # fmt: skip
def test_a_policy_that_owns_all_networks(owner: str, policy: str, tmp_path: Path) -> None:
    loaded = qgf_ref.load(put(tmp_path / "a.npz", named(owner, policy)), **OPTIONS)
    same(loaded, small_checkpoint())


def test_words_unknown_below_one_owner_are_asked_about_by_their_names(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", named("policy", "trunk", "judge"))
    with pytest.raises(InputError, match=r"All its names begin with policy\.trunk, policy\.judge"):
        qgf_ref.load(path, **OPTIONS)
    told = {"policy.judge": "critic", "policy.target_judge": "target_critic"}
    told["policy.value"] = "value"
    same(qgf_ref.load(path, rules={"rename": told}, **OPTIONS), small_checkpoint())


def test_an_object_of_networks_in_a_pickle(tmp_path: Path) -> None:
    """{"agent": {"policy": {actor, critic, …}}} is not the official code's, whose policy is one."""
    ck = small_checkpoint()
    trees = {n: flax_tree(getattr(ck, n), n) for n in NETWORKS}
    agent = {"policy": {"actor": trees.pop("policy"), **trees}}
    same(qgf_ref.load(write(tmp_path / "a.pkl", {"agent": agent}), **OPTIONS), ck)


RNG = np.random.default_rng(0)
ATTENTION = {
    f"model.layers.{i}.self_attn.q_proj.weight": RNG.standard_normal((6, 6)) for i in range(3)
}
NO_AGENTS: dict[str, tuple[Tensors, str]] = {
    "a transformer": (ATTENTION, r"holds attention \(model\.layers\.0\.self_attn"),
    "a transformer called policy": (
        {f"policy.{name}": array for name, array in ATTENTION.items()}, "holds attention",
    ),
    "a convolution by its shape": (
        {"stem.0.weight": RNG.standard_normal((4, 3, 3, 3))}, r"holds convolutions \(stem\.0",
    ),
    "a policy alone": (
        {n: a for n, a in named("agent").items() if "actor" in n}, "a policy and no critic",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_AGENTS)
@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_what_is_no_agent_is_said_before_options_are_asked_for(
    case: str, options: dict[str, Any], tmp_path: Path
) -> None:
    tensors, message = NO_AGENTS[case]
    with pytest.raises(InputError, match=message) as caught:
        qgf_ref.load(put(tmp_path / "a.npz", tensors), **options)
    assert "does not say" not in str(caught.value) and "adapters" in str(caught.value)


def test_an_official_pickle_without_a_critic_is_no_agent(tmp_path: Path) -> None:
    """Behaviour cloning alone: not asked for an activation first, which no answer would help."""
    tree = official_tree(small_checkpoint())
    for name in ("critic", "target_critic", "value"):
        del tree["agent"][name]
    with pytest.raises(InputError, match=r"has no 'critic' \(found: rng, policy\)"):
        qgf_ref.load(write(tmp_path / "params_1.pkl", tree))
