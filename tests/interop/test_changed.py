"""Other settings and options than stored: used, or refused with what they are and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from qgf_ref.interop.native import save_checkpoint
from tests.conftest import small_checkpoint
from tests.helpers.agents import variant

SAID: list[tuple[str, dict[str, Any], str]] = [
    *(
        ("dqc", {name: value}, rf"{name}={text} does not fit the networks of .*made with {name}=")
        for name, value, text in (
            ("policy_chunk_size", 3, "3"), ("policy_network", "dqc", '"dqc"'),
            ("policy_goals", False, "false"), ("use_chunk_critic", False, "false"),
            ("backup_horizon", 7, "7"),
        )
    ),
    # what does not fit is told from what does
    ("dqc", {"kappa_d": 0.1, "backup_horizon": 7}, "^backup_horizon=7 does not .*_horizon=5. Tr"),
    ("dqc n-step", {"use_chunk_critic": True}, "has no chunk_critic.*use_chunk_critic asks for"),
    ("dqc", {"activation": "relu"}, "activation is an option .* give --activation relu, or load"),
    ("dqc", {"denoise_steps": 3}, "is an option .* give --denoise-steps 3, or load"),
    ("fql", {"q_aggregation": "mean"}, r"load\(…, q_aggregation='mean'\)"),
    ("dqc", {"rules": "r.json"}, "rules is no setting of an agent: give --rules r.json"),
    ("dqc", {"target_critic_from": "critic"}, "give --target-critic-from critic"),
    ("fql", {"kappa_d": 0.1}, "fql has settings alpha, .*: kappa_d is a setting of dqc"),
    ("iql", {"alpha": 3}, "the agent iql has no settings: alpha is a setting of fql, dac, qsm"),
    ("fql", {"alhpa": 3}, "unknown setting 'alhpa'; the valid ones are: alpha"),
    ("dqc", {"kappa_d": "x"}, "kappa_d must be of type float"),
]  # fmt: skip


def checkpoint(name: str) -> Any:
    return small_checkpoint() if name == "iql" else variant(name)


@pytest.mark.parametrize(("name", "settings", "says"), SAID)
def test_what_a_setting_is_is_said(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        qgf_ref.load(policy=checkpoint(name), settings=settings)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a=b", r"must map names to values.*got 'a=b'; write settings=\{'a': 'b'\}"),
        (["a=b"], "must map names to values"),
        (3, "must map names to values.*got 3"),
    ],
)
def test_settings_map_names_to_values(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        qgf_ref.load(policy=variant("dqc"), settings=given)


def test_a_setting_among_options_is_told_as_such() -> None:
    with pytest.raises(
        InputError, match=r"unknown option kappa_d; .*is a setting of dqc: settings="
    ):
        qgf_ref.load(kappa_d=0.1)


def test_a_setting_typed_as_a_flag_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--guide-output", "probability"])
    told = "guide_output is a setting of dqc: give --set guide_output=…"
    assert told in capsys.readouterr().err


def test_options_of_a_checkpoint_in_memory_are_used() -> None:
    ck = small_checkpoint()
    assert qgf_ref.load(policy=ck, q_aggregation="mean").options.q_aggregation == "mean"
    assert qgf_ref.load(policy=ck, denoise_steps=3).flow.denoise_steps == 3
    given: list[dict[str, Any]] = [{"rules": "r.json"}, {"target_critic_from": "critic"}]
    for each in given:
        with pytest.raises(InputError, match="are for files: policy is in memory"):
            qgf_ref.load(policy=ck, **each)
    with pytest.raises(InputError, match="unknown activation"):
        qgf_ref.load(policy=ck, activation="gleu")


def test_the_critics_file_tells_the_critics_options(tmp_path: Path) -> None:
    """And what is typed overrides it, or stands in for what it lacks."""
    ours = tmp_path / "ours.safetensors"
    save_checkpoint(small_checkpoint(aggregation="mean", steps=4), ours)
    policy = small_checkpoint(1, steps=6)
    both = qgf_ref.load(policy=policy, critic=ours)
    assert (both.options.q_aggregation, both.options.denoise_steps) == ("mean", 6)
    for critic in (ours, qgf_ref.load(ours)):
        again = qgf_ref.load(policy=policy, critic=critic, q_aggregation="min", discount=0.5)
        assert (again.options.q_aggregation, again.options.discount) == ("min", 0.5)
    foreign = tmp_path / "theirs.npz"
    assert main(["convert", str(ours), str(foreign)]) == 0
    with np.load(foreign) as held:
        arrays = {name: held[name] for name in held.files if held[name].dtype.kind == "f"}
    np.savez(foreign, **arrays)  # without what convert says of its options
    with pytest.raises(InputError, match="does not say"):
        qgf_ref.load(policy=policy, critic=foreign)
    told: dict[str, Any] = {"activation": "gelu", "q_aggregation": "mean", "denoise_steps": 6}
    lent = qgf_ref.load(
        policy=policy, critic=foreign, horizon_length=1, action_chunking=True, **told
    )
    assert lent.options.q_aggregation == "mean"
    # a stored option of the critic's is never overridden by the policy's
    other = tmp_path / "relu.safetensors"
    save_checkpoint(small_checkpoint(activation="relu"), other)
    with pytest.raises(InputError, match="activation"):
        qgf_ref.load(policy=policy, critic=other, activation="gelu")
