"""What do the methods of Fig. 5 do to an action, and what do critics think of it?

    python benchmarks/fig5_actions.py fig5 --data data

After `qgf-ref sweep benchmarks/sweeps/fig5.toml --out fig5`, whose runs it reads. Every method acts
at the same validation states, from the same noise as the cloned flow: its own run's if it has one
(FQL), else that of the IQL run of its training seed. A row has the distance to that flow's actions
(root mean square of a coordinate; actions lie in ±1), and
Q, which is minus the steps that are left, discounted: of the method's own critic, and of those of
the IQL runs of the other seeds, which the method has never seen. Beside them its success in the
sweep: on held-out episodes, of values that were tried and not chosen on the few of the choice (in
brackets).
Writes benchmarks/results/fig5_actions.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qgf_ref.agents.agent import Acting  # noqa: E402
from qgf_ref.agents.checkpoint import Checkpoint  # noqa: E402
from qgf_ref.agents.fql import CLONE  # noqa: E402
from qgf_ref.arrays import Array  # noqa: E402
from qgf_ref.data.datasets import CACHE  # noqa: E402
from qgf_ref.errors import InputError  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.interop.load import load  # noqa: E402
from qgf_ref.losses.actor import endpoint  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402
from qgf_ref.sampling import sample  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
ROWS, SEEDS = 512, (0, 1, 2)
TASK = "cube-single-play-singletask-task1-v0"


class Subject:
    """The runs of a sweep, and the states at which they act."""

    def __init__(self, sweep: Path, data: Path) -> None:
        self.runs = sweep / "runs" / TASK
        self.results = sweep / "results" / TASK
        with np.load(data / "cube-single-play-v0-val.npz") as file:
            observations = file["observations"]
        rng = np.random.default_rng(0)
        self.obs = observations[rng.choice(len(observations), ROWS, replace=False)].astype("f4")
        self.iql = [self.run("iql", seed) for seed in SEEDS]
        wide = self.iql[0].flat_action_dim
        self.noise = rng.standard_normal((ROWS, wide)).astype("f4")
        self.flow = [self.of_flow(c, "none", 0.0) for c in self.iql]

    def run(self, name: str, seed: int) -> Checkpoint:
        """A run's checkpoint; raises InputError if it is not there."""
        path = self.runs / name / f"seed{seed}" / "model.safetensors"
        if not path.exists():
            raise InputError(f"no run {path}: give the directory of a sweep that is done")
        return load(path, dtype="float32")

    def of_flow(self, checkpoint: Checkpoint, estimator: str, weight: float) -> Array:
        """Actions (B, D) under guidance."""
        return sample(
            checkpoint.flow, self.obs, estimator=estimator, weight=weight, noise=self.noise
        )

    def acted(self, checkpoint: Checkpoint) -> Array:
        """Actions (B, D) as the agent acts."""
        return checkpoint.agent.act(checkpoint, self.obs, self.noise, Acting())

    def cloned(self, checkpoint: Checkpoint, seed: int) -> Array:
        """The cloned flow's actions (B, D)."""
        if all(part.name != CLONE for part in checkpoint.agent.parts):
            return self.flow[seed]
        steps = checkpoint.options.denoise_steps
        action = endpoint(checkpoint.network(CLONE), self.obs, self.noise, steps)
        return np.clip(action, -1, 1)

    def q(self, checkpoint: Checkpoint, actions: Array) -> float:
        """The mean over states of the smaller of the two members' Q."""
        members, _ = checkpoint.network("target_critic").forward(self.obs, actions)
        return float(np.asarray(members).min(axis=0).mean())

    def row(self, name: str, success: str, acted: dict[int, tuple[Checkpoint, Array]]) -> Any:
        """One row of the table, means over the training seeds that `acted` has."""
        far, own, others = [], [], []
        for seed, (checkpoint, actions) in acted.items():
            cloned = self.cloned(checkpoint, seed)
            far.append(float(np.sqrt(((actions - cloned) ** 2).mean())))
            own.append(self.q(checkpoint, actions))
            others += [self.q(c, actions) for s, c in zip(SEEDS, self.iql) if s != seed]
        means = {k: float(np.mean(v)) for k, v in (("far", far), ("own", own), ("others", others))}
        return {"method": name, "seeds": len(acted), **means, "success": success}


def measured(subject: Subject, table: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows: guided flows at the weights chosen, then trained actors at each value tried."""
    chosen = {row["method"]: row for row in table["rows"]}
    rows = [
        subject.row("bc", f"{chosen['bc']['success']:.2f}", dict(zip(
            SEEDS, zip(subject.iql, subject.flow)))),
    ]  # fmt: skip
    for name in ("qgf", "qgf_jacobian", "ood", "bptt"):
        weight = float(chosen[name]["chosen"].removeprefix("w="))
        acted = {
            s: (c, subject.of_flow(c, name, weight)) for s, c in zip(SEEDS, subject.iql)
        }  # fmt: skip
        rows.append(subject.row(f"{name}, w = {weight:g}", f"{chosen[name]['success']:.2f}", acted))
    for entry in table["spec"]["entries"]:
        for option, values in entry["tried"].items():
            successes = tried(subject.results / f"{entry['name']}.json")
            for value in values:
                label = f"{option}={value:g}"
                best = chosen[entry["name"]]["chosen"] == label
                seeds = SEEDS if best else entry["try_seeds"]
                runs = {s: subject.run(f"{entry['name']}/{label}", s) for s in seeds}
                acted = {s: (c, subject.acted(c)) for s, c in runs.items()}
                success = successes[label]
                if best:
                    success = f"{chosen[entry['name']]['success']:.2f}"
                rows.append(subject.row(f"{entry['name']}, {label}", success, acted))
    return rows


def tried(path: Path) -> dict[str, str]:
    """Success on the selection episodes of each value that was tried, in brackets."""
    return {x["value"]: f"({x['success']:.1f})" for x in json.loads(path.read_text())["tried"]}


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    header = ["method", "seeds", "distance to the cloned flow", "Q of its own critic",
              "Q of other seeds' critics", "success"]  # fmt: skip
    cells = [
        [f"`{r['method']}`", str(r["seeds"]), f"{r['far']:.3f}", f"{r['own']:.1f}",
         f"{r['others']:.1f}", r["success"]]
        for r in rows
    ]  # fmt: skip
    return markdown_table(header, cells) + "\n"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path, help="directory of the sweep, with its runs")
    parser.add_argument(
        "--data",
        type=Path,
        default=CACHE,
        help="of cube-single-play-v0-val.npz (default OGBench's)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = json.loads((args.sweep / "table.json").read_text())
    rows = measured(Subject(args.sweep, args.data.expanduser()), table)
    write_json(args.out / "fig5_actions.json", {"rows": rows, "states": ROWS, **provenance()})
    write_atomically(args.out / "fig5_actions.md", page(rows).encode())
    print(page(rows))
    return 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
