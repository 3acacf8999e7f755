"""Does guidance work on the checkpoint inside the package? Roll it out in OGBench.

    python benchmarks/evaluate_embedded_checkpoint.py

runs behaviour cloning, QGF over guidance weights and best-of-8 on the same initial states of
cube-single-play-singletask-task1-v0 and writes benchmarks/results/embedded_evaluation.json:
success rates with 95% Wilson intervals. Chunks of 5 actions are executed open loop. Episode i is
reset with seed i and its noise drawn from seed i, so every method starts from the same states.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ogbench
from scipy.stats import binomtest
from tqdm import tqdm

from qgf_ref import load, sample
from qgf_ref.files import write_json
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ENV = "cube-single-play-singletask-task1-v0"
METHODS: dict[str, dict[str, Any]] = {
    "BC": {"estimator": "none"},
    **{f"QGF w={w}": {"estimator": "qgf", "weight": w} for w in (0.01, 0.03, 0.1, 0.3, 1.0)},
    "BFN-8": {"estimator": "none", "best_of": 8},
}


def success(env: Any, flow: GuidedFlow, action_dim: int, seed: int, how: dict[str, Any]) -> bool:
    """Whether one episode, reset with `seed`, ends in success."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    while True:
        chunk = sample(flow, obs.astype(np.float32), rng=rng, **how).reshape(-1, action_dim)
        for action in chunk:
            obs, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                return bool(info["success"])


def main() -> None:
    """Parse the command line, roll out, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", default="cube-single-play")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "embedded_evaluation.json"
    )
    args = parser.parse_args()
    origin = provenance()
    checkpoint = load(args.checkpoint, dtype="float32")
    env = ogbench.make_env_and_datasets(ENV, env_only=True)
    rows = []
    with tqdm(total=len(METHODS) * args.episodes, unit="episode") as bar:
        for name, how in METHODS.items():
            wins = 0
            for seed in range(args.episodes):
                wins += success(env, checkpoint.flow, checkpoint.action_dim, seed, how)
                bar.update()
                bar.set_postfix_str(f"{name}: {wins}/{seed + 1}")
            low, high = binomtest(wins, args.episodes).proportion_ci(method="wilson")
            rate = wins / args.episodes
            rows.append({"method": name, "success": rate, "low": float(low), "high": float(high)})
            bar.write(f"{name:12} {rate:.2f}  [{low:.2f}, {high:.2f}]")
    settings = {"env": ENV, "episodes": args.episodes, "checkpoint": checkpoint.describe()}
    write_json(args.out, {**settings, "rows": rows, **origin})


if __name__ == "__main__":
    main()
