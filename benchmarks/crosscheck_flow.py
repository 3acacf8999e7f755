"""The proof of the cross-check on anybody's networks: mistakes made in ports round a transformer.

    python benchmarks/crosscheck_flow.py            # about 7 minutes on two cores
    python benchmarks/crosscheck_flow.py --smoke    # a part of it; nothing is written

Each broken port (`benchmarks/peers/torch_robots.py`, float32, in openpi's convention) is given to
`qgf_ref.testing.check_sampler` with the adapter round the same networks, once returning its trace,
once its final actions alone. Right ports of four families of networks, three conventions each, are
given to it as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.crosscheck import (
    Alarm,
    Outcome,
    acceptable,
    alarm_table,
    confusion_table,
    judged_call,
    one_thread,
    sampler,
)
from benchmarks.peers.torch_families import FAMILIES
from benchmarks.peers.torch_robots import (
    CONVENTIONS,
    FIRST_WRONG,
    HELD_OUT,
    MISTAKES,
    NOT_SHOWN,
    Robot,
    RobotPort,
    aggregation_for,
    broken_port,
)
from qgf_ref.files import write_atomically, write_json
from qgf_ref.provenance import provenance
from qgf_ref.testing import CrossCheckError, check_sampler

RESULTS = Path(__file__).resolve().parent / "results"
ESTIMATORS = ("qgf", "qgf_jacobian", "bptt")
BUDGET = 20_000


def judged(traced: bool, name: str) -> Outcome:
    """The verdict on the transformer's port with this mistake."""
    robot = Robot("transformer", "openpi", 0, aggregation=aggregation_for(name))
    call = sampler(broken_port(robot, name), traced=traced)
    return judged_call(name, lambda: check_sampler(call, robot.flow(), best_of=4, budget=BUDGET))


def alarmed(family: str, convention: str, estimator: str) -> Alarm:
    """A right port of the family under `check_sampler`, traced."""
    seed = 10 * list(FAMILIES).index(family) + list(CONVENTIONS).index(convention)
    robot = Robot(
        family, convention, seed, horizon=2 + seed % 4, action_dim=1 + seed % 3,
        members=1 + seed % 3, aggregation=("min", "mean")[seed % 2], steps=3 + seed % 5,
    )  # fmt: skip
    port, excess = RobotPort(robot, estimator=estimator), None
    try:
        report = check_sampler(
            sampler(port, traced=True), robot.flow(), estimator=estimator, best_of=4
        )
        excess = report.diagnosis.explanations[0].excess
    except CrossCheckError as error:
        print(f"FALSE ALARM on {robot.source}, {estimator}: {error}", file=sys.stderr)
    return Alarm(f"{family}, {convention}", estimator, excess is None, excess)


def expected(outcome: Outcome, traced: bool) -> bool:
    """Named or among equals; held out: unknown, at the quantity that is wrong first; or of those
    that these inputs cannot show.
    """
    if outcome.mistake in NOT_SHOWN["traces" if traced else "final actions alone"]:
        return outcome.verdict == "not seen"
    first = FIRST_WRONG.get(outcome.mistake)
    if traced and first is not None and outcome.verdict == "unknown":
        return outcome.unknown == first
    return acceptable(outcome)


def main(argv: list[str] | None = None) -> int:
    """Run, print, and unless only a part was run write results/crosscheck_flow.{json,md}."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a part; nothing is written")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args(argv)
    names = [*MISTAKES, *HELD_OUT][:: 19 if args.smoke else 1]
    right = [(f, c, e) for f in FAMILIES for c in CONVENTIONS for e in ESTIMATORS]
    right = right[:: 7 if args.smoke else 1]
    outcomes: dict[str, list[Outcome]] = {}
    wrong: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn, initializer=one_thread) as pool:
        for traced in (True, False):
            key = "traces" if traced else "final actions alone"
            said = pool.map(partial(judged, traced), names)
            outcomes[key] = list(tqdm(said, desc=key, total=len(names), disable=None))
            wrong += [f"{key}: {o}" for o in outcomes[key] if not expected(o, traced)]
        said_of_right = pool.map(alarmed, *zip(*right, strict=True))
        alarms = list(tqdm(said_of_right, desc="right ports", total=len(right), disable=None))
    wrong += [f"false alarm: {a}" for a in alarms if a.alarm]
    by_family: dict[str, list[Alarm]] = {
        f: own for f in FAMILIES if (own := [a for a in alarms if a.network.startswith(f)])
    }
    text = f"{confusion_table(outcomes)}\n\n{alarm_table(by_family)}"
    print(text, *wrong, sep="\n")
    if not args.smoke:
        content: dict[str, Any] = {
            "confusion": {key: [vars(o) for o in said] for key, said in outcomes.items()},
            "correct": {key: [vars(a) for a in own] for key, own in by_family.items()},
        }
        write_json(RESULTS / "crosscheck_flow.json", {**content, **provenance()})
        write_atomically(RESULTS / "crosscheck_flow.md", (text + "\n").encode())
    return int(bool(wrong))


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
