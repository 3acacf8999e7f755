"""qgf-ref collect: what it says, and that neither Ctrl-C nor SIGKILL loses finished episodes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qgf_ref.cli import collect
from qgf_ref.data.collection.collect import CollectionPlan, make_plan
from qgf_ref.data.collection.parts import kept_episodes

MAZE = "pointmaze-medium-navigate-v0"
SCRIPT = """
import sys
from tests.cli.test_collect import command
if __name__ == "__main__":
    sys.exit(command(*sys.argv[1:]))
"""


def command(*argv: str) -> int:
    top = argparse.ArgumentParser()
    collect.add_parser(top.add_subparsers(dest="command"))
    args = top.parse_args(["collect", *argv])
    return int(args.run(args))


def test_what_it_writes_and_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ("--episodes", "2", "--episode-steps", "10", "--workers", "1", "--seed", "3")
    assert command(MAZE, *numbers, "--out", str(tmp_path / "new")) == 0
    out = capsys.readouterr().out
    assert "2 training and 1 validation episodes of 10 steps with 1 workers, seed 3" in out
    assert f"wrote {tmp_path / 'new' / MAZE}.npz" in out
    assert "Next: qgf-ref train pointmaze-medium-navigate-singletask-v0 --data " in out
    report = json.loads((tmp_path / "new" / f"{MAZE}.json").read_text())
    assert report["configuration"]["seed"] == 3
    assert report["transitions"] == {"train": 20, "val": 10}
    assert report["this_run"]["steps_per_second"] > 0
    assert "ogbench" in report["configuration"]["versions"]
    assert "commit" in report["provenance"]


def start(plan: CollectionPlan) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a terminal starts it, with episodes done."""
    before = len(kept_episodes(plan.parts))
    script = plan.out / "script.py"
    script.write_text(SCRIPT)
    argv = [MAZE, "--episodes", "600", "--episode-steps", "300", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, str(script), *argv, "--out", str(plan.out)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(kept_episodes(plan.parts)) <= before + 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_interrupted_and_killed_runs_go_on(tmp_path: Path) -> None:
    plan = make_plan(MAZE, episodes=600, episode_steps=300, out=tmp_path)
    killed = start(plan)
    killed.kill()
    # the workers hold these pipes: this returns when they have noticed that their parent is gone
    killed.communicate(timeout=30)
    kept = kept_episodes(plan.parts)

    stopped = start(plan)
    os.killpg(stopped.pid, signal.SIGINT)
    _, err = stopped.communicate(timeout=30)
    assert stopped.returncode == 130, err
    assert kept < kept_episodes(plan.parts), err
    number = len(kept_episodes(plan.parts))
    assert f"interrupted; {number} of 660 episodes are kept" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not any(tmp_path.glob("*.npz"))
