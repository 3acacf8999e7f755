"""Every mistake of the bank, made in real JAX and PyTorch ports, diagnosed from outside.

    python benchmarks/crosscheck.py            # the confusion tables, about 20 minutes
    python benchmarks/crosscheck.py --smoke    # every ninth mistake, for CI

Each broken port (`benchmarks/peers/*_mistakes*.py`, float32, the framework's own kernels) is given
to `qgf_ref.testing.check_sampler` twice: once returning its trace, once its final actions alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import jax_mistakes, torch_mistakes
from qgf_ref.arrays import Array
from qgf_ref.files import write_atomically, write_json
from qgf_ref.interop.checkpoint import Checkpoint, Options
from qgf_ref.interop.load import load
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.provenance import provenance
from qgf_ref.testing import CrossCheckError, SamplerReport, check_sampler

RESULTS = Path(__file__).resolve().parent / "results"
FRAMEWORKS: dict[str, ModuleType] = {"JAX": jax_mistakes, "PyTorch": torch_mistakes}


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

    start = time.perf_counter()
    try:
        check_sampler(
            build(checkpoint), checkpoint, best_of=4, build=build, rows=16, coverage=False
        )
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


def false_alarms(module: ModuleType, networks: list[Checkpoint], seeds: int = 1) -> list[Alarm]:
    """Correct ports under `check_sampler`, traced, on every network and for four estimators."""
    found = []
    for checkpoint in tqdm(networks, desc="correct ports", disable=None):
        for estimator in ("qgf", "ood", "qgf_jacobian", "bptt"):
            for seed in range(seeds):
                port = sampler(PORTS[module](checkpoint, estimator=estimator), traced=True)
                where = str(checkpoint.source)
                try:
                    report = check_sampler(
                        port, checkpoint, estimator=estimator, best_of=4, seed=seed, coverage=False
                    )
                except CrossCheckError as error:
                    tqdm.write(f"FALSE ALARM {where} {estimator}: {error}")
                    found.append(Alarm(where, estimator, True, None))
                else:
                    excess = report.diagnosis.explanations[0].excess
                    found.append(Alarm(where, estimator, False, excess))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run, print, and unless --smoke write results/crosscheck.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="every ninth mistake, nothing written")
    parser.add_argument("--only", nargs="*", help="these mistakes")
    parser.add_argument("--framework", choices=tuple(FRAMEWORKS))
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    plain, relu = trained_like(), trained_like(1, activation="relu", aggregation="mean")
    found: dict[str, list[Outcome]] = {}
    for framework, module in FRAMEWORKS.items():
        if args.framework not in (None, framework):
            continue
        for traced in (True, False):
            key = f"{framework}, {'traces' if traced else 'final actions alone'}"
            names = [*module.MISTAKES, *module.HELD_OUT]
            if args.only:
                names = args.only
            elif args.smoke:
                names = names[:: 9 if traced else 27]
            found[key] = []
            for name in tqdm(names, desc=key, disable=None):
                checkpoint = plain if module.applies(plain, name) else relu
                outcome = diagnosed(module, checkpoint, name, traced=traced)
                found[key].append(outcome)
                if outcome.verdict != "named":
                    tqdm.write(
                        f"{key}: {name}: {outcome.verdict} {outcome.said[:4]} {outcome.unknown or ''}"
                    )
    text = table(found)
    print(text)
    if not args.smoke and not args.only:
        results = {key: [vars(o) for o in outcomes] for key, outcomes in found.items()}
        write_json(RESULTS / "crosscheck.json", {"results": results, **provenance()})
        write_atomically(RESULTS / "crosscheck.md", (text + "\n").encode())
    bad = [o for outcomes in found.values() for o in outcomes if not acceptable(o)]
    return 1 if bad else 0


def acceptable(outcome: Outcome) -> bool:
    """Named, in an ambiguity that includes it, or held out and unknown."""
    if outcome.mistake.startswith("unknown-"):
        return outcome.verdict == "unknown"
    return outcome.verdict in ("named", "among")


def table(found: dict[str, list[Outcome]]) -> str:
    """Counts by framework, and every case that was not simply named."""
    head = "| | mistakes | named alone | named among others | unknown | not seen | wrong name | held out, called unknown | median s |"
    lines = [head, "|---" * 9 + "|"]
    for key, outcomes in found.items():
        bank = [o for o in outcomes if not o.mistake.startswith("unknown-")]
        held = [o for o in outcomes if o.mistake.startswith("unknown-")]

        def count(verdict: str, of: list[Outcome] = bank) -> int:
            return sum(o.verdict == verdict for o in of)

        lines.append(
            f"| {key} | {len(bank)} | {count('named')} | {count('among')} | {count('unknown')} | "
            f"{count('not seen')} | {count('wrong name')} | {count('unknown', held)} of {len(held)} | "
            f"{np.median([o.seconds for o in outcomes]):.1f} |"
        )
    lines.append("")
    for key, outcomes in found.items():
        for o in outcomes:
            if o.verdict == "among":
                others = ", ".join("+".join(s) for s in o.said if s != (o.mistake,))
                lines.append(f"* {key}: `{o.mistake}` among {others}")
            elif not acceptable(o):
                lines.append(f"* {key}: `{o.mistake}`: {o.verdict} {o.said[:3]} {o.unknown or ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
