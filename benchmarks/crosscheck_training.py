"""The proof of the cross-check of training: every agent's mistakes, made in a real JAX port.

    python benchmarks/crosscheck_training.py            # about 40 minutes on two cores
    python benchmarks/crosscheck_training.py --only dqc # one agent's rows; the others stay
    python benchmarks/crosscheck_training.py --smoke    # a part of it; nothing is written

Each broken port (`benchmarks/peers/jax_agent_mistakes.py`, float32) is given to
`qgf_ref.testing.check_losses`. The correct ports are given to it on ten architectures each.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.judging import run
from benchmarks.peers.jax_actors import AgentUpdate
from benchmarks.peers.jax_agent_mistakes import broken, training_step
from benchmarks.peers.jax_agents import PEERS
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.crosscheck.update.banks import bank_of
from qgf_ref.crosscheck.update.diagnosis import LIMIT
from qgf_ref.tables import markdown_table
from qgf_ref.testing import EXPOSING, CrossCheckError, TrainingReport, check_losses
from tests.helpers.agents import VARIANTS, showing, variant

HYPER = replace(EXPOSING, denoise_steps=3)
ARCHITECTURES = 10


@dataclass(frozen=True)
class Outcome:
    """What the tool said about one port of a variant; excess: largest error over the limit."""

    variant: str
    mistake: str
    said: tuple[str, ...]
    first: str | None
    excess: float
    seconds: float

    @property
    def named(self) -> bool:
        """Whether the mistake that was made is named, and no other; of a right port, none."""
        return self.said == ((self.mistake,) if self.mistake else ())


def mistakes(name: str) -> dict[str, int]:
    """Of a variant's bank: {mistake: updates by which it is looked for}."""
    return {
        m.name: 2 if m.first.startswith("params") else int("in_turn" in m.changes)
        for m in bank_of(variant(name).agent).mistakes
    }


def judged(name: str, mistake: str, updates: int) -> Outcome:
    """The variant's peer with this mistake."""
    # programs that run for milliseconds: compile them quickly
    jax.config.update("jax_disable_most_optimizations", True)
    peer = broken(name.split()[0], mistake)
    return checked(name, mistake, showing(name, mistake), updates, peer)


def architecture(name: str, seed: int) -> Checkpoint:
    """Random networks of a random shape."""
    rng = np.random.default_rng(2000 + seed)
    return variant(
        name, _settings(name, seed), seed=seed,
        obs_dim=int(rng.integers(1, 30)), action_dim=int(rng.integers(1, 12)),
        hidden=tuple(int(w) for w in rng.integers(4, 96, int(rng.integers(2, 5)))),
        members=int(rng.integers(2, 6)), aggregation=str(rng.choice(["min", "mean"])),
        activation=str(rng.choice(["gelu", "gelu", "relu"])),
    )  # fmt: skip


def _settings(name: str, seed: int) -> dict[str, Any]:
    """Of DQC, others of the right ones: statistics, policies and their goals, horizons."""
    if not name.startswith("dqc"):
        return {}
    rng, kinds = np.random.default_rng([seed, len(name)]), ["expectile", "quantile"]
    h_a = int(rng.integers(1, 4))
    return {
        "distill_method": str(rng.choice(kinds)), "implicit_backup_type": str(rng.choice(kinds)),
        "policy_goals": bool(rng.integers(2)), "policy_network": str(rng.choice(["qgf", "dqc"])),
        "policy_chunk_size": h_a, "backup_horizon": h_a + int(rng.integers(0, 4)),
    }  # fmt: skip


def alarmed(name: str, seed: int) -> Outcome:
    """The variant's right peer on one architecture."""
    # as a port runs: what rounding explains of it is what is measured here
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of other shapes
    return checked(name, "", architecture(name, seed), 2, _jitted(PEERS[name.split()[0]]))


def _jitted(peer: type[AgentUpdate]) -> type[AgentUpdate]:
    """The peer as one program: of shapes that are used once, that is sooner compiled."""
    methods = {"advance": jax.jit(peer.advance, static_argnums=0)}
    return type("Jitted", (peer,), methods)


def checked(name: str, mistake: str, ck: Checkpoint, updates: int, peer: type) -> Outcome:
    """What the tool says about this peer's step from these networks."""
    start = time.perf_counter()
    step = training_step(ck, HYPER, updates, peer)
    said: tuple[str, ...] = ()
    try:
        report = check_losses(step, ck, hyper=HYPER, updates=updates)
    except CrossCheckError as error:
        assert isinstance(error.report, TrainingReport), error
        report = error.report
        assert report.diagnosis is not None
        said = tuple(fit.name for fit in report.diagnosis.fits) or ("unknown",)
    excess = max(c.ratio for c in report.comparisons) / LIMIT
    return Outcome(name, mistake, said, report.first, excess, time.perf_counter() - start)


def table(broken_ports: list[Outcome], right_ports: list[Outcome]) -> str:
    """By variant, and what was not named alone."""
    rows = []
    for name in VARIANTS:
        made = [o for o in broken_ports if o.variant == name]
        right = [o for o in right_ports if o.variant == name]
        worst = max((o.excess for o in right), default=0.0)
        rows.append(
            [f"`{name}`", str(len(made)), str(sum(o.named for o in made)), str(len(right)),
             str(sum(not o.named for o in right)), f"{worst:.2f}"]
        )  # fmt: skip
    columns = ["agent, critic", "mistakes made", "named alone", "right ports", "false alarms",
               "largest error / limit"]  # fmt: skip
    lines = [markdown_table(columns, rows), ""]
    for o in broken_ports:
        if not o.named:
            lines.append(f"* `{o.variant}`, `{o.mistake}`: {' or '.join(o.said) or 'not seen'}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run, print, and unless only a part was run write results/crosscheck_training.{json,md}."""
    tasks = [(n, m, updates) for n in VARIANTS for m, updates in mistakes(n).items()]
    right = [(n, seed) for n in VARIANTS for seed in range(ARCHITECTURES)]
    return run(
        "crosscheck_training", __doc__, argv, (judged, tasks, 29), (alarmed, right, 15), table
    )


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
