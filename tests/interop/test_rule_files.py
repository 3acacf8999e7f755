"""Rule files: any names mapped, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, same
from tests.helpers.foreign_names import (
    OURS,
    WEIGHTS,
    damaged,
    odd,
    put,
    rules_for_odd,
    tensors_of,
)

# --- rule files ----------------------------------------------------------------------------------


def by_rules(tmp_path: Path, content: Any, **more: Array) -> Checkpoint:
    ck = small_checkpoint()
    tensors = tensors_of(ck, odd, transposed=True, apart=True)
    path = put(tmp_path / "a.npz", {**tensors, **more})
    rules = tmp_path / "rules.json"
    rules.write_text(content if isinstance(content, str) else json.dumps(content))
    return qgf_ref.load(path, rules=rules, **OPTIONS)


def test_a_rule_file_maps_any_names(tmp_path: Path) -> None:
    same(by_rules(tmp_path, {"rules": rules_for_odd()}), small_checkpoint())
    content = {"rules": rules_for_odd(), "ignore": ["optim-*-mu", "step"]}
    extra = {"optim-a-b-mu": np.zeros(3), "step": np.zeros(())}
    same(by_rules(tmp_path, content, **extra), small_checkpoint())


def test_a_rule_without_placeholders_names_a_member_by_number(tmp_path: Path) -> None:
    rules = [r for r in rules_for_odd() if r["from"] != "beta{e+1}-{i*3}-weight"]
    rules += [
        {"from": f"beta{e + 1}-{3 * i}-weight", "to": f"critic.layers.{i}.kernel",
         "member": e, "transpose": True}
        for e in range(2)
        for i in range(4)
    ]  # fmt: skip
    same(by_rules(tmp_path, {"rules": rules}), small_checkpoint())


def changed(index: int, **change: Any) -> dict[str, Any]:
    rules = rules_for_odd()
    rules[index] = {k: v for k, v in {**rules[index], **change}.items() if v is not None}
    return {"rules": rules}


BAD_RULES: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ([], "not a JSON object"),
    "no rules": ({"rule": []}, "must hold a list 'rules'"),
    "an unknown key": (changed(0, transposed=True), "a rule has 'from' and 'to'"),
    "no source": (changed(0, **{"from": None}), "a rule has 'from' and 'to'"),
    "a number for a name": (changed(0, to=3), "must be names"),
    "another network": (changed(0, to="actor.layers.{i}.kernel"), "NETWORK of policy, critic"),
    "another part": (changed(1, to="policy.layers.{i}.weight"), "PART of kernel, bias"),
    "transpose 1": (changed(0, transpose=1), "transpose must be true or false"),
    "a transposed bias": (changed(1, transpose=True), "only a kernel can be transposed"),
    "an unknown placeholder": (changed(0, to="policy.layers.{j}.kernel"), "plain placeholders"),
    "arithmetic in 'to'": (changed(0, to="policy.layers.{i+1}.kernel"), "plain placeholders"),
    "a member of no placeholder": (changed(0, member="{e}"), "plain placeholders"),
    "a negative member": (changed(0, member=-1), "member must be a number"),
    "a rule too few": ({"rules": rules_for_odd()[1:]}, "no rule of .* matches alpha-0-weight"),
    "an idle rule": (
        {"rules": [*rules_for_odd(), {"from": "x", "to": "value.layers.0.kernel"}]},
        "match nothing: x → value",
    ),
    "a rule twice": ({"rules": [*rules_for_odd(), rules_for_odd()[0]]}, "matched more than once"),
    "ignored and mapped": (
        {"rules": rules_for_odd(), "ignore": ["alpha*"]},
        "alpha-0-weight is matched more than once .*ignore",
    ),
    "two on one": (changed(1, to="policy.layers.{i}.kernel"), "policy.layers.0.kernel is made of"),
    "no transposition": (changed(0, transpose=False), "takes 11 features"),
    "no member": (changed(4, member=None), "critic.layers.0.kernel is made of members all, all"),
    "many placeholders": (changed(0, **{"from": "{a}{b}{c}{d}{e}"}), "more than 4 placeholders"),
    "a layer that does not exist": (
        changed(0, to="policy.layers.9.kernel"), "made of|lacks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RULES)
def test_bad_rule_files(case: str, tmp_path: Path) -> None:
    content, message = BAD_RULES[case]
    with pytest.raises(InputError, match=message) as caught:
        by_rules(tmp_path, content)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_rule_files_of_any_editor(encoding: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_bytes('{"ignore": [\r\n "größe"]}\r\n'.encode(encoding))
    path = put(tmp_path / "a.npz", damaged(lambda t: t.update({"größe": np.ones(2)})))
    same(qgf_ref.load(path, rules=rules, **OPTIONS), small_checkpoint())


def test_a_missing_rule_file(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", damaged(lambda t: None))
    with pytest.raises(InputError, match="cannot read"):
        qgf_ref.load(path, rules=tmp_path / "none.json", **OPTIONS)


def test_every_command_that_names_a_checkpoint_takes_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {k: a for k, a in WEIGHTS.items() if "target" not in k}
    path = put(tmp_path / "a.npz", {**tensors, "encoder.weight": OURS.policy.layers[0].kernel})
    (tmp_path / "r.json").write_text('{"ignore": ["encoder.*"]}')
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in OPTIONS.items() if k != "action_chunking"]
    flags += ["--action-chunking", f"--rules={tmp_path / 'r.json'}", "--target-critic-from=critic"]
    rng = np.random.default_rng(0)
    inputs = tmp_path / "in.npz"
    np.savez(inputs, obs=rng.standard_normal((2, 5)), noise=rng.standard_normal((2, 3)))
    run = ["trace", "--checkpoint", str(path), "--input", str(inputs), "--weight", "0.1"]
    assert main([*run, "--out", str(tmp_path / "t.npz"), *flags]) == 0
    assert main(["explain", "--checkpoint", str(path), "--obs", "normal", *flags]) == 0
    assert "note: passed over as asked: encoder.weight\n" in capsys.readouterr().err
    capsys.readouterr()
    for command in (
        "audit",
        "bench",
        "compare",
        "convert",
        "evaluate",
        "explain",
        "study",
        "trace",
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        out = capsys.readouterr().out
        assert "--rules" in out and "--target-critic-from" in out, command
