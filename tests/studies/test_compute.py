"""Compute against success: T reaches the sampler, costs grow as they must, Pareto as defined."""

from __future__ import annotations

import numpy as np
import pytest

from qgf_ref.bench.counts import Count, Counts
from qgf_ref.denoising import GradientSteps
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.rollouts import Policy
from qgf_ref.evaluation.settings import HELD_OUT
from qgf_ref.sampling import sample
from qgf_ref.studies.compute import study as compute
from qgf_ref.studies.compute.points import COSTS, CostPoint, cheapest_of_the_best, frontier
from qgf_ref.studies.compute.study import ComputeGrid, methods, study
from tests.evaluation.fakes import line_checkpoint
from tests.studies.lines import FORWARD, cell, drawn, line_settings


def point(flops: int | None, ms: float, wins: int) -> CostPoint:
    counts = None if flops is None else Counts(Count(flops, 1), Count(flops, 1))
    played = cell(Method(), None, [i < wins for i in range(40)], split=HELD_OUT)
    spread = {"median": ms, "q25": ms, "q75": ms}
    return CostPoint("family", flops or 0, played, counts, {"numba": spread, "numpy": spread})


def test_frontier_and_cheapest() -> None:
    poor, good, dear, worse = point(1, 5, 4), point(4, 4, 38), point(9, 2, 40), point(5, 3, 37)
    every = [dear, worse, good, poor]
    assert frontier(every, COSTS["FLOPs"]) == [poor, good, dear]
    assert frontier(every, COSTS["ms (numba)"]) == [dear]
    # 38 of 40 is not measurably worse than 40 of 40, 4 is
    assert cheapest_of_the_best(every, COSTS["FLOPs"]) is good
    assert cheapest_of_the_best(every, COSTS["ms (numba)"]) is dear
    assert cheapest_of_the_best([poor, point(2, 1, 36)], COSTS["FLOPs"]) is not poor
    # of unknown cost: on no frontier, but the best all the same
    unknown = point(None, 9, 40)
    assert frontier([unknown, poor], COSTS["FLOPs"]) == [poor]
    assert cheapest_of_the_best([unknown, poor], COSTS["FLOPs"]) is None


def test_the_methods() -> None:
    found = methods((Method("qgf"),), ComputeGrid(), 10)
    assert len(found) == 7 + 10 + 4 + 4
    assert ("GradStep, L steps", 7, Method(gradient_steps=GradientSteps(7, 0.01))) in found
    assert ("qgf, T steps", 5, Method("qgf", denoise_steps=5)) in found
    assert ("qgf, T steps", 10, Method("qgf")) in found
    identities = [m.identity for _, _, m in found]
    assert len(set(identities)) == len(identities)


def test_t_reaches_the_sampler() -> None:
    checkpoint = line_checkpoint()
    rng = np.random.default_rng(3)
    obs, noise = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    actions = {}
    for steps in (None, 2, 5):
        method = Method("qgf", denoise_steps=steps)
        policy = Policy.of(checkpoint, method, 0.1)
        actions[steps], _ = policy.act(obs, noise)
        flow = checkpoint.guided_flow(embedding="float32")
        expected = sample(flow, obs, weight=0.1, noise=noise, denoise_steps=steps)
        np.testing.assert_array_equal(actions[steps], expected)
    assert not np.allclose(actions[2], actions[5])
    assert not np.allclose(actions[2], actions[None])


def test_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ComputeGrid((1, 4), (1, 3), (5, 6), (2, 4), (0.02, 0.08), 1)
    monkeypatch.setattr(compute, "QUICK", sweep)
    found = study(line_settings("qgf", FORWARD))
    rows = list(found.tables[""])
    families = dict.fromkeys(r["family"] for r in rows)
    assert len(families) == 6
    for family in families:
        own = [r for r in rows if r["family"] == family]
        if FORWARD in family:
            assert all(r["flops_nominal"] is None for r in own)
            continue
        for column in ("flops_nominal", "flops_necessary"):
            costs = [r[column] for r in own]
            assert costs == sorted(costs) and len(set(costs)) == len(costs)
        assert all(r["flops_necessary"] < r["flops_nominal"] for r in own)
    for r in rows:
        assert r["episodes"] == 8
        assert 0 < r["ms_numba_q25"] <= r["ms_numba"] <= r["ms_numba_q75"]
        assert (r["weight"] in sweep.weights) == ("qgf" in r["method"] or FORWARD in r["method"])
    splits = {(r["method"], r["split"]) for r in found.tables["episodes"]}
    assert ("bc", "selection") not in splits
    assert ("qgf T=5", "selection") in splits
    assert found.details["trained_steps"] == 6
    assert "trained at the times of T = 6" in found.text
    assert max(map(len, found.text.splitlines())) <= 100
    assert drawn("compute", found) == {""}


def test_a_label_says_what_is_varied() -> None:
    base = point(1, 1, 1)
    climbing = Method(gradient_steps=GradientSteps(7, 0.01))
    for method, number, label in (
        (Method(best_of=4), 4, "bfn-4"),
        (climbing, 7, "gradstep L=7"),
        (Method("qgf", denoise_steps=5), 5, "qgf T=5"),
        (Method("qgf"), 10, "qgf T=10"),
        (Method("qgf", 4), 4, "qgf+bfn-4"),
    ):
        p = CostPoint("", number, cell(method, 0.1, [True]), base.counts, base.ms)
        assert p.label == label
