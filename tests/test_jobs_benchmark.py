"""benchmarks/jobs.py: what it measures of a process, in turns; exponents; its inputs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks import jobs
from benchmarks.jobs import JOBS, Job
from qgf_ref import load
from qgf_ref.errors import InputError
from qgf_ref.interop.trace_file import read_trace

BUSY = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass"


def test_a_process_is_measured_with_its_children(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}], check=True)"
    alone = jobs.run(Job("alone", ("-c", BUSY)), tmp_path, tmp_path)
    nested = jobs.run(Job("nested", ("-c", child)), tmp_path, tmp_path)
    for found in (alone, nested):
        assert found["cpu"] >= 0.3
        assert found["wall"] >= 0.3
        assert found["megabytes"] > 1


def test_memory_is_the_largest_of_its_own(tmp_path: Path) -> None:
    """A job after one that took much is not told to have taken as much."""
    much = jobs.run(Job("much", ("-c", "x = b'1' * 400_000_000")), tmp_path, tmp_path)
    little = jobs.run(Job("little", ("-c", "")), tmp_path, tmp_path)
    assert much["megabytes"] > 380
    assert little["megabytes"] < 30


def test_it_runs_in_an_empty_directory_by_the_tree_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "qgf_ref.py").write_text("")
    code = (
        "import os, sys, qgf_ref; assert os.listdir() == []; "
        "assert qgf_ref.__file__.startswith(sys.argv[1]); open(sys.argv[2] + '/x', 'w').close()"
    )
    jobs.run(Job("there", ("-c", code, "{in}", "{out}")), tmp_path, tmp_path)


def test_a_job_that_fails_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "prepare", lambda place: None)
    wrong = Job("wrong", ("-c", "import sys; sys.exit('it has no trace')"))
    silent = Job("silent", ("-c", "print('agrees')"), says="DISAGREES")
    sound = Job("sound", ("-c", "print('DISAGREES')"), says="DISAGREES")
    rows = jobs.in_turns([wrong, silent, sound], {"this tree": tmp_path}, 1)
    assert rows[0]["failed"] == "exit code 1, not 0\nit has no trace\n"
    assert rows[1]["failed"] == "it did not say 'DISAGREES'\nagrees\n"
    assert rows[2]["this tree"]["cpu"] > 0
    page = jobs.table({"jobs": rows})
    assert "| wrong | failed: exit code 1, not 0 |" in page


def test_ratios_are_of_the_other_tree_by_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def run(job: Job, tree: Path, inputs: Path) -> dict[str, float]:
        order.append(tree.name)
        turn = (len(order) - 1) // 2  # the first of which fills caches
        wall = 100.0 if turn == 0 else {"a": 1.0, "b": 2.0 + turn}[tree.name]
        return {"wall": wall, "cpu": wall, "megabytes": 10.0}

    monkeypatch.setattr(jobs, "run", run)
    monkeypatch.setattr(jobs, "prepare", lambda place: None)
    trees = {"this tree": Path("a"), "old": Path("b")}
    (row,) = jobs.in_turns([Job("job", ())], trees, 3)
    assert row["this tree"]["wall"] == 1.0
    assert row["old"]["wall"] == 4.0
    assert row["wall ratio"] == 4.0
    assert order == ["b", "a", "a", "b"] * 2
    alone = {"job": "alone", "this tree": {"wall": 2.0, "cpu": 3.0, "megabytes": 4.0}}
    page = jobs.table({"jobs": [{**row, "against": "old"}, alone]})
    assert "| job | 1 | 1 | 10 | `old` | **4.00** | **4.00** |" in page
    assert "| alone | 2 | 3 | 4 |  |  |  |" in page
    assert "beside" not in jobs.table({"jobs": [alone]})


def test_some_jobs_again_cost_the_others_nothing() -> None:
    """Each keeps the commit that it was measured at."""
    first, second, third = ({"job": job.name, "commit": "a"} for job in JOBS[:3])
    again = {"job": second["job"], "commit": "b"}
    assert jobs.replaced([first, second], [third, again]) == [first, again, third]


def test_exponents() -> None:
    assert jobs.exponent((1, 2, 4), (9.0, 3.0, 12.0)) == 2.0
    assert math.isclose(jobs.exponent((128, 1024), (1.0, 8**1.5)), 1.5)
    (row,) = jobs.growth(1, {"batch": (2, 4)})
    assert row["values"] == (2, 4)
    assert all(s > 0 for s in row["seconds"])
    assert "| batch | 2, 4 |" in jobs.table({"growth": [row]})


def test_what_is_prepared(tmp_path: Path) -> None:
    jobs.prepare(tmp_path)
    for name, hidden in jobs.NETWORKS.items():
        checkpoint = load(tmp_path / f"{name}.safetensors")
        assert [layer.kernel.shape[1] for layer in checkpoint.policy.layers[:-1]] == list(hidden)
    for name in ("right", "unknown"):
        found = read_trace(tmp_path / f"{name}.npz")
        assert len(found.obs) == jobs.ROWS
        assert set(found.stepwise) == {"a", "v", "a1_hat", "q", "g"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("jobs --only adit", "no such job; there are audit; audit, 4x1024; compare"),
        ("growth --only audit", "growth is measured by this tree"),
        ("jobs --against no-such-commit", "neither a commit of this repository nor a directory"),
        ("jobs --against .", "no qgf_ref in it"),
        ("jobs --results a-file", "File exists"),
        ("jobs --results damaged", "cannot read damaged/jobs.json .*: remove it"),
        ("jobs --results foreign", "foreign/jobs.json is no file of ours: remove it"),
    ],
)
def test_wrong_lines_are_refused_before_anything_is_measured(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    for name, content in (("damaged", "{"), ("foreign", "[]")):
        Path(name).mkdir()
        Path(name, "jobs.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["jobs.py", "--results", "out", *words.split()])
    monkeypatch.setattr(jobs, "in_turns", None)
    with pytest.raises((InputError, OSError), match=message):
        jobs.main()


@pytest.mark.parametrize("rounds", ["0", "-1"])
def test_no_rounds(rounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs.py", "--rounds", rounds])
    with pytest.raises(SystemExit, match="2"):
        jobs.main()
