"""What a spec says, and what it cannot say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import Method, parse_method
from qgf_ref.sweeps.spec import spec_from_json
from qgf_ref.sweeps.spec_file import read_spec, spec_of
from tests.data.synthetic import DATASET, GOALS, TASK
from tests.sweeps.conftest import tiny, toml


def test_a_file_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(toml(tiny()))
    spec = read_spec(path)
    assert spec == spec_of(tiny())
    iql, edp = spec.entries
    assert (iql.methods, iql.extra) == (("bc", "qgf", "cfgrl"), ("cfgrl",))
    assert edp.values == ("bc_weight=1", "bc_weight=10")
    assert edp.methods == ("bc",)
    config = spec.config(edp, TASK, 1, "bc_weight=10", "somewhere")
    assert (config.agent, config.agent_settings) == ("edp", {"bc_weight": 10.0})
    assert (config.seed, config.updates, config.hidden) == (1, 24, (6, 5))
    assert spec.settings(iql).weights == (0.1, 1.0)


def test_it_survives_json() -> None:
    """As it goes to workers and into sweep.json."""
    content = tiny(cluster={"queue": "long"}, collect={"pointmaze-medium-navigate-v0": 3})
    spec = spec_of(content)
    again = spec_from_json(json.loads(json.dumps(spec.identity())))
    assert again == spec
    assert again.cluster == {}, "decides no result"
    with pytest.raises(InputError, match="no sweep's spec"):
        spec_from_json({"tasks": []})


def test_labels() -> None:
    agents = {
        "iql": {}, "edp": {}, "low": {"agent": "iql", "train": {"expectile": 0.7}},
        "dqc": {"train": {"goal_dim": 2, "policy_chunk_size": 20}},
    }  # fmt: skip
    single = {k: v for k, v in agents.items() if k != "dqc"}
    iql, edp, low = spec_of(tiny(agents=single)).entries
    (dqc,) = spec_of(tiny(agents={"dqc": agents["dqc"]}, tasks=[GOALS])).entries
    qgf, best = parse_method("qgf"), parse_method("bfn-4")
    assert [iql.label(m) for m in (Method(), qgf, best)] == ["bc", "qgf", "bfn-4"]
    assert [edp.label(m) for m in (Method(), best)] == ["edp", "edp bfn-4"]
    assert [low.label(m) for m in (Method(), qgf)] == ["low", "low qgf"]
    assert dqc.label(qgf) == "qgf"


def test_presets_and_the_agents_own_settings() -> None:
    cube = "cube-triple-play-singletask-task1-v0"
    content = tiny(tasks=[cube], train={"preset": "paper"}, agents={"fql": {}})
    spec = spec_of(content)
    config = spec.config(spec.entries[0], cube, 0)
    assert config.agent_settings["alpha"] == 1000.0
    assert (config.batch, config.q_aggregation) == (1024, "mean")


def test_an_agents_own_settings_come_first() -> None:
    agents = {
        "edp": {"train": {"updates": 9, "bc_weight": 3.0}, "weights": [0.5], "methods": ["qgf"]},
        "iql": {},
    }  # fmt: skip
    spec = spec_of(tiny(agents=agents))
    own, other = (spec.config(entry, TASK, 0) for entry in spec.entries)
    assert (own.updates, own.agent_settings["bc_weight"], own.batch) == (9, 3.0, 7)
    assert other.updates == 24
    assert [spec.settings(entry).weights for entry in spec.entries] == [(0.5,), (0.1, 1.0)]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tasks": []}, 'a sweep needs tasks, e.g. tasks = ["cube'),
    ({"seeds": []}, "a sweep needs training seeds"),
    ({"agents": {}}, "a sweep needs a table for each agent"),
    ({"tasks": [TASK, TASK]}, f"{TASK} is given twice"),
    (
        {"tasks": [TASK, TASK.replace("-task1", "")]},
        "singletask-v0 is OGBench's default among its numbered tasks",
    ),
    ({"seeds": [0, 0]}, "0 is given twice"),
    ({"seeds": [-1]}, "seeds must be a whole number ≥ 0, got -1"),
    ({"seeds": 3}, "seeds must be a list of whole numbers ≥ 0, got 3"),
    ({"seeds": [True]}, "seeds must be a list of whole numbers"),
    ({"task": [TASK]}, "unknown key 'task'; the valid ones are: tasks,"),
    ({"tasks": ["cube-singel"]}, "agents.iql: unknown task 'cube-singel'"),
    ({"train": {"update": 3}}, "unknown setting of train 'update'; the valid ones are: updates"),
    ({"train": {"seed": 3}}, "train.seed: the sweep itself decides the seed of a run"),
    ({"train": {"updates": "many"}}, "updates must be of type int, got 'many'"),
    ({"train": {"preset": "large"}}, "unknown preset 'large'; the valid ones are: paper, small"),
    ({"train": {"alpha": 3.0}}, "alpha is a setting of fql"),
    ({"train": 3}, "train must be a table, got 3"),
    ({"evaluate": {"episode": 3}}, "unknown setting of evaluate 'episode'"),
    ({"evaluate": {"weights": "all"}}, "evaluate.weights must be a list, got 'all'"),
    ({"evaluate": {"episodes": 0}}, "agents.iql: episodes must be ≥ 1, got 0"),
    ({"extra": {"update": 3}}, "unknown setting of extra 'update'"),
    ({"collect": {"scene": 3}}, "'scene' names no OGBench data set"),
    ({"collect": {"scene-play-v0": "all"}}, "collect.scene-play-v0 must be a whole number"),
    ({"collect": {"scene-play-v0": 3}}, "no task uses the data set scene-play-v0; they use"),
    ({"evaluate": {"episodes": 1.5}}, "evaluate.episodes must be a whole number, got 1.5"),
    ({"evaluate": {"envs": "2"}}, "evaluate.envs must be a whole number, got '2'"),
    ({"evaluate": {"seed": True}}, "evaluate.seed must be a whole number, got True"),
    ({"extra": {"updates": "x"}}, "extra.updates must be a whole number, got 'x'"),
    ({"extra": {"hidden": ["y"]}}, "extra.hidden must be a list of whole numbers"),
    ({"baseline": "qfg"}, "unknown baseline 'qfg'; the valid ones are: qgf,"),
    ({"agents": {"..": {}}}, "agents...: a name is letters"),
    ({"agents": {"iql": {"methods": ["cfgrl"]}}}, 'cfgrl needs the network cfgrl: add extra = ["'),
    ({"agents": {"edp": {"try": {"tau": []}}}}, "agents.edp.try: tau has no values"),
    ({"agents": {"edp": {"try_seeds": [0]}}}, "try_seeds and try_by go with try"),
    ({"agents": {"edp": {"try": {"tau": [0.1]}, "try_by": "qgf"}}}, "qgf is none of its methods"),
    (
        {
            "agents": {
                "iql": {"try": {"tau": [0.1]}, "methods": ["bc", "cfgrl"], "extra": ["cfgrl"]}
            }
        },
        "cfgrl cannot choose among tried values",
    ),
    ({"agents": {"a/b": {}}}, "agents.a/b: a name is letters"),
    ({"agents": {"iql": {}, "qam": {"policy": 3}}}, "qam.policy must be the name of another entry"),
    (
        {"agents": {"iql": {}, "qam": {"policy": "iqk"}}},
        "qam: unknown policy 'iqk'; the valid",
    ),
    ({"agents": {"qam": {"policy": "iql"}, "iql": {}}}, "iql must be an agent above qam"),
    ({"agents": {"dac": {}, "qam": {"policy": "dac"}}}, "the agent dac of dac has no flow"),
    (
        {"agents": {"edp": {"try": {"tau": [0.1, 0.2]}}, "qam": {"policy": "edp"}}},
        "policy: edp has tried values of its own",
    ),
    (
        {
            "agents": {
                "iql": {},
                "low": {"agent": "iql", "policy": "iql", "extra": ["cfgrl"]},
            }
        },
        "extra: cfgrl would be trained beside one run",
    ),
    ({"agents": {"mine": {}}}, "agents.mine: unknown agent 'mine'"),
    ({"agents": {"mine": {"agent": 3}}}, "agents.mine: agent must be a name, got 3"),
    ({"agents": {"iql": {"method": []}}}, "unknown key of agents.iql 'method'"),
    ({"agents": {"iql": {"methods": "bc"}}}, "agents.iql.methods must be a list of names"),
    ({"agents": {"iql": {"methods": ["qfg"]}}}, "agents.iql: unknown method 'qfg'"),
    ({"agents": {"iql": {"extra": ["edp"]}}}, "edp is no network that is trained beside"),
    ({"agents": {"edp": {"extra": ["cfgrl"]}}}, "cfgrl is no network that is trained beside"),
    ({"agents": {"cfgrl": {}}}, "agents.cfgrl: cfgrl is trained beside runs of iql: name it in"),
    ({"agents": {"edp": {"try": {"alpha": [1.0]}}}}, "alpha is a setting of fql"),
    ({"agents": {"edp": {"try": {"tau": [0.1], "discount": [0.9]}}}}, "try takes one setting"),
    ({"agents": {"edp": {"try": {"tau": [0.1, 0.1]}}}}, "a value is given twice"),
    ({"agents": {"edp": {"try": {"tau": [0.1]}, "try_seeds": [7]}}}, "7 is none of the sweep's"),
    ({"agents": {"edp": {"acting": {"alpha": 1.0}}}}, "alpha is a setting of fql"),
    ({"agents": {"edp": {"try": {"hidden": [[8], [9]]}}}}, "try: values are numbers, truth values"),
    ({"agents": {"edp": {"try": {"activation": ["../x"]}}}}, "got '../x'"),
    (
        {"agents": {"iql": {}, "bc": {"agent": "iql", "methods": ["bc"]}}},
        "agents.iql and agents.bc would both be called bc in tables: give one another name",
    ),
    ({"agents": {"edp": 3}}, "agents.edp must be a table, got 3"),
    ({"collect": {DATASET: 0}}, f"collect.{DATASET}: need at least 1, got 0 training episodes"),
    (
        {
            "tasks": ["antmaze-large-navigate-singletask-v0"],
            "collect": {"antmaze-large-navigate-v0": 3},
        },
        "cannot collect 'antmaze-large-navigate-v0'",
    ),
    ({"extra": {"updates": -1}}, "extra: updates must be at least 0, got -1"),
    ({"extra": {"hidden": []}}, "extra: hidden must be one or more widths"),
    ({"extra": {"learning_rate": float("nan")}}, "extra: learning_rate must be finite"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda v: str(v)[:60])
def test_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        spec_of(tiny(**changes))


def test_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    with pytest.raises(InputError, match=r"cannot read .*s\.toml: No such file"):
        read_spec(path)
    path.write_text("tasks = [")
    with pytest.raises(InputError, match=r"s\.toml: no TOML: "):
        read_spec(path)
    path.write_bytes(b"\xff\xfe\x80")  # half a letter of UTF-16
    with pytest.raises(InputError, match=r"cannot read .*s\.toml"):
        read_spec(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_spec_of_any_editor(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(toml(tiny()).replace("\n", "\r\n").encode(encoding))
    assert read_spec(path) == spec_of(tiny())
