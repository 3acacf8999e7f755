"""qgf-ref sweep, as it is typed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from qgf_ref.backends.engine import backend_named
from qgf_ref.cli.main import main
from qgf_ref.files import sole_use
from qgf_ref.sweeps.driver import SerialRunner, work_off
from qgf_ref.sweeps.place import SweepPlace
from qgf_ref.sweeps.report import FILES, begin, write_tables
from qgf_ref.sweeps.spec_file import read_spec
from tests.data.synthetic import TASK
from tests.sweeps import stub
from tests.sweeps.conftest import TINY, swept, tiny, toml

ROOT = Path(__file__).parents[2]


def test_end_to_end(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real jobs, one after the other; then from its files alone."""
    spec = tmp_path / "small.toml"
    # saved once: each save of a training run draws its loss curves
    train = {**TINY["train"], "checkpoint_every": 24}
    agents = {"iql": {"methods": ["bc", "qgf"]}}
    spec.write_text(toml(tiny(seeds=[0], agents=agents, train=train)))
    words = ["sweep", str(spec), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 jobs are to be done (1 train, 1 evaluate)" in printed
    assert not (tmp_path / "out").exists()
    assert main([*words, "--serial"]) == 0
    printed = capsys.readouterr().out
    assert "2 jobs done, 1 were done or not needed, 0 failed" in printed
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 100
    out = tmp_path / "out"
    assert all((out / name).stat().st_size for name in FILES)
    before = {name: (out / name).read_bytes() for name in FILES if name != "costs.csv"}
    assert [row["method"] for row in json.loads(before["table.json"])["rows"]] == [
        "bc", "qgf"
    ]  # fmt: skip
    assert main(["sweep", "table", str(out)]) == 0
    assert before == {name: (out / name).read_bytes() for name in before}
    capsys.readouterr()
    assert main(["sweep", "status", str(out)]) == 0
    assert re.search(r"train +1\n", capsys.readouterr().out)
    assert main(["sweep", "status", str(out), "--json"]) == 0
    states = json.loads(capsys.readouterr().out)
    assert {s["state"] for s in states} == {"done"}
    # the same command has nothing left to do, and needs no Dask for it
    assert main(words) == 0
    assert "0 jobs done, 3 were done" in capsys.readouterr().out


def test_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgf_ref.sweeps.driver.perform", stub.perform)
    content = tiny(collect={"pointmaze-medium-navigate-v0": 1})
    (tmp_path / "s.toml").write_text(toml(content))
    out = tmp_path / "s"
    words = ["sweep", str(tmp_path / "s.toml"), "--serial", "--out", str(out)]
    sweep = swept(out)
    assert main(["sweep", "table", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"missing: iql on {TASK}" in printed
    assert not (out / "table.csv").exists()
    assert main(["sweep", "status", str(out)]) == 0
    assert "the command that began the sweep goes on with it" in capsys.readouterr().out
    assert main(words) == 0
    capsys.readouterr()
    sweep.place.result(TASK, "edp").unlink()
    assert main(["sweep", "table", str(out)]) == 0
    assert f"missing: edp on {TASK}" in capsys.readouterr().out
    assert f"Missing: edp on {TASK}" in (out / "table.md").read_text()
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["bc", "qgf", "cfgrl"]


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is printed before what cannot be written is told."""
    monkeypatch.setattr("qgf_ref.sweeps.driver.perform", stub.perform)
    sweep = swept(tmp_path)
    work_off(sweep, SerialRunner(sweep))
    (tmp_path / "table.csv").mkdir()
    assert main(["sweep", "table", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "cfgrl" in said.out
    assert "table.csv: it is a directory" in said.err


def test_a_failed_job_is_told_with_its_log(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No data set is at the place given: bad input, once, and what needs it waits."""
    out = tmp_path / "out"
    words = ["sweep", str(spec_file), "--data", str(tmp_path / "none"), "--out", str(out)]
    assert main([*words, "--serial"]) == 1
    printed = capsys.readouterr().out
    assert "0 jobs done, 0 were done or not needed, 1 failed, 11 wait for those" in printed
    assert "failed: data pointmaze-medium-navigate-v0: " in printed
    log = re.search(r"log: (\S+)", printed)
    assert log is not None
    assert "no data set at" in Path(log[1]).read_text()
    assert main(["sweep", "status", str(out)]) == 0
    assert "failed: data pointmaze-medium-navigate-v0" in capsys.readouterr().out


def test_a_backend_that_cannot_run_here_is_refused_before_anything_is_made(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "qgf_ref.backends.engine.find_spec", lambda package: package != "cupy" or None
    )
    backend_named.cache_clear()
    spec, out = tmp_path / "gpu.toml", tmp_path / "out"
    spec.write_text(toml(tiny(train={**tiny()["train"], "backend": "cupy:tf32"})))
    words = ["sweep", str(spec), "--data", str(data), "--out", str(out)]
    assert main([*words, "--serial"]) == 2
    assert "backend cupy:tf32 needs cupy: pip install" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--dry-run"]) == 0, "elsewhere there may be what is lacking here"


def test_one_process_at_a_time(
    spec_file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["sweep", str(spec_file), "--data", str(data), "--out", str(out), "--serial"]
    out.mkdir()
    with sole_use(out / ".lock", ""):
        assert main(words) == 2
    assert f"another process works off the sweep in {out}" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == [".lock"], "and it has changed nothing"


def test_what_is_stopped_says_once_what_is_kept(
    spec_file: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr("qgf_ref.sweeps.driver.work_off", stopped)
    words = ["sweep", str(spec_file), "--data", str(data), "--out", str(out), "--serial"]
    assert main(words) == 130
    said = f"stopped; what was under way saves itself in {out}. The same command goes on\n"
    assert capsys.readouterr().err == said


WRONG = [
    ("sweep status", r"status of which sweep\? qgf-ref sweep status DIR"),
    ("sweep table", r"table of which sweep\?"),
    ("sweep status {tmp}", "holds no sweep: begin one with"),
    ("sweep table {tmp} --workers 2", "only reads .*: it takes no --workers"),
    ("sweep {spec} {tmp}", "a directory goes with status or table"),
    ("sweep {tmp}/none.toml", "cannot read .*none.toml"),
    ("sweep {spec} --serial --slurm", "--serial and --slurm are different workers: give one"),
    ("sweep {spec} --serial --workers 2", "--workers does not go with --serial"),
    ("sweep {spec} --workers 0", "--workers must be ≥ 1, got 0"),
    ("sweep {spec} --threads 0", "--threads must be ≥ 1, got 0"),
    ("sweep {spec} --retries -1", "--retries must be ≥ 0, got -1"),
    ("sweep {spec} --out {spec}", "is a file: give a directory"),
    ("sweep {spec} --slurn", "did you mean --slurm?"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_lines(
    line: str, message: str, spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.format(spec=spec_file, tmp=tmp_path).split()
    try:
        code = main(words)
    except SystemExit as stop:  # argparse's
        code = int(stop.code or 0)
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]


@pytest.mark.parametrize("kept", ["fig5", "fig5_longer", "fig10"])
def test_the_committed_results_are_their_tables(tmp_path: Path, kept: str) -> None:
    """Fig. 5's tables from its result files and its spec, on a machine that has no run of it."""
    committed = ROOT / "benchmarks" / "results" / kept
    shutil.copytree(committed / "results", tmp_path / "results")
    spec = read_spec(ROOT / "benchmarks" / "sweeps" / f"{kept}.toml")
    sweep = begin(spec, SweepPlace(tmp_path), str(tmp_path / "nowhere"))
    assert sweep.wanted()[1] == [], "nothing is to be done again"
    write_tables(sweep)
    for name in ("table.csv", "table.md", "table.json"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name
    if kept != "fig5":
        return
    assert sweep.chosen(spec.tasks[0], spec.entry("edp")) == "bc_weight=100"
    folder = committed / "results" / spec.tasks[0]
    for name in ("edp", "fql", "dac"):  # the values tried, from what each of them did
        for one in json.loads((folder / f"{name}.json").read_text())["tried"]:
            content = json.loads((folder / f"{name}@{one['value']}.json").read_text())
            (cell,) = (c for c in content["cells"] if c["split"] == "selection")
            wins = [win for seed in cell["by_seed"] for win in seed["wins"]]
            assert one["success"] == sum(wins) / len(wins), one
