"""What training checkpoints hold beside weights, in whose names, and in how many files."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.flax_msgpack import msgpack_bytes
from qgf_ref.interop.load import load_as_stored
from tests.helpers.checkpoints import OPTIONS, official_tree, same
from tests.helpers.foreign_names import (
    NETWORKS,
    OURS,
    WEIGHTS,
    Tensors,
    members_first,
    put,
    tensors_of,
)

HIDDEN = OURS.policy.layers[0].kernel


def beside(**more: Any) -> Tensors:
    return {**WEIGHTS, **{name.replace("__", "."): np.asarray(a) for name, a in more.items()}}


PASSED_OVER: dict[str, Tensors] = {
    "a tutorial": {"optimizer_state_dict.state.0.exp_avg": HIDDEN, "loss": np.array(0.4)},
    "Lightning": {
        "optimizer_states.0.state.0.exp_avg": HIDDEN,
        "lr_schedulers.0.base_lrs": np.ones(1),
        "callbacks.ModelCheckpoint{'monitor': 'loss'}.best_model_score": np.array(0.4),
        "loops.fit_loop.epoch_progress": np.arange(3),
    },
    "of each network": {
        "actor_optimizer_state_dict.state.0.exp_avg": HIDDEN,
        "critic_optim.state.0.exp_avg_sq": HIDDEN,
        "vf_opt.mu.kernel": HIDDEN,
        "policy.opt_state.0.mu.Dense_0.kernel": HIDDEN,
    },
    "an average": {"n_averaged": np.array(7), "initted": np.array(True), "step": np.array(9)},
    "generators": {
        "torch": np.zeros(5056, np.uint8),
        "rng_states.numpy": np.zeros(624, np.uint32),
        "rngs.default.key.value": np.zeros(2, np.uint32),
    },
    "metrics": {
        "train_losses": np.zeros(100), "best_reward_mean": np.array(2.0), "returns.std": np.ones(1),
        "history.eval": np.zeros((3, 4)), "log_alpha": np.zeros(1),
    },
    "frequencies": {"PolicyNet.time.freqs": np.arange(8.0), "PolicyNet.emb.inv_freq": np.ones(8)},
    "indices": {"PolicyNet.position_ids": np.arange(5), "PolicyNet.dummy": np.zeros(0)},
    "bounds of 1": {
        "action_low": -np.ones(3), "action_high": np.ones(3), "PolicyNet.action_scale": np.ones(3),
        "PolicyNet.action_bias": np.zeros(3), "act_limit": np.array(1.0),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", PASSED_OVER)
def test_what_is_passed_over(what: str, tmp_path: Path) -> None:
    more = PASSED_OVER[what]
    loaded, mapping = load_as_stored(put(tmp_path / "a.npz", {**WEIGHTS, **more}), OPTIONS)
    same(loaded, OURS)
    assert mapping is not None
    assert set(mapping.ignored) == set(more)
    assert any(note.startswith("passed over as no parameters") for note in mapping.notes)


def test_other_frequencies_than_ours_are_noted(tmp_path: Path) -> None:
    ours = np.exp(-np.log(1e4) * np.arange(8) / 8)
    for theirs, said in ((ours, 0), (1e4 * ours[::-1], 0), (np.arange(8.0), 1)):
        path = put(tmp_path / "a.npz", {**WEIGHTS, "PolicyNet.time.freqs": theirs})
        _, mapping = load_as_stored(path, OPTIONS)
        assert mapping is not None
        assert sum("not the official frequencies" in note for note in mapping.notes) == said


ASKED: dict[str, tuple[Tensors, str]] = {
    "a normaliser": (
        {"normalize_inputs.mean": np.zeros(5), "normalize_inputs.std": np.ones(5)},
        r'statistics .* normalised.*\{"ignore": \["normalize_inputs\.\*"\]\}',
    ),
    "of LeRobot": ({"unnormalize_outputs.buffer_action.max": np.ones(3)}, "normalised"),
    "in the policy": ({"PolicyNet.obs_rms.var": np.ones(5)}, r"PolicyNet\.obs_rms"),
    "a BatchNorm's": ({"PolicyNet.bn.running_var": np.ones(11)}, "BatchNorm"),
    "another bound": ({"action_high": 2 * np.ones(3)}, r'other than to ±1.*\["action_high"\]'),
    "another scale": ({"PolicyNet.action_scale": np.full(3, 0.5)}, "other than to ±1"),
    "averages without names": ({"ema.shadow_params.0": HIDDEN}, r"copy_to.*\[\"ema\.\*\"\]"),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_changes_the_networks_is_asked_about(what: str, tmp_path: Path) -> None:
    """And the remedy that the message prints, typed as it stands, works."""
    more, message = ASKED[what]
    path = put(tmp_path / "a.npz", {**WEIGHTS, **more})
    with pytest.raises(InputError, match=message) as caught:
        qgf_ref.load(path, **OPTIONS)
    remedy = str(caught.value).partition("R.json): ")[2].partition("]}")[0] + "]}"
    same(qgf_ref.load(path, rules=json.loads(remedy), **OPTIONS), OURS)


# --- names -------------------------------------------------------------------------------------


def renamed(change: Callable[[str], str]) -> Tensors:
    return {change(name): array for name, array in WEIGHTS.items()}


def heads(**words: str) -> Callable[[str], str]:
    """Other words for PolicyNet, critic, target.critic and ValueFunction, in this order."""
    ours = {"policy": "PolicyNet", "target": "target.critic", "value": "ValueFunction"}

    def change(name: str) -> str:
        for network, head in {**ours, "critic": "critic"}.items():
            if name.startswith(f"{head}."):
                return f"{words[network]}{name.removeprefix(head)}"
        raise AssertionError(name)

    return change


def stacked() -> Tensors:
    """tensordict's names of a vmapped ensemble."""
    tensors = tensors_of(OURS, members_first, transposed=True, apart=False)
    heads_ = ("critic.", "target.critic.")
    return {
        f"{h}ens_p_{name.removeprefix(h).replace('.', '__')}" if h else name: array
        for name, array in tensors.items()
        for h in (next((h for h in heads_ if name.startswith(h)), ""),)
    }


AC = {"policy": "actor", "critic": "critic", "target": "critic_target", "value": "value"}
NAMES: dict[str, Tensors] = {
    "state dicts": renamed(heads(**{k: f"{w}_state_dict" for k, w in AC.items()})),
    "owned by a policy": renamed(heads(**{k: f"state.policy.{w}" for k, w in AC.items()})),
    "owned by a critic": renamed(
        heads(policy="pi", critic="critic.q", target="critic.target_q", value="critic.v")
    ),
    "parameters and target parameters": renamed(
        heads(policy="actor.params", critic="qf.params", target="qf.target_params", value="vf")
    ),
    "torchrl": renamed(
        heads(policy="actor_network_params", critic="qvalue_network_params",
              target="target_qvalue_network_params", value="value_network_params")
    ),
    "FSDP, compiled": renamed(
        lambda n: n.replace(".layers.0", "._orig_mod.layers.0._checkpoint_wrapped_module")
    ),
    "variables of NNX": renamed(lambda n: f"{n}.value"),
    "variables of TensorFlow": renamed(lambda n: f"{n.replace('.', '/')}:0"),
    "an ensemble of tensordict": stacked(),
}  # fmt: skip


@pytest.mark.parametrize("what", NAMES)
def test_names_that_say_what_they_are(what: str, tmp_path: Path) -> None:
    same(qgf_ref.load(put(tmp_path / "a.npz", NAMES[what]), **OPTIONS), OURS)


def test_an_official_critic_may_call_its_network_a_value(tmp_path: Path) -> None:
    tree: Any = official_tree(OURS)["agent"]
    tree = {"agent": {"network": {"params": {f"modules_{n}": tree[n]["params"] for n in NETWORKS}}}}
    (tmp_path / "params_1.pkl").write_bytes(pickle.dumps(tree))
    same(qgf_ref.load(tmp_path / "params_1.pkl", **OPTIONS), OURS)


def nameless() -> Tensors:
    """CleanRL's: state dicts in a tuple."""
    order = {"policy": "0", "critic": "1", "target": "2", "value": "3"}
    return renamed(heads(**order))


REFINED: dict[str, tuple[Tensors, dict[str, Any]]] = {
    "a copy passed over": (
        {**{f"model.{k}": 0 * a for k, a in WEIGHTS.items()},
         **{f"ema_model.{k}": a for k, a in WEIGHTS.items()}},
        {"ignore": ["model.*"]},
    ),
    "a copy taken": (
        {**{f"model.{k}": 0 * a for k, a in WEIGHTS.items()},
         **{f"ema_model.{k}": a for k, a in WEIGHTS.items()}, "x": HIDDEN},
        {"take": ["ema_model.*"]},
    ),
    "an unknown tensor": ({**WEIGHTS, "encoder.weight": HIDDEN}, {"ignore": ["encoder.*"]}),
    "no words": (
        nameless(),
        {"rename": {"0": "policy", "1": "critic", "2": "target_critic", "3": "value"}},
    ),
    "no rules": ({**WEIGHTS, "encoder.weight": HIDDEN}, {"rules": [], "ignore": ["encoder.*"]}),
}  # fmt: skip


@pytest.mark.parametrize("what", REFINED)
def test_rules_refine_the_automatic_mapping(what: str, tmp_path: Path) -> None:
    tensors, rules = REFINED[what]
    path = put(tmp_path / "a.npz", tensors)
    with pytest.raises(InputError, match=r"R\.json|rule file"):
        qgf_ref.load(path, **OPTIONS)
    (tmp_path / "r.json").write_text(json.dumps(rules))
    loaded, mapping = load_as_stored(path, OPTIONS, tmp_path / "r.json")
    same(loaded, OURS)
    assert mapping is not None
    assert {e.source for e in mapping.entries} | set(mapping.ignored) == set(tensors)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"ignore": ["x*"]}, r"match nothing: x\*; its names are such as PolicyNet"),
        ({"rename": {"y": "policy"}}, "match nothing: y"),
        ({"take": [3]}, "must be lists of names"),
        ({"rename": ["a"]}, "an object 'rename'"),
        ({"gaps": True}, "'gaps' can be \"as ours\", got true"),
        ({"rename": {"critic.0": "a", "critic.1": "a"}}, "are renamed alike"),
        ({"rules": [{"from": "a", "to": "policy.layers.0.bias"}], "take": ["b"]}, "refine"),
    ],
)
def test_refinements_that_say_nothing_usable(rules: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        qgf_ref.load(put(tmp_path / "a.npz", WEIGHTS), rules=rules, **OPTIONS)


def test_a_second_copy_names_the_way_to_take_either(tmp_path: Path) -> None:
    tensors = {f"{m}.{k}": a for m in ("model", "ema_model") for k, a in WEIGHTS.items()}
    path = put(tmp_path / "a.npz", tensors)
    with pytest.raises(InputError, match="2 candidates for the policy") as caught:
        qgf_ref.load(path, **OPTIONS)
    for name in ("model", "ema_model"):
        assert f'{{"ignore": ["{name}.*"]}}' in str(caught.value)
        same(qgf_ref.load(path, rules={"ignore": [f"{name}.*"]}, **OPTIONS), OURS)


def test_a_network_of_another_name_can_be_named(tmp_path: Path) -> None:
    tensors = {k.replace("target.critic", "critic_ema"): a for k, a in WEIGHTS.items()}
    path = put(tmp_path / "a.npz", tensors)
    with pytest.raises(InputError, match="no parameter of ours fits critic_ema") as caught:
        qgf_ref.load(path, **OPTIONS)
    rules = str(caught.value).partition("name it: ")[2].partition("}}")[0] + "}}"
    same(qgf_ref.load(path, rules=json.loads(rules), **OPTIONS), OURS)


# --- pickles -----------------------------------------------------------------------------------


def test_pickles_of_jax_and_numpy(tmp_path: Path) -> None:
    """Keys of several parts, integers as keys, generators, NumPy's scalars and text."""
    flat = {tuple(k.split(".")): a.astype(np.float32) for k, a in WEIGHTS.items()}
    extra = {
        "rng": np.random.default_rng(0), "old": np.random.RandomState(0),
        "python": random.getstate(),
        "best": np.float64(0.7), "name": np.str_("run"), 0: {1: np.arange(3)}, "set": {1, 2},
        "frozen": frozenset({3}), None: 1, 2.5: 3,
    }  # fmt: skip
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"params": flat, **extra}, protocol))
        loaded = qgf_ref.load(tmp_path / "a.pkl", **OPTIONS)
        same(loaded, OURS.astype("float32").astype("float64"))


def test_what_executes_is_refused_still(tmp_path: Path) -> None:
    for value in (print, Path("x"), json.JSONEncoder()):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"params": WEIGHTS, "x": value}))
        with pytest.raises(InputError, match="is refused: it contains the name"):
            qgf_ref.load(tmp_path / "a.pkl", **OPTIONS)


def test_bfloat16_as_numpy_writes_it(tmp_path: Path) -> None:
    """Two raw bytes each: NumPy's npz has no name for the type."""
    bits = {k: (a.astype("<f4").view("<u4") >> 16).astype("<u2") for k, a in WEIGHTS.items()}
    path = put(tmp_path / "a.npz", {k: a.view("V2") for k, a in bits.items()})
    loaded, mapping = load_as_stored(path, OPTIONS)
    assert loaded.dtype == "float32"
    assert mapping is not None
    assert "82 bfloat16 tensors became float32, exactly" in mapping.notes
    kernel = (bits["PolicyNet.layers.0.weight"].astype("<u4") << 16).view("<f4").T
    np.testing.assert_array_equal(loaded.policy.layers[0].kernel, kernel)


def test_objects_in_an_npz_are_passed_over_unread(tmp_path: Path) -> None:
    more: Tensors = {
        "config": np.array({"lr": 1}),
        "when": np.array(0, "M8[s]"),
        "note": np.array(["a"]),
    }
    same(qgf_ref.load(put(tmp_path / "a.npz", {**WEIGHTS, **more}), **OPTIONS), OURS)
    with pytest.raises(InputError, match=r"config has dtype object.*flatten_dict"):
        qgf_ref.load(put(tmp_path / "a.npz", {"config": more["config"]}), **OPTIONS)


def test_integers_as_keys_of_a_msgpack(tmp_path: Path) -> None:
    whole = msgpack_bytes({"a": {"b": np.ones(2)}})
    (tmp_path / "a.msgpack").write_bytes(whole.replace(b"\xdb\0\0\0\1b", b"\7"))
    with pytest.raises(InputError, match=r"names begin with a"):
        qgf_ref.load(tmp_path / "a.msgpack", **OPTIONS)
