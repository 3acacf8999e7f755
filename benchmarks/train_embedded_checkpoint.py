"""Train the checkpoint that ships inside the package, with this package's own losses.

    python benchmarks/train_embedded_checkpoint.py --data ../shared/data

writes qgf_ref/assets/cube-single-play.safetensors, cube-single-play-observations.npz (256 real
observations of the validation episodes) and benchmarks/results/embedded_checkpoint.json (every
setting, the losses, versions and commit).

Task: OGBench cube-single-play-singletask-task1-v0, chunks of 5 actions, float32.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import ogbench
from ogbench.relabel_utils import relabel_dataset
from ogbench.utils import load_dataset
from tqdm import tqdm

from qgf_ref.data.windows import ACTION_CLIP_EPS, Transitions, sample_starts, windows
from qgf_ref.files import write_json, write_npz
from qgf_ref.flow.path import sample_times
from qgf_ref.interop.checkpoint import Checkpoint, Options
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.losses.update import TrainState, update
from qgf_ref.nets.initialisers import init_value, init_velocity
from qgf_ref.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "qgf_ref" / "assets"
ENV = "cube-single-play-singletask-task1-v0"
OPTIONS = Options(
    activation="gelu",
    q_aggregation="min",
    denoise_steps=10,
    horizon_length=5,
    action_chunking=True,
    discount=0.99,
    expectile=0.9,
)


def load_transitions(path: Path) -> Transitions:
    """The data set at `path` with the single task's rewards and masks, actions clipped."""
    env = ogbench.make_env_and_datasets(ENV, env_only=True)
    data = load_dataset(path, add_info=True)
    relabel_dataset(ENV, env, data)
    bound = 1 - ACTION_CLIP_EPS
    return Transitions(
        observations=data["observations"],
        next_observations=data["next_observations"],
        actions=np.clip(data["actions"], -bound, bound),
        rewards=data["rewards"],
        masks=data["masks"],
        terminals=data["terminals"],
    )


def initial_checkpoint(rng: np.random.Generator, obs: int, action: int, width: int) -> Checkpoint:
    """Fresh networks of three hidden layers, the target critic a copy of the critic."""
    hidden = (width,) * 3
    critic = init_value(rng, obs + action, hidden, ensemble=2)
    return Checkpoint(
        OPTIONS,
        policy=init_velocity(rng, obs, action, hidden),
        critic=critic,
        target_critic=critic,
        value=init_value(rng, obs, hidden),
    )


def main() -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--updates", type=int, default=30_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()

    origin = provenance()  # of the code that runs, whatever happens to the files meanwhile
    rng = np.random.default_rng(args.seed)
    train = load_transitions(args.data / "cube-single-play-v0.npz")
    H = OPTIONS.horizon_length
    D = train.actions.shape[1] * H
    checkpoint = initial_checkpoint(rng, train.observations.shape[1], D, args.width)
    state = TrainState.create(checkpoint.networks(embedding="float32"))
    hyper = checkpoint.hyperparameters()
    log: list[dict[str, float]] = []
    sums = np.zeros(3)
    every = 1000
    started = time.perf_counter()
    with tqdm(total=args.updates, unit="update", smoothing=0.05) as bar:
        for n in range(1, args.updates + 1):
            starts = sample_starts(rng, train, args.batch, H)
            batch = windows(train, starts, H, hyper.discount).astype(np.float32)
            x0 = rng.standard_normal(batch.action.shape).astype(np.float32)
            t = sample_times(rng, args.batch, OPTIONS.denoise_steps).astype(np.float32)
            state, losses = update(state, batch, x0, t, hyper)
            sums += losses.policy, losses.critic, losses.value
            bar.update()
            if n % every == 0:
                policy, critic, value = (float(x) for x in sums / every)
                log.append({"update": n, "policy": policy, "critic": critic, "value": value})
                bar.set_postfix(
                    policy=f"{policy:.4f}", critic=f"{critic:.3f}", value=f"{value:.4f}"
                )
                sums[:] = 0
    seconds = time.perf_counter() - started

    nets = state.networks
    trained = Checkpoint(
        OPTIONS,
        nets.policy.params,
        nets.critic.params,
        nets.target_critic.params,
        nets.value.params,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(trained, args.out / "cube-single-play.safetensors")
    validation = load_transitions(args.data / "cube-single-play-v0-val.npz")
    rows = np.sort(rng.choice(len(validation), size=256, replace=False))
    obs = validation.observations[rows]
    write_npz(args.out / "cube-single-play-observations.npz", {"obs": obs})
    results: dict[str, Any] = {
        "command": f"python benchmarks/train_embedded_checkpoint.py --updates {args.updates}"
        f" --batch {args.batch} --width {args.width} --seed {args.seed}",
        "env": ENV,
        "seconds": round(seconds, 1),
        "updates_per_second": round(args.updates / seconds, 1),
        "checkpoint": trained.describe(),
        "losses": log,
        **origin,
    }
    write_json(ROOT / "benchmarks" / "results" / "embedded_checkpoint.json", results)
    print(f"saved to {args.out}; last losses: {json.dumps(log[-1:])}")


if __name__ == "__main__":
    main()
