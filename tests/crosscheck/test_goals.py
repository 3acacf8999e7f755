"""DQC's flow in the cross-check: what guides, by what, and what it is told of the goal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.dqc import DQCSettings, dqc
from qgf_ref.agents.options import Options
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main
from qgf_ref.crosscheck.compare import compare
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, with_mistakes
from qgf_ref.crosscheck.sampler.mistakes.goals import GOALS
from qgf_ref.crosscheck.sampler.port import reference_port
from qgf_ref.crosscheck.sampler.runs import Inputs, free_running
from qgf_ref.crosscheck.sampler.subject import compared_with
from qgf_ref.files import write_npz
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import recorded_trace
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.testing import CrossCheckError, check_critic, check_gradient, check_sampler
from tests.conftest import SHARED

O, G, ROWS, WEIGHT = 5, 2, 6, 0.8
RNG = np.random.default_rng(0)
OBS, NOISE = RNG.standard_normal((ROWS, O + G)), RNG.standard_normal((ROWS, 4))


def checkpoint(aggregation: str = "mean", **own: Any) -> Checkpoint:
    """Networks whose critics differ, moved from where they begin."""
    settings = DQCSettings(goal_dim=G, backup_horizon=4, policy_chunk_size=2, **own)
    rng = np.random.default_rng(1)
    agent = dqc(settings)

    def moved(params: MLPParams) -> MLPParams:
        return params.map(lambda a: a + 0.2 * rng.standard_normal(a.shape))

    drawn = agent.initial(rng, O + G, 4, (12, 10), 2)
    params = {name: moved(each).astype(np.float64) for name, each in drawn.items()}
    options = Options("gelu", aggregation, 3, 2, True, discount=0.99, expectile=0.9)
    return Checkpoint(options, params=params, agent=agent)


def recorded(made: Made, ck: Checkpoint, best_of: int = 1) -> Any:
    """What a port with a mistake writes down: its trace; of a choice, its actions."""
    drawn = np.random.default_rng(5).standard_normal((ROWS * best_of, 4))
    noise = NOISE if best_of == 1 else drawn
    port = reference_port(compared_with(ck), qgf_ref.estimator("qgf"), "exact", 3)
    run = free_running(with_mistakes(port, (made,)), Inputs(OBS, noise, WEIGHT, best_of))
    return recorded_trace({**run, "obs": OBS, "noise": noise})


def settings_of(name: str) -> dict[str, Any]:
    return {"guide_output": "probability"} if name.endswith(("-logit", "-logits")) else {}


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("guide", ["online", "target"])
def test_a_right_trace_agrees(guide: str, output: str) -> None:
    ck = checkpoint(guide_critic=guide, guide_output=output)
    run = qgf_ref.trace(ck.flow, OBS, estimator="qgf", weight=WEIGHT, noise=NOISE).arrays()
    theirs = recorded_trace({**run, "obs": OBS, "noise": NOISE})
    assert compare(ck, theirs, estimator="qgf", weight=WEIGHT).agrees


@pytest.mark.parametrize("made", [
    pytest.param(Made(m.name, variant), id=f"{m.name} {variant}".strip())
    for m in GOALS if not m.selects for variant in m.variants
])  # fmt: skip
def test_a_mistake_is_named_alone(made: Made) -> None:
    ck = checkpoint(**settings_of(made.name))
    found = compare(ck, recorded(made, ck), estimator="qgf", weight=WEIGHT)
    assert [e.names for e in found.diagnosis.explanations] == [(made.name,)], found.diagnosis


@pytest.mark.parametrize("name", [m.name for m in GOALS if m.selects])
def test_a_wrong_ranking_is_named_alone(name: str) -> None:
    ck = checkpoint(**settings_of(name))
    theirs = recorded(Made(name, ""), ck, best_of=60)
    found = compare(ck, theirs, estimator="qgf", weight=WEIGHT)
    assert [e.names for e in found.diagnosis.explanations] == [(name,)], found.diagnosis


def test_what_guides_otherwise_is_named_from_another_checkpoints_trace() -> None:
    """The other copy, the other output, both: as a port that overlooks the options."""
    for own, names in (
        ({"guide_critic": "target"}, {"critic-target"}),
        ({"guide_output": "probability"}, {"gradient-of-probability"}),
        ({"guide_critic": "target", "guide_output": "probability"},
         {"critic-target", "gradient-of-probability"}),
    ):  # fmt: skip
        flow = checkpoint("min", **own).flow
        run = qgf_ref.trace(flow, OBS, estimator="qgf", weight=WEIGHT, noise=NOISE).arrays()
        theirs = recorded_trace({**run, "obs": OBS, "noise": NOISE})
        found = compare(checkpoint("min"), theirs, estimator="qgf", weight=WEIGHT)
        assert [set(e.names) for e in found.diagnosis.explanations] == [names]


def port(ck: Checkpoint) -> Any:
    def sampler(obs: Array, noise: Array, weight: float) -> Array:
        flow = ck.guided_flow(embedding="float32")
        return qgf_ref.sample(flow, obs, estimator="qgf", weight=weight, noise=noise)

    return sampler


def test_goals_are_fewer_than_an_observations_columns() -> None:
    with pytest.raises(InputError, match="7 columns, so that goals cannot have goal_dim = 9"):
        _ = qgf_ref.load(policy=checkpoint(), settings={"goal_dim": 9}).flow


def test_checks_take_it() -> None:
    ck = checkpoint()
    check_sampler(port(ck), ck)
    with pytest.raises(CrossCheckError, match="critic-target"):
        check_sampler(port(checkpoint(guide_critic="target")), ck)
    critic = ck.flow.critic
    check_critic(lambda obs, action: critic.forward(obs, action)[0], ck)
    with pytest.raises(CrossCheckError, match="goal-first"):
        check_critic(lambda obs, a: critic.forward(np.roll(obs, G, axis=1), a)[0], ck)
    other = checkpoint(guide_critic="target").flow.critic
    with pytest.raises(CrossCheckError, match="critic-target"):
        check_critic(lambda obs, action: other.forward(obs, action)[0], ck)
    wrong = checkpoint(guide_output="probability").flow

    def gradient(obs: Array, action: Array) -> Array:
        q, cache = wrong.critic.forward(obs, action)
        return wrong.critic.vjp(np.full_like(q, 1 / len(q)), cache)

    with pytest.raises(CrossCheckError, match="gradient-of-probability"):
        check_gradient(gradient, ck)


def test_from_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ck, where = checkpoint(), tmp_path / "run"
    where.mkdir()
    save_checkpoint(ck, where)
    run = qgf_ref.trace(ck.flow, OBS, estimator="qgf", weight=WEIGHT, noise=NOISE).arrays()
    write_npz(tmp_path / "theirs.npz", {**run, "obs": OBS, "noise": NOISE})
    words = ["compare", "--checkpoint", str(where), "--trace", str(tmp_path / "theirs.npz"),
             "--estimator", "qgf", "--weight", str(WEIGHT)]  # fmt: skip
    assert main(words) == 0
    assert main([*words, "--set", "guide_output=probability"]) == 1
    assert "gradient-of-logit" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a bare clone lacks")
@pytest.mark.parametrize("case", ["cube", "puzzle"])
def test_official_networks_agree(case: str) -> None:
    from tests.helpers.dqc_golden import Case

    golden = Case(SHARED / "golden" / "gc" / case)
    ck, official = golden.checkpoint(), golden.arrays("official_float32")
    obs = np.concatenate([official["observations"], official["goals"]], axis=1)
    noise = official["bfn/noise"].transpose(1, 0, 2).reshape(-1, ck.flat_action_dim)
    theirs = recorded_trace({"obs": obs, "noise": noise, "action": official["bfn/action"]})
    found = compare(ck, theirs, estimator="none")
    assert found.agrees, found.diagnosis
