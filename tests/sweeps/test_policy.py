"""A sweep's entry whose runs give the critic, and another's the flow."""

from __future__ import annotations

from pathlib import Path

from qgf_ref.evaluation.methods import parse_method
from qgf_ref.sweeps.jobs import jobs_of
from qgf_ref.sweeps.place import SweepPlace
from qgf_ref.sweeps.report import begin, opened
from qgf_ref.sweeps.spec_file import spec_of
from qgf_ref.sweeps.sweep import Sweep
from tests.data.synthetic import DATASET, TASK
from tests.sweeps.conftest import tiny


def test_a_flow_from_another_entry() -> None:
    """Its runs are needed for every evaluation, and decide its result."""
    agents = {
        "iql": {},
        "better": {"agent": "qam", "policy": "iql", "try": {"inv_temp": [0.1, 1.0]},
                   "try_seeds": [0]},
    }  # fmt: skip
    spec = spec_of(tiny(agents=agents))
    jobs = {job.name: job for job in jobs_of(spec)}
    flows = [f"train {TASK}/iql/seed{seed}" for seed in (0, 1)]
    assert jobs[f"try {TASK}/better/inv_temp=1"].needs == (
        f"train {TASK}/better/inv_temp=1/seed0", flows[0]
    )  # fmt: skip
    assert set(flows) <= set(jobs[f"evaluate {TASK}/better"].needs)
    assert spec.entry("better").methods == ("qgf",)
    assert spec.entry("better").label(parse_method("qgf")) == "better qgf"
    place, longer = SweepPlace(Path("somewhere")), tiny(agents=agents)
    longer["agents"]["iql"]["train"] = {"expectile": 0.7}
    mine, theirs = (
        Sweep(each, place).identity(TASK, each.entry("better")) for each in (spec, spec_of(longer))
    )
    assert (mine.pop("policy")["entry"], theirs["policy"]["run"]["expectile"]) == ("iql", 0.7)
    del theirs["policy"]
    assert mine == theirs


def test_what_was_written_before_entries_had_a_policy_is_the_same_sweep(tmp_path: Path) -> None:
    spec = spec_of(tiny(collect={DATASET: 1}))
    assert all("policy" not in entry for entry in spec.identity()["entries"])
    sweep = begin(spec, SweepPlace(tmp_path), None)
    assert "policy" not in sweep.identity(TASK, spec.entries[0])
    assert opened(tmp_path).spec == spec
