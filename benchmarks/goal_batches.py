"""Goal-conditioned batches a second: ours beside the official NumPy code's way, interleaved.

    python benchmarks/goal_batches.py            # a minute; results/goal_batches.{json,md}
    python benchmarks/goal_batches.py --smoke    # small, writes nothing

1000 episodes of 1000 transitions with cube-triple's sizes (O 46, A 5, G 9), random numbers; DQC's
settings (h 25, uniform value goals, no policy goals); batches of 4096. One thread; time of the
process, which other processes do not add to. The peer (`benchmarks/peers/goal_batches.py`) draws
and indexes as the official code does; lean: without the arrays that no loss reads. Batches from the
same random numbers are required to be equal before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.peers.goal_batches import LOSS_KEYS, OfficialGoals  # noqa: E402
from qgf_ref.arrays import Array  # noqa: E402
from qgf_ref.data.goals.batches import goal_batch, sample_goal_batch  # noqa: E402
from qgf_ref.data.goals.representation import oracle_representation  # noqa: E402
from qgf_ref.data.goals.sampling import POLICY_GOALS, VALUE_GOALS, GoalSampling, draw  # noqa: E402
from qgf_ref.data.goals.trajectories import Trajectories  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
O, A, ROWS, H, DISCOUNT = 46, 5, 4096, 25, 0.999
SAMPLING = GoalSampling(H, DISCOUNT, policy_goals=None)
PARTS = (VALUE_GOALS.current, VALUE_GOALS.trajectory, VALUE_GOALS.random)
OUR_NAMES = ("obs", "goal", "action", "next_obs", "rewards", "masks", "steps", "valid")
"""Of `LOSS_KEYS`, in their order."""


def made(lengths: Array) -> tuple[Trajectories, dict[str, Array]]:
    """Random episodes of these numbers of states; and the official form of the same."""
    rng, count = np.random.default_rng(0), int(lengths.sum())
    ends = np.cumsum(lengths) - 1
    representation = oracle_representation("cube-triple-v0")
    observations = rng.standard_normal((count, O), dtype=np.float32)
    actions = 2 * rng.random((count, A), dtype=np.float32) - 1
    source = rng.random((count, representation.width), dtype=np.float32)
    data = Trajectories(observations, actions, ends, source, representation)
    valids, terminals = np.ones(count, np.float32), np.zeros(count, np.float32)
    valids[ends] = 0
    terminals[ends], terminals[ends - 1] = 1, 1
    return data, {
        "observations": observations,
        "actions": actions,
        "terminals": terminals,
        "valids": valids,
        "oracle_reps": representation.of(source),
    }


def require_equal(data: Trajectories, peers: list[OfficialGoals], rows: int) -> None:
    """Every byte that a loss reads, of three seeds, from the same random numbers."""
    for seed in range(3):
        ours = goal_batch(data, draw(np.random.RandomState(seed), data, rows, SAMPLING), SAMPLING)
        for peer in peers:
            np.random.seed(seed)  # noqa: NPY002
            theirs = peer.sample(rows)
            for key, name in zip(LOSS_KEYS, OUR_NAMES, strict=True):
                mine = getattr(ours, name).astype(theirs[key].dtype)
                if mine.tobytes() != theirs[key].tobytes():
                    raise SystemExit(f"{name} differs from the peer's {key} (seed {seed})")


def timed(contenders: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of the process for each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 3):
        for name, run in contenders.items():
            begun = time.process_time()
            run()
            if turn >= 3:  # the first ones fetch memory and code
                times[name].append(time.process_time() - begun)
    return times


def peak_memory(run: Callable[[], Any], calls: int = 20) -> int:
    """Bytes that NumPy and Python hold at the highest, above what they held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(calls):
            kept = run()  # the batch before is alive while the next is made, as in training
        _, peak = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return peak - before


def measured(lengths: Array, rows: int, turns: int) -> dict[str, Any]:
    """Rates, ratios and memory on one data set."""
    data, official = made(lengths)
    full = OfficialGoals(official, H, DISCOUNT, PARTS)
    lean = OfficialGoals(official, H, DISCOUNT, PARTS, lean=True)
    require_equal(data, [full, lean], rows)
    rng = np.random.default_rng(0)
    policy = GoalSampling(H, DISCOUNT, policy_goals=POLICY_GOALS)
    np.random.seed(0)  # noqa: NPY002
    contenders: dict[str, Callable[[], Any]] = {
        "official": lambda: full.sample(rows),
        "official, lean": lambda: lean.sample(rows),
        "ours": lambda: goal_batch(data, draw(rng, data, rows, SAMPLING), SAMPLING),
        "ours, float32": lambda: sample_goal_batch(rng, data, rows, SAMPLING),
        "ours, policy goals": lambda: sample_goal_batch(rng, data, rows, policy),
    }
    times = timed(contenders, turns)
    ours = times["ours"]
    return {
        "transitions": len(data),
        "data_bytes": data.nbytes,
        "contenders": {
            name: {
                "ms": 1e3 * statistics.median(own),
                "fastest_ms": 1e3 * min(own),
                "batches_per_s": 1 / statistics.median(own),
                # of each turn, so that a slow second of the machine is in both
                "ratio": statistics.median(o / m for o, m in zip(own, ours, strict=True)),
                "peak_bytes": peak_memory(contenders[name]),
            }
            for name, own in times.items()
        },
    }


def text_of(report: dict[str, Any]) -> str:
    """The table."""
    header = ["episodes", "batches of", "ms", "batches/s", "time over ours", "peak above data, MB"]
    rows = [
        [
            episodes,
            name,
            f"{m['ms']:.1f}",
            f"{m['batches_per_s']:.0f}",
            f"{m['ratio']:.2f}",
            f"{m['peak_bytes'] / 1e6:.1f}",
        ]
        for episodes, of_data in report["episodes"].items()
        for name, m in of_data["contenders"].items()
    ]
    return markdown_table(header, rows) + "\n"


def main() -> None:
    """Validate, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small, and write nothing")
    smoke = parser.parse_args().smoke
    begun = time.perf_counter()
    episodes, rows, turns = (30, 64, 3) if smoke else (1000, ROWS, 150)
    unequal = np.random.default_rng(1).integers(200, 1803, episodes)
    report: dict[str, Any] = {
        **provenance(),
        "rows": rows,
        "turns": turns,
        "threads": 1,
        "load_average": os.getloadavg()[0],
        "episodes": {
            "of one length": measured(np.full(episodes, 1001), rows, turns),
            "of 200 to 1800": measured(unequal, rows, turns),
        },
    }
    text = text_of(report)
    print(text)
    if not smoke:
        report["seconds"] = time.perf_counter() - begun
        write_atomically(RESULTS / "goal_batches.md", text.encode())
        write_json(RESULTS / "goal_batches.json", report)


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
