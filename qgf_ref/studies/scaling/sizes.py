"""What the study `scaling` trains: networks of every size for two agents, as one sweep's spec.

`iql` trains its flow by cloning alone and is guided at test time (`qgf`); `edp` trains the same
flow with the critic's gradient. Every size has its own guidance weight and its own weight of
cloning, chosen on selection episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ref.sweeps.entry import SpecEntry
from qgf_ref.sweeps.spec import SweepSpec

TASK = "cube-single-play-singletask-task1-v0"
GUIDED, TRAINED = "iql", "edp"
"""The agent of the test-time method, and the train-time method."""


@dataclass(frozen=True)
class NetworkSize:
    """Hidden layers of every network: depth × width."""

    depth: int
    width: int

    def __str__(self) -> str:
        return f"{self.depth}×{self.width}"

    def entry(self, agent: str) -> str:
        """What directories call an agent of this size: "edp_3x256"."""
        return f"{agent}_{self.depth}x{self.width}"


@dataclass(frozen=True)
class ScalingGrid:
    """What is trained and played.

    ladders            by name: sizes of which one thing grows, smallest first
    seeds              how many training seeds
    updates            of each run; log_every: between two rows of losses
    weights            of guidance, to choose from
    bc_weights         of EDP's cloning, to choose from, on the first training seed
    selection, held_out  episodes of each seed, to choose on and to report
    timing_rounds      of one update of every size in turn
    """

    ladders: dict[str, tuple[NetworkSize, ...]]
    seeds: int = 3
    updates: int = 10_000
    log_every: int = 1000
    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    bc_weights: tuple[float, ...] = (30.0, 100.0, 300.0)
    selection: int = 10
    held_out: int = 25
    timing_rounds: int = 10

    @property
    def sizes(self) -> tuple[NetworkSize, ...]:
        """All sizes, each once."""
        return tuple(dict.fromkeys(s for ladder in self.ladders.values() for s in ladder))

    def spec(self, task: str, seed: int) -> SweepSpec:
        """The sweep of every size and agent on `task`, whose first training seed is `seed`.

        Raises InputError as `SweepSpec`, on a task that is none, say.
        """
        entries = [entry for size in self.sizes for entry in self._entries(size, seed)]
        return SweepSpec(
            (task,),
            tuple(range(seed, seed + self.seeds)),
            tuple(entries),
            {"updates": self.updates, "log_every": self.log_every},
            {
                "weights": self.weights, "selection_episodes": self.selection,
                "episodes": self.held_out, "seed": seed, "backend": "numba",
            },
        )  # fmt: skip

    def _entries(self, size: NetworkSize, seed: int) -> tuple[SpecEntry, SpecEntry]:
        train = {"hidden": (size.width,) * size.depth}
        return (
            SpecEntry(size.entry(GUIDED), GUIDED, train, methods=("bc", "qgf")),
            SpecEntry(
                size.entry(TRAINED), TRAINED, train, tried={"bc_weight": self.bc_weights},
                try_seeds=(seed,), methods=("bc",),
            ),
        )  # fmt: skip


def _sizes(*pairs: tuple[int, int]) -> tuple[NetworkSize, ...]:
    return tuple(NetworkSize(depth, width) for depth, width in pairs)


GRID = ScalingGrid(
    {
        "width": _sizes((3, 32), (3, 256)),
        "depth": _sizes((1, 256), (3, 256)),
    }
)
QUICK = ScalingGrid(
    {"width": _sizes((2, 8), (2, 32))},
    seeds=2, updates=200, log_every=50, weights=(0.1,), bc_weights=(100.0,), selection=1,
    held_out=2, timing_rounds=2,
)  # fmt: skip
