"""The proof of the cross-check: every mistake of the bank, made in real JAX and PyTorch ports.

    python benchmarks/crosscheck.py            # both tables, about 25 minutes on two cores
    python benchmarks/crosscheck.py --smoke    # a part of it, for CI; nothing is written
    python benchmarks/crosscheck.py --example  # results/compare.{txt,png} of the page

Each broken port (`benchmarks/peers/*_mistakes*.py`, float32, the framework's own kernels) is given
to `qgf_ref.testing.check_sampler` twice: once returning its trace, once its final actions alone.
The correct ports are given to it on the golden networks and on 20 random architectures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import jax_mistakes, torch_mistakes
from benchmarks.peers.jax_sampler import JaxSampler
from benchmarks.peers.torch_sampler import TorchSampler
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.arrays import Array
from qgf_ref.cli.main import main as qgf_ref_command
from qgf_ref.files import write_atomically, write_json
from qgf_ref.interop.load import embedded_observations, load
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.provenance import provenance
from qgf_ref.testing import CrossCheckError, SamplerReport, check_sampler

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FRAMEWORKS: dict[str, ModuleType] = {"JAX": jax_mistakes, "PyTorch": torch_mistakes}
CORRECT: dict[str, Any] = {"JAX": JaxSampler, "PyTorch": TorchSampler}
ESTIMATORS = ("qgf", "ood", "qgf_jacobian", "bptt")
EQUAL = {
    # w(1−t)·g is the same update whoever multiplies; final actions cannot tell
    "unknown-weight-schedule": ("gradient-times-1-t",),
}
"""Held-out mistakes that equal one of the bank where only final actions are seen."""


def trained_like(
    seed: int = 0,
    *,
    obs_dim: int = 8,
    action_dim: int = 3,
    horizon: int = 2,
    hidden: tuple[int, ...] = (24, 24, 24),
    members: int = 2,
    aggregation: str = "min",
    activation: str = "gelu",
    steps: int = 5,
) -> Checkpoint:
    """Random networks as if trained: moved parameters, and members whose minimum changes by row."""
    rng = np.random.default_rng(seed)
    D = action_dim * horizon
    options = Options(activation, aggregation, steps, horizon, True, 0.9, 0.8)

    def moved(a: Array) -> Array:
        return (a + 0.15 * rng.standard_normal(a.shape)).astype(np.float32).astype(np.float64)

    def critic() -> Any:
        params = init_value(rng, obs_dim + D, hidden, ensemble=members, dtype="float64").map(moved)
        *rest, last = params.layers
        level = last.bias - last.bias.mean(axis=0)
        return type(params)((*rest, type(last)(last.kernel, last.bias - level)))

    policy = init_velocity(rng, obs_dim, D, hidden, dtype="float64").map(moved)
    value = init_value(rng, obs_dim, hidden, dtype="float64").map(moved)
    return Checkpoint(options, policy, critic(), critic(), value, f"random networks {seed}")


@dataclass(frozen=True)
class Outcome:
    """What the tool said about one broken port."""

    mistake: str
    verdict: str
    said: tuple[tuple[str, ...], ...]
    unknown: str | None
    seconds: float


def sampler(port: Any, *, traced: bool) -> Callable[[Array, Array, float], Any]:
    """The port as `check_sampler` calls it."""

    def call(obs: Array, noise: Array, weight: float) -> Any:
        n = len(noise) // len(obs)
        if traced and n == 1:
            return port.trace(obs, noise, weight)
        return port.sample(obs, noise, weight, best_of=n)

    return call


def diagnosed(module: ModuleType, checkpoint: Checkpoint, name: str, *, traced: bool) -> Outcome:
    """The verdict on the port with this mistake."""

    def build(nets: Checkpoint) -> Callable[[Array, Array, float], Any]:
        return sampler(module.broken(nets, name), traced=traced)

    def call() -> SamplerReport:
        return check_sampler(
            build(checkpoint), checkpoint, best_of=4, build=build, rows=16, coverage=False
        )

    return judged_call(name, call)


def judged_call(name: str, call: Callable[[], SamplerReport]) -> Outcome:
    """What a check said of a port with this mistake."""
    start = time.perf_counter()
    try:
        call()
    except CrossCheckError as error:
        report = error.report
        if not isinstance(report, SamplerReport):
            return Outcome(name, f"refused: {error}", (), None, time.perf_counter() - start)
        said = tuple(e.names for e in report.diagnosis.explanations)
        return Outcome(
            name, _verdict(name, said), said, report.diagnosis.unknown, time.perf_counter() - start
        )
    return Outcome(name, "not seen", (), None, time.perf_counter() - start)


def _verdict(name: str, said: tuple[tuple[str, ...], ...]) -> str:
    if not said:
        return "unknown"
    if said == ((name,),):
        return "named"
    if (name,) in said:
        return "among"
    return "wrong name"


def architectures(count: int = 20) -> list[Checkpoint]:
    """Random networks of random shapes and options."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        found.append(
            trained_like(
                seed,
                obs_dim=int(rng.integers(1, 60)),
                action_dim=int(rng.integers(1, 8)),
                horizon=int(rng.integers(1, 6)),
                hidden=tuple(int(w) for w in rng.integers(4, 256, int(rng.integers(1, 5)))),
                members=int(rng.integers(1, 6)),
                aggregation=str(rng.choice(["min", "mean"])),
                activation=str(rng.choice(["gelu", "gelu", "relu", "silu", "tanh", "elu", "mish"])),
                steps=int(rng.integers(1, 24)),
            )
        )
    return found


def golden() -> list[Checkpoint]:
    """The golden networks, where ../shared exists."""
    root = Path(__file__).resolve().parents[2] / "shared" / "golden"
    return [load(path) for path in sorted(root.glob("*/params_0.pkl"))]


@dataclass(frozen=True)
class Alarm:
    """A correct port: whether it was called wrong, and its largest error over the limit."""

    network: str
    estimator: str
    alarm: bool
    excess: float | None


def judged(framework: str, traced: bool, name: str) -> Outcome:
    """The verdict on this framework's port with this mistake."""
    module = FRAMEWORKS[framework]
    gelu, relu = trained_like(), trained_like(1, activation="relu", aggregation="mean")
    checkpoint = gelu if module.applies(gelu, name) else relu
    # a hundred programs of which each runs for milliseconds: compile them quickly
    jax.config.update("jax_disable_most_optimizations", True)
    outcome = diagnosed(module, checkpoint, name, traced=traced)
    # thousands of compiled functions would use up the process's memory maps
    jax.clear_caches()
    return outcome


def alarmed(framework: str, checkpoint: Checkpoint, estimator: str) -> Alarm:
    """The correct port under `check_sampler`, traced."""
    jax.config.update("jax_disable_most_optimizations", False)
    port = CORRECT[framework](checkpoint, estimator=estimator)
    where, excess = str(checkpoint.source).rpartition("shared/")[2], None
    try:
        report = check_sampler(
            sampler(port, traced=True), checkpoint, estimator=estimator, best_of=4, coverage=False
        )
        excess = report.diagnosis.explanations[0].excess
    except CrossCheckError as error:
        print(f"FALSE ALARM of {framework} on {where}, {estimator}: {error}", file=sys.stderr)
    jax.clear_caches()
    return Alarm(where, estimator, excess is None, excess)


def one_thread() -> None:
    """A process of the pool computes on one core."""
    torch.set_num_threads(1)


def _mode(traced: bool) -> str:
    return "traces" if traced else "final actions alone"


def main(argv: list[str] | None = None) -> int:
    """Run, print, and unless only a part was run write results/crosscheck.{json,md}."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a part; nothing is written")
    parser.add_argument("--example", action="store_true", help="the page's example alone")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these mistakes")
    parser.add_argument(
        "--framework", choices=tuple(FRAMEWORKS), nargs="+", default=tuple(FRAMEWORKS)
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args(argv)
    if args.example:
        example()
        return 0
    outcomes: dict[str, list[Outcome]] = {}
    alarms: dict[str, list[Alarm]] = {}
    networks = [] if args.only else [*golden(), *architectures()][:: 16 if args.smoke else 1]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn, initializer=one_thread) as pool:
        for framework in args.framework:
            module = FRAMEWORKS[framework]
            for traced in (True, False):
                stride = (18 if traced else 54) if args.smoke else 1
                names = args.only or [*module.MISTAKES, *module.HELD_OUT][::stride]
                found = pool.map(partial(judged, framework, traced), names)
                key = f"{framework}, {_mode(traced)}"
                outcomes[key] = list(tqdm(found, desc=key, total=len(names), disable=None))
                for outcome in outcomes[key]:
                    if not acceptable(outcome):
                        print(f"{key}: {_line(outcome)}", flush=True)
            pairs = [(c, e) for c in networks for e in ESTIMATORS]
            found_alarms = pool.map(partial(alarmed, framework), *zip(*pairs)) if pairs else ()
            bar = tqdm(found_alarms, desc=f"{framework}, correct", total=len(pairs), disable=None)
            alarms[framework] = list(bar)
    text = f"{confusion_table(outcomes)}\n\n{alarm_table(alarms)}"
    print(text)
    if not (args.smoke or args.only or set(args.framework) != set(FRAMEWORKS)):
        content = {
            "confusion": {key: [vars(o) for o in found] for key, found in outcomes.items()},
            "correct": {key: [vars(a) for a in found] for key, found in alarms.items()},
        }
        write_json(RESULTS / "crosscheck.json", {**content, **provenance()})
        write_atomically(RESULTS / "crosscheck.md", (text + "\n").encode())
    wrong = [o for found in outcomes.values() for o in found if not acceptable(o)]
    return 1 if wrong or any(a.alarm for found in alarms.values() for a in found) else 0


def example() -> None:
    """`qgf-ref compare` on a PyTorch port of the embedded checkpoint with a common mistake."""
    checkpoint, obs = load(), embedded_observations()[:64]
    noise = np.random.default_rng(0).standard_normal((len(obs), checkpoint.flat_action_dim))
    port = torch_mistakes.broken(checkpoint, "layer-norm-eps-1e-5")
    arrays: dict[str, Any] = port.trace(obs, noise.astype(np.float32), 0.1)
    metadata = {"version": 1, "estimator": "qgf", "weight": 0.1, "denoise_steps": 10}
    with tempfile.TemporaryDirectory() as place:
        here, theirs = Path(place), Path(place, "theirs.npz")
        np.savez(theirs, **arrays, metadata=json.dumps(metadata))
        qgf_ref_command(["compare", "--trace", str(theirs), "--out", str(here / "compare")])
        words = (here / "compare" / "compare.txt").read_text()
        words = words.replace(f"{ROOT}/", "").replace(f"{place}/", "")
        write_atomically(RESULTS / "compare.txt", words.encode())
        write_atomically(RESULTS / "compare.png", (here / "compare" / "compare.png").read_bytes())


def acceptable(outcome: Outcome) -> bool:
    """Named, or among mistakes that nothing tells apart; held out: called unknown, or by the name
    of the mistake that it equals.
    """
    if outcome.said and set(outcome.said) <= {(n,) for n in EQUAL.get(outcome.mistake, ())}:
        return True
    if outcome.mistake.startswith("unknown-"):
        return outcome.verdict == "unknown"
    return outcome.verdict in ("named", "among")


def _line(o: Outcome) -> str:
    said = ", ".join("`" + " + ".join(names) + "`" for names in o.said if names != (o.mistake,))
    where = f" at {o.unknown}" if o.unknown else ""
    # what equals a mistake of the bank is rightly called by its name
    verdict = "is" if acceptable(o) and o.verdict == "wrong name" else o.verdict
    return f"`{o.mistake}`: {verdict}{where}{' ' if said else ''}{said}"


def confusion_table(found: dict[str, list[Outcome]]) -> str:
    """Counts by framework, and every case that was not simply named."""
    columns = ("broken port", "mistakes", "named alone", "among several", "not named",
               "held out: unknown", "median s")  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for key, outcomes in found.items():
        bank = [o for o in outcomes if not o.mistake.startswith("unknown-")]
        held = [o for o in outcomes if o.mistake.startswith("unknown-")]
        named, among = (sum(o.verdict == v for o in bank) for v in ("named", "among"))
        unknown = sum(o.verdict == "unknown" for o in held)
        median = np.median([o.seconds for o in outcomes])
        lines.append(
            f"| {key} | {len(bank)} | {named} | {among} | {len(bank) - named - among} | "
            f"{unknown} of {len(held)} | {median:.1f} |"
        )
    lines.append("")
    for key, outcomes in found.items():
        unusual = [o for o in outcomes if o.verdict != "named" and not _expected_unknown(o)]
        lines += [f"* {key}: {_line(o)}" for o in unusual]
    return "\n".join(lines)


def _expected_unknown(o: Outcome) -> bool:
    return o.mistake.startswith("unknown-") and o.verdict == "unknown"


def alarm_table(found: dict[str, list[Alarm]]) -> str:
    """False alarms and the largest error of correct ports."""
    lines = ["| correct port | networks × estimators | false alarms | largest error / limit |"]
    lines.append("|---" * 4 + "|")
    for framework, alarms in found.items():
        largest = max((a.excess for a in alarms if a.excess is not None), default=0.0)
        count = sum(a.alarm for a in alarms)
        lines.append(f"| {framework} | {len(alarms)} | {count} | {largest:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
