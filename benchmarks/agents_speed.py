"""How fast are the five other agents of the paper, updates and samplers, beside JAX's?

    python benchmarks/agents_speed.py            (about 6 minutes, on an otherwise idle machine)
    python benchmarks/agents_speed.py --smoke    (two minutes, noisy, writes nothing)

Every agent at the preset `small` (3×256; updates of 256 rows, actions of 1 and 256 observations;
10 denoising steps), on all cores. JAX runs the peers that the cross-check is proved with
(`benchmarks/peers/jax_agents.py`, `jax_actor_samplers.py`), jitted. Both must first compute the
same; then they are timed in turns. The noise that DAC's and QSM's samplers add is given to both.
Writes benchmarks/results/agents_speed.json and .md. Needs the `peers` extra.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.peers import jax_update  # noqa: E402
from benchmarks.peers.compare import Contender, D, O, Ours, disagreement, samples  # noqa: E402
from benchmarks.peers.jax_actor_samplers import sampler  # noqa: E402
from benchmarks.peers.jax_agents import PEERS  # noqa: E402
from benchmarks.train_speed import interval, timed  # noqa: E402
from qgf_ref.agents.actor import ActorAgent, clipped_end  # noqa: E402
from qgf_ref.agents.agent import Acting  # noqa: E402
from qgf_ref.agents.checkpoint import Checkpoint, Options  # noqa: E402
from qgf_ref.agents.registry import agent_with  # noqa: E402
from qgf_ref.arrays import Array  # noqa: E402
from qgf_ref.backends.engine import Engine, backend_named  # noqa: E402
from qgf_ref.backends.program.record import Actor  # noqa: E402
from qgf_ref.bench.measure import settle, spread  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.losses.batch import Hyperparameters  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.sampling import sample  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402
from qgf_ref.threads import thread_count  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
HIDDEN, ROWS, STEPS, HORIZON = (256,) * 3, 256, 10, 5
BATCHES = (1, 256)
AGENTS: dict[str, dict[str, Any]] = {
    "edp": {"bc_weight": 100.0},
    "fql": {"alpha": 300.0},
    "qam": {"inv_temp": 1.0},
    "dac": {"alpha": 30.0},
    "qsm": {"inv_temp": 1.0},
}
"""Settings that have no default, and what they are here: they do not change the work."""
LIMITS = {"loss": 1e-4, "change": 2e-3, "action": 1e-5}
"""Three times the largest difference measured, of losses and of the parameters' changes (relative)
after 3 updates, and of actions (absolute)."""

Turn = tuple[Callable[[], object], Callable[[], None]]


def checkpoint_of(name: str, seed: int) -> Checkpoint:
    """Fresh networks of cube-single's sizes."""
    agent = agent_with(name, AGENTS[name])
    params = agent.initial(np.random.default_rng(seed), O, D, HIDDEN, 2)
    options = Options("gelu", "mean", STEPS, HORIZON, True, 0.99, 0.9)
    return Checkpoint(options, params=params, agent=agent).astype("float32")


class Theirs:
    """The agent's peer, jitted; `Contender` of benchmarks/peers/compare.py."""

    def __init__(self, checkpoint: Checkpoint, hyper: Hyperparameters) -> None:
        peer = PEERS[checkpoint.agent.name](checkpoint, hyper)

        def advance(state: Any, data: Any) -> Any:
            state, _, losses = peer.advance(state, data)
            return state, losses

        self.state = jax_update.initial_state(checkpoint)
        self.update = jax.jit(advance, donate_argnums=0)

    def step(self, sample: Any) -> dict[str, Any]:
        """One update, dispatched."""
        batch, drawn = sample
        self.state, losses = self.update(self.state, {**jax_update.inputs(batch), **drawn})
        return dict(losses)

    def finish(self) -> None:
        """Wait for the last update."""
        jax.block_until_ready(self.state)

    def arrays(self, network: str) -> list[Array]:
        """Parameters."""
        return jax_update.arrays(self.state, network)


def updates(checkpoint: Checkpoint, threads: int, seed: int) -> tuple[dict[str, Turn], Any]:
    """Ours and theirs, and by how much they differ."""
    hyper, rng = checkpoint.hyperparameters(), np.random.default_rng(seed)
    recipe = checkpoint.agent.require_recipe()
    batches = [batch for batch, _ in samples(ROWS, seed)]
    data = [(batch, recipe.draw(rng, batch, hyper)) for batch in batches]
    ours, theirs = Ours(checkpoint, hyper, "numba", threads), Theirs(checkpoint, hyper)
    found = disagreement(checkpoint, ours, theirs, data)

    def turn(contender: Contender) -> Turn:
        cycle = itertools.cycle(data)
        return lambda: contender.step(next(cycle)), contender.finish

    turns = {"ours": turn(ours), "jax": turn(theirs)}
    return turns, {key: found[key] for key in ("loss", "change")}


def actions(
    checkpoint: Checkpoint, batch: int, threads: int, seed: int
) -> tuple[dict[str, Turn], Any]:
    """As `updates`, of the agent's sampler."""
    rng, agent, T = np.random.default_rng(seed), checkpoint.agent, STEPS
    obs, noise = (rng.standard_normal((batch, n)).astype(np.float32) for n in (O, D))
    engine = Engine(backend_named("numba"), threads)
    port, z = sampler(checkpoint, jitted=True), None
    if isinstance(agent, ActorAgent):
        actor, z = agent, agent.drawn(noise, T)
        net = Actor(actor.acting(checkpoint, actor.actor, Acting()), z)

        def ours() -> Array:
            return clipped_end(actor.chain, net, obs, noise, T, engine)

    else:
        flow = agent.flow(checkpoint, embedding="float32")

        def ours() -> Array:
            return sample(flow, obs, noise=noise, estimator="none", backend=engine)

    def theirs() -> Array:
        made: Array = port(obs, noise, z)
        return made

    found = {"action": float(abs(ours() - theirs()).max())}
    nothing = lambda: None  # noqa: E731 - both wait for their result
    return {"ours": (ours, nothing), "jax": (theirs, nothing)}, found


def compared(turns: dict[str, Turn], rounds: int, target: float) -> dict[str, Any]:
    """Milliseconds of each, and their ratio within rounds. `target`: seconds for one turn."""
    repetitions = {
        name: max(1, math.ceil(target / timed(run, finish, 3).seconds))
        for name, (run, finish) in turns.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (run, finish) in turns.items():
            settle()
            seconds[name].append(timed(run, finish, repetitions[name]).seconds)
    pairs = zip(seconds["jax"], seconds["ours"], strict=True)
    times = {name: spread([1e3 * s for s in every]) for name, every in seconds.items()}
    return {"milliseconds": times, "ratio": spread([theirs / ours for theirs, ours in pairs])}


def require_equal(what: str, found: dict[str, float]) -> None:
    """Exit, saying by how much, unless both compute the same."""
    for name, difference in found.items():
        if not difference <= LIMITS[name]:
            raise SystemExit(
                f"{what}: the two implementations do not compute the same, so their speed says "
                f"nothing: {name} differs by {difference:.1e} (at most {LIMITS[name]:.0e})"
            )


def measure(seed: int, rounds: int, target: float) -> list[dict[str, Any]]:
    """A row for each agent and each of its works."""
    threads, rows = thread_count(), []
    works = ("update", *BATCHES)
    with tqdm(total=len(AGENTS) * len(works), disable=None) as bar:
        for name, work in itertools.product(AGENTS, works):
            checkpoint = checkpoint_of(name, seed)
            if isinstance(work, int):
                turns, found = actions(checkpoint, work, threads, seed)
                what = f"sampler, batch {work}"
            else:
                turns, found = updates(checkpoint, threads, seed)
                what = f"update, batch {ROWS}"
            require_equal(f"{name}, {what}", found)
            row = {"agent": name, "what": what, "threads": threads, "disagreement": found}
            rows.append({**row, **compared(turns, rounds, target)})
            bar.update()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """For the page."""
    body = [
        [
            f"`{row['agent']}`",
            row["what"],
            *(interval(row["milliseconds"][name]) for name in ("ours", "jax")),
            f"**{interval(row['ratio'])}**",
        ]
        for row in rows
    ]
    columns = ["agent", "what", "numba, ms", "JAX, ms", "times as fast as JAX"]
    note = "Median (25%–75%) of interleaved rounds; the ratio is taken within each round."
    return f"{markdown_table(columns, body)}\n\n{note}\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short, noisy run")
    parser.add_argument("--rounds", type=int, help="of every turn (default 15; smoke 1)")
    parser.add_argument("--seconds", type=float, help="of one turn (default 0.5; smoke 0.02)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rounds = args.rounds or (1 if args.smoke else 15)
    seconds = args.seconds or (0.02 if args.smoke else 0.5)
    origin, load = provenance(), os.getloadavg()
    origin["versions"] |= {name: version(name) for name in ("jax", "jaxlib", "numba")}
    rows = measure(args.seed, rounds, seconds)
    print(f"\n{table(rows)}")
    if not args.smoke:
        settings = {"seed": args.seed, "rounds": rounds, "seconds_of_a_turn": seconds}
        content = {**settings, "load_average_before": load, "rows": rows, **origin}
        write_json(RESULTS / "agents_speed.json", content)
        write_atomically(RESULTS / "agents_speed.md", table(rows).encode())
        print(f"wrote {RESULTS / 'agents_speed.json'} and .md")


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
