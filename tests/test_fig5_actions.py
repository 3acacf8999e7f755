"""benchmarks/fig5_actions.py on a sweep's directory of small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fig5_actions
from qgf_ref.agents.agent import Acting
from qgf_ref.errors import InputError
from qgf_ref.interop.load import load
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.sampling import sample
from tests.conftest import small_checkpoint
from tests.helpers.agents import variant


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three IQL runs, and FQL's, whose one-step policy is anything."""
    runs = tmp_path / "runs" / fig5_actions.TASK
    for seed in fig5_actions.SEEDS:
        save_checkpoint(small_checkpoint(seed=seed), place(runs / "iql", seed))
        for alpha in ("alpha=1", "alpha=2"):
            save_checkpoint(
                variant("fql", obs_dim=5, action_dim=3), place(runs / "fql" / alpha, seed)
            )
    rows = [
        {"method": name, "success": 0.5, "chosen": "w=0.3"}
        for name in ("bc", "qgf", "qgf_jacobian", "ood", "bptt")
    ]
    rows.append({"method": "fql", "success": 0.25, "chosen": "alpha=2"})
    entries = [
        {"name": "iql", "tried": {}, "try_seeds": []},
        {"name": "fql", "tried": {"alpha": [1.0, 2.0]}, "try_seeds": [0]},
    ]
    (tmp_path / "table.json").write_text(json.dumps({"rows": rows, "spec": {"entries": entries}}))
    results = tmp_path / "results" / fig5_actions.TASK
    results.mkdir(parents=True)
    tried = [{"value": f"alpha={n}", "success": n / 10, "episodes": 10} for n in (1, 2)]
    (results / "fql.json").write_text(json.dumps({"tried": tried}))
    return tmp_path


def place(folder: Path, seed: int) -> Path:
    path = folder / f"seed{seed}" / "model.safetensors"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    states = np.random.default_rng(0).standard_normal((600, 5))
    np.savez(tmp_path / "cube-single-play-v0-val.npz", observations=states)
    return tmp_path


def test_every_row(sweep: Path, data: Path) -> None:
    """Distances and Q of each method, from the networks themselves."""
    subject = fig5_actions.Subject(sweep, data)
    table = json.loads((sweep / "table.json").read_text())
    rows = {row["method"]: row for row in fig5_actions.measured(subject, table)}
    assert list(rows) == [
        "bc", "qgf, w = 0.3", "qgf_jacobian, w = 0.3", "ood, w = 0.3", "bptt, w = 0.3",
        "fql, alpha=1", "fql, alpha=2",
    ]  # fmt: skip
    assert rows["bc"]["far"] == 0
    runs = sweep / "runs" / fig5_actions.TASK / "iql"
    one, other = (load(runs / f"seed{s}" / "model.safetensors", dtype="float32") for s in (0, 1))
    subject.iql, subject.flow = [one, other], subject.flow[:2]
    guided = sample(one.flow, subject.obs, estimator="ood", weight=0.3, noise=subject.noise)
    row = subject.row("ood", "", {0: (one, guided)})
    off = np.sqrt(((guided - subject.flow[0]) ** 2).mean())
    assert row["far"] == pytest.approx(off, rel=1e-6) and off > 0.01
    for which, checkpoint in (("own", one), ("others", other)):
        q = checkpoint.network("target_critic").forward(subject.obs, guided)[0]
        assert row[which] == pytest.approx(q.min(axis=0).mean(), rel=1e-5)
    # FQL's own flow, not the IQL run's, and the success of the choice in brackets
    fql = subject.run("fql/alpha=1", 0)
    acted = fql.agent.act(fql, subject.obs, subject.noise, Acting())
    field, cloned, steps = fql.network("actor_bc_flow"), subject.noise, fql.options.denoise_steps
    for k in range(steps):
        cloned = cloned + field.forward(subject.obs, cloned, k / steps)[0] / steps
    off = np.sqrt(((acted - np.clip(cloned, -1, 1)) ** 2).mean())
    assert rows["fql, alpha=1"]["far"] == pytest.approx(off, rel=1e-5)
    found = [(rows[f"fql, alpha={n}"]["seeds"], rows[f"fql, alpha={n}"]["success"]) for n in (1, 2)]
    assert found == [(1, "(0.1)"), (3, "0.25")]
    assert "| `fql, alpha=1` | 1 |" in fig5_actions.page(list(rows.values()))


def test_a_sweep_without_runs(data: Path) -> None:
    with pytest.raises(InputError, match=r"no run .* give the directory of a sweep that is done"):
        fig5_actions.Subject(data, data)
