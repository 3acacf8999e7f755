"""The audit: passes on right code, fails on planted errors, writes what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref import (
    InputError,
    denoising_step,
    estimator,
    sample,
    trace,
)
from qgf_ref.agents.agent import Agent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.registry import AGENTS
from qgf_ref.arrays import Array
from qgf_ref.audit import report as reports
from qgf_ref.audit.definitions import departure_from_gradient_field, jacobian
from qgf_ref.audit.derivatives import checks_of
from qgf_ref.audit.page import figures, write_report
from qgf_ref.audit.rules import AuditedStates, flow_of, title
from qgf_ref.audit.run import audit
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.tables import text_table
from tests.conftest import small_checkpoint, states
from tests.helpers.some import some

ESTIMATORS = [estimator(name) for name in ("none", "ood", "qgf", "qgf_jacobian", "bptt")]


@pytest.fixture(scope="module")
def passed() -> reports.AuditReport:
    ck = small_checkpoint()
    return audit(ck, states(ck, 6)[0], ESTIMATORS, show_progress=False)


def test_a_right_checkpoint_passes(passed: reports.AuditReport) -> None:
    assert passed.passed, [str(c) for c in passed.failed]
    names = " ".join(c.name for c in passed.checks)
    for part in (
        "linear jvp", "layer_norm vjp", "time_embedding", "clip", "concat", "ensemble_reduce min",
        "activation mish", "velocity in the parameters", "critic in the parameters",
        "value in the observation", "rollout adjoint", "flow matching loss", "critic loss",
        "value loss", "estimator qgf (definition)", "estimator bptt (potential)",
        "layer_norm two_pass vjp jvp", "activation gelu vjp jvp",
        "target critic vjp in the action jvp", "target critic gradient adjoint",
    ):  # fmt: skip
        assert part in names
    profile = passed.profile
    assert (profile.departure["qgf"] or 0) > 0.01
    assert (profile.departure["bptt"] or 0) < 1e-10
    assert profile.cosine["qgf"]["qgf"] == pytest.approx(1)
    assert profile.products["qgf_jacobian"] == "v vjp + Q + Q vjp"
    assert len(profile.singular) == len(profile.times) == 6
    assert all(len(q) == len(profile.weights) for q in profile.q.values())
    for rows in passed.precision.values():
        assert max(rows["a, exact embedding"]) < 1e-4


@pytest.mark.parametrize(
    "options",
    some(
        [
            {"aggregation": "mean", "activation": "relu", "members": 4},
            {"members": 1, "activation": "mish", "hidden": (7,)},
            {"action_dim": 1, "obs_dim": 2, "steps": 1},
        ],
        1,
    ),
    ids=str,
)
def test_all_estimators_pass_on_every_kind_of_network(options: dict[str, Any]) -> None:
    estimators = [estimator(name) for name in learned_estimator_names()]
    ck = small_checkpoint(**options)
    report = audit(ck, states(ck, 4)[0], estimators, show_progress=False)
    assert report.passed, [str(c) for c in report.failed]


def test_the_report_is_written_and_self_contained(
    passed: reports.AuditReport, tmp_path: Path, draws: None
) -> None:
    page = write_report(passed, tmp_path)
    html = page.read_text()
    assert "all passed" in html
    assert html.count("data:image/png;base64,") == 7
    assert not re.search(r'(src|href)="(?!data:)', html)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["passed"] is True
    assert found["settings"]["seed"] == 0
    assert found["versions"]["numpy"] == np.__version__
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".json", ".html"}
    table = text_table(*reports.estimator_rows(passed))
    assert max(map(len, table.splitlines())) <= 100


def test_the_same_seed_gives_the_same_numbers(passed: reports.AuditReport) -> None:
    ck = small_checkpoint()
    again = audit(ck, states(ck, 6)[0], ESTIMATORS, show_progress=False)
    assert again.checks == passed.checks
    assert again.profile.q == passed.profile.q
    assert again.precision == passed.precision


def test_bad_observations() -> None:
    ck = small_checkpoint()
    with pytest.raises(InputError, match=r"obs must have shape \(rows, 5\), got \(3, 4\)"):
        audit(ck, np.zeros((3, 4)), ESTIMATORS, show_progress=False)
    with pytest.raises(InputError, match="at least 2"):
        audit(ck, np.zeros((1, 5)), ESTIMATORS, show_progress=False)
    with pytest.raises(InputError, match="obs must be finite"):
        audit(ck, np.full((3, 5), np.nan), ESTIMATORS, show_progress=False)


def test_the_profile_is_what_it_says() -> None:
    """Every number again, from the definitions, on a small case."""
    ck, names, seed, rows = small_checkpoint(), ("ood", "qgf"), 3, 5
    flow, obs = ck.flow, states(ck, rows)[0]
    report = audit(
        ck, obs, [estimator(n) for n in names], weight=0.4, seed=seed, show_progress=False
    )
    p = report.profile
    rng = np.random.default_rng((seed, 1))
    noise = rng.standard_normal((rows, 3))
    epsilon = rng.standard_normal((6, rows, 3))
    chain = trace(flow, obs, estimator="none", noise=noise)
    t = np.arange(6)[:, None, None] / 6
    outside = abs(chain.a + (1 - t) * chain.v) > 1
    np.testing.assert_allclose(p.clipped, outside.mean(axis=(1, 2)))

    def unit(x: Array) -> Array:
        return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))

    g = {
        n: np.stack([estimator(n)(flow, denoising_step(flow, obs, a, k)).gradient
                     for k, a in enumerate(chain.a)])
        for n in names
    }  # fmt: skip
    for n in names:
        np.testing.assert_allclose(p.norm[n], np.median(np.linalg.norm(g[n], axis=2), axis=1))
        for i, sigma in enumerate(p.noise_levels):
            moved = np.stack(
                [estimator(n)(flow, denoising_step(flow, obs, a + sigma * e, k)).gradient
                 for k, (a, e) in enumerate(zip(chain.a, epsilon, strict=True))]
            )  # fmt: skip
            expected = (unit(g[n]) * unit(moved)).sum(-1).mean()
            assert p.noise_cosine[n][i] == pytest.approx(expected, rel=1e-9)
        for i, w in enumerate(p.weights):
            a = sample(flow, obs, estimator=n, weight=w, noise=noise)
            q = flow.critic.forward(obs, a)[0].min(axis=0)
            np.testing.assert_allclose(p.q[n][i], (q.mean(), q.std(ddof=1) / np.sqrt(rows)))
    assert p.q["qgf"][0] == p.q["ood"][0]
    assert p.q["qgf"][-1] != p.q["ood"][-1]
    expected = (unit(g["ood"]) * unit(g["qgf"])).sum(-1).mean()
    assert p.cosine["ood"]["qgf"] == pytest.approx(expected, rel=1e-9)
    for k in range(6):

        def unclipped(x: Array, k: int = k) -> Array:
            return x + (1 - k / 6) * flow.field.forward(obs, x, k / 6)[0]

        J = jacobian(unclipped, chain.a[k])
        values = np.median(np.linalg.svd(J, compute_uv=False), axis=0)
        np.testing.assert_allclose(p.singular[k], values, rtol=1e-10)
    middle = denoising_step(flow, obs, chain.a[3], 3)
    for n in names:
        curl = np.median(departure_from_gradient_field(estimator(n), flow, middle))
        assert p.departure[n] == pytest.approx(curl, rel=1e-9, abs=1e-14)
    unguided = flow.critic.forward(obs, chain.action)[0].min(axis=0)
    for n in names:
        strength = report.strength[n]
        each = np.linalg.norm(0.4 * g[n], axis=2) / np.linalg.norm(chain.v, axis=2)
        np.testing.assert_allclose(strength.ratio, np.median(each, axis=1))
        a = sample(flow, obs, estimator=n, weight=0.4, noise=noise)
        gain = flow.critic.forward(obs, a)[0].min(axis=0) - unguided
        np.testing.assert_allclose(strength.gain, (gain.mean(), gain.std(ddof=1) / np.sqrt(rows)))
        # the control's chain by hand: unit vectors of its own, as long as G on the unguided chain
        a = noise
        for k in range(6):
            xi = unit(np.random.default_rng((seed, k)).standard_normal((rows, 3)))
            pushed = 0.4 * np.linalg.norm(g[n][k], axis=1, keepdims=True) * xi
            a = a + (flow.field.forward(obs, a, k / 6)[0] + pushed) / 6
        other = flow.critic.forward(obs, np.clip(a, -1, 1))[0].min(axis=0) - unguided
        np.testing.assert_allclose(strength.control.mean, other.mean(), atol=1e-12)
        np.testing.assert_allclose(strength.lead.mean, (gain - other).mean(), atol=1e-12)


def test_precision_compares_float32_with_float64() -> None:
    ck, seed = small_checkpoint(), 0
    obs = states(ck, 5)[0]
    report = audit(ck, obs, [estimator("qgf")], weight=0.4, seed=seed, show_progress=False)
    noise = np.random.default_rng((seed, 2)).standard_normal((5, 3)).astype(np.float32)
    single = ck.astype(np.float32)
    for embedding in ("exact", "float32"):
        flow = single.guided_flow(embedding=embedding)
        mine = trace(flow, obs, weight=0.4, noise=noise)
        true = trace(single.astype(np.float64).flow, obs, weight=0.4, noise=noise)
        for name in ("a", "v", "g"):
            x, y = getattr(mine, name), getattr(true, name)
            assert x.dtype == np.float32
            expected = [np.linalg.norm(x[k] - y[k]) / np.linalg.norm(y[k]) for k in range(6)]
            found = report.precision["qgf"][f"{name}, {embedding} embedding"]
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert max(found) > 1e-8


def test_a_checkpoint_whose_members_tie_passes() -> None:
    """The derivative of a tie is a convention that no oracle can see."""
    ck = small_checkpoint()
    tied = ck.target_critic.map(lambda a: np.repeat(a[:1], 2, axis=0))
    report = audit(
        ck.with_params(target_critic=tied),
        states(ck, 4)[0],
        [estimator("ood")],
        show_progress=False,
    )
    assert {c.name for c in report.failed} <= {"estimator ood (definition)"}


def test_checks_names_oracles_tolerances_and_verdicts_are_those_of_4b0d202() -> None:
    """All of them, for every estimator on learned networks, as that commit printed them."""
    ck = small_checkpoint()
    point = AuditedStates.of(ck, states(ck, 4)[0], np.random.default_rng((0, 0)))
    everything = [estimator(name) for name in learned_estimator_names()]
    lines = [
        f"{c.name} | {c.oracle} | {c.tolerance:g} | {'ok' if c.passed else 'WRONG'}"
        for job in checks_of(point, everything).values()
        for c in job()
    ]
    stored = Path(__file__).with_name("checks_of_4b0d202.txt").read_text().splitlines()
    assert [line for line in lines if "lcb=" not in line] == stored  # an aggregation added since


def test_backends_give_the_same_report(passed: reports.AuditReport) -> None:
    """But for the last digits; checks and times are the reference's on both."""
    ck = small_checkpoint()
    other = audit(ck, states(ck, 6)[0], ESTIMATORS, show_progress=False, backend="numpy")
    assert other.checks == passed.checks
    assert other.settings["backend"] == "numpy"
    mine, theirs = passed.profile, other.profile
    assert mine.products == theirs.products
    assert mine.norm == theirs.norm
    for label, q in theirs.q.items():
        np.testing.assert_allclose(mine.q[label], q, rtol=1e-10)
        np.testing.assert_allclose(
            np.array(mine.noise_cosine[label], float),
            np.array(theirs.noise_cosine[label], float),
            rtol=1e-10,
        )
    np.testing.assert_allclose(mine.singular, theirs.singular, rtol=1e-10)


ALONE = [a for a in AGENTS.values() if any(part.outputs == "action" for part in a.parts)]
"""Agents whose networks tell the width of actions."""


@pytest.mark.parametrize("agent", ALONE, ids=lambda agent: agent.name)
def test_every_agent_can_be_audited(agent: Agent) -> None:
    ck, rng = small_checkpoint(), np.random.default_rng(0)
    drawn = agent.initial(rng, 5, 3, (7, 6), 2)
    params = {n: p.map(lambda a: a + rng.normal(0, 0.1, a.shape)) for n, p in drawn.items()}
    alone = Checkpoint(ck.options, params=params, agent=agent)
    flow, obs = flow_of(alone), states(ck, 4)[0]
    report = audit(alone, obs, [estimator("qgf")] if flow else [], show_progress=False)
    assert report.passed, [str(c) for c in report.failed]
    names = {check.name for check in report.checks}
    assert all(f"{title(alone, name)} in the parameters vjp" in names for name in params)
    if agent.recipe is not None and agent.base is None:
        assert sum(" loss gradient" in name for name in names) >= len(agent.recipe.stages)
    if flow is None:
        assert reports.conclusions(report) == [] and set(figures(report)) == {"checks"}
        with pytest.raises(InputError, match="has no flow to guide"):
            audit(alone, obs, [estimator("qgf")], show_progress=False)
