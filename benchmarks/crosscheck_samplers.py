"""The proof of the cross-check of the other agents' samplers: mistakes made in a real JAX port.

    python benchmarks/crosscheck_samplers.py            # about 5 minutes on two cores
    python benchmarks/crosscheck_samplers.py --smoke    # a part of it; nothing is written

Each broken port (`benchmarks/peers/jax_actor_samplers.py`, float32) is given to
`qgf_ref.testing.check_sampler` with final actions alone, and those of TRACED with their steps, too.
The right ports are given to it on ten architectures each.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.judging import run
from benchmarks.peers.jax_actor_samplers import OWN, sampler
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.crosscheck.sampler.mistakes.bank import candidates
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.guidance.registry import estimator
from qgf_ref.tables import markdown_table
from qgf_ref.testing import CrossCheckError, check_sampler
from tests.helpers.agents import small_agent

AFTER = {"clip_sampler_before": False, "clip_sampler_after": True}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "edp": ("edp", {}),
    "fql": ("fql", {}),
    "qam": ("qam", {}),
    "dac, clipped before": ("dac", {}),
    "dac, clipped after": ("dac", AFTER),
    "qsm, not clipped": ("qsm", {"clip_sampler_before": False}),
}
TRACED = ("edp", "fql", "qam", "dac, clipped before")
ARCHITECTURES = 10
REFUSED = ("last-step-missing",)
"""From traces: a step less than T."""


@dataclass(frozen=True)
class Outcome:
    """What the tool said about one port; excess: a right one's largest error over the limit."""

    sampler: str
    mistake: str
    traced: bool
    said: tuple[str, ...]
    excess: float | None
    seconds: float

    @property
    def named(self) -> bool:
        """Whether the mistake that was made is named, and no other; of a right port, none."""
        refused = self.traced and self.mistake in REFUSED and self.said == ("refused",)
        return refused or self.said == ((self.mistake,) if self.mistake else ())


def best_of(name: str) -> int:
    """Candidates, of flows."""
    return 3 if name in ("edp", "qam") else 1


def networks(name: str, **shape: Any) -> Checkpoint:
    """A small checkpoint of one of the SAMPLERS; four steps, and square kernels."""
    agent, own = SAMPLERS[name]
    return small_agent(agent, own, **{"steps": 4, "hidden": (9, 9), **shape})


def setting(ck: Checkpoint) -> Setting:
    """What a port of its sampler is meant to be."""
    return Setting(ck.astype("float64"), estimator("none"), ck.options.denoise_steps)


def made(name: str) -> list[str]:
    """The mistakes of the sampler's bank that the JAX port makes."""
    ck = networks(name)
    bank = {m.name for m in candidates(setting(ck).port(), best_of(name))}
    return [mistake for mistake in OWN[ck.agent.name] if mistake in bank]


def judged(name: str, mistake: str, traced: bool) -> Outcome:
    """The sampler's peer with this mistake."""
    # programs that run for milliseconds: compile them quickly
    jax.config.update("jax_disable_most_optimizations", True)
    ck = networks(name)
    return _checked(name, mistake, traced, ck, sampler(ck, mistake, traced))


def alarmed(name: str, seed: int) -> Outcome:
    """The sampler's right peer on random networks of a random shape, compiled as ports are."""
    jax.config.update("jax_disable_most_optimizations", False)
    rng = np.random.default_rng(3000 + seed)
    ck = networks(
        name, seed=seed, obs_dim=int(rng.integers(1, 30)), action_dim=int(rng.integers(1, 12)),
        hidden=tuple(int(w) for w in rng.integers(4, 64, int(rng.integers(2, 4)))),
        members=int(rng.integers(2, 6)), aggregation=str(rng.choice(["min", "mean"])),
        activation=str(rng.choice(["gelu", "gelu", "relu"])), steps=int(rng.integers(1, 7)),
    )  # fmt: skip
    return _checked(name, "", True, ck, sampler(ck, "", traced=True, jitted=True))


def _checked(name: str, mistake: str, traced: bool, ck: Checkpoint, port: Any) -> Outcome:
    start, excess = time.perf_counter(), None
    said: tuple[str, ...] = ()
    try:
        report = check_sampler(port, ck, estimator="none", best_of=best_of(name), coverage=False)
        excess = report.diagnosis.explanations[0].excess
    except CrossCheckError as error:
        diagnosis = getattr(error.report, "diagnosis", None)
        if diagnosis is None:
            said = ("refused",)
        else:
            explained = (" + ".join(e.names) for e in diagnosis.explanations)
            said = tuple(explained) or (f"unknown at {diagnosis.unknown}",)
    return Outcome(name, mistake, traced, said, excess, time.perf_counter() - start)


def table(broken: list[Outcome], right: list[Outcome]) -> str:
    """By sampler, and what was not named alone."""
    rows = []
    for name in SAMPLERS:
        own = [o for o in broken if o.sampler == name]
        ways = [[o for o in own if o.traced is traced] for traced in (True, False)]
        fine = [o for o in right if o.sampler == name]
        worst = max((o.excess or 0.0 for o in fine), default=0.0)
        counts = [f"{sum(o.named for o in way)} of {len(way)}" if way else "–" for way in ways]
        rows.append([name, *counts, str(len(fine)), str(sum(not o.named for o in fine)),
                     f"{worst:.2f}"])  # fmt: skip
    columns = ["sampler", "named alone, traces", "named alone, final actions", "right ports",
               "false alarms", "largest error / limit"]  # fmt: skip
    lines = [markdown_table(columns, rows), ""]
    for o in broken:
        if not o.named:
            how = "traces" if o.traced else "final actions"
            said = " or ".join(o.said) or "not seen"
            lines.append(f"* {o.sampler}, {how}: `{o.mistake}`: {said}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run, print, and unless only a part was run write results/crosscheck_samplers.{json,md}."""
    tasks = [(n, m, False) for n in SAMPLERS for m in made(n)]
    tasks += [(n, m, True) for n in TRACED for m in made(n)]
    right = [(n, seed) for n in SAMPLERS for seed in range(ARCHITECTURES)]
    return run(
        "crosscheck_samplers", __doc__, argv, (judged, tasks, 23), (alarmed, right, 13), table
    )


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
