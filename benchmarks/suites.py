"""The suites of `benchmarks/success.py`: what is trained, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qgf_ref.evaluation.methods import DEFAULT_METHODS


@dataclass(frozen=True)
class Suite:
    """Tasks that share a data set, the length of their runs, weights to choose from (their range
    depends on the scale of the rewards), training seeds, further settings; episodes for each run:
    to choose a weight on, and held out; methods; the suite whose runs it takes, if not its own;
    networks for `qgf-ref train-extra`; backend of the sampler; settings of its own that the agent
    has in the evaluation and not in the run (of what guides; the networks are the same).
    """

    name: str
    tasks: tuple[str, ...]
    updates: int
    weights: tuple[float, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: dict[str, Any] = field(default_factory=dict)
    selection_episodes: int = 10
    episodes: int = 25
    methods: tuple[str, ...] = DEFAULT_METHODS
    runs_of: str | None = None
    extra: tuple[str, ...] = ()
    backend: str = "numpy"
    acting: dict[str, Any] = field(default_factory=dict)


GOALS = "cube-single-play-oraclerep-v0"
DQC: dict[str, Any] = {
    "agent": "dqc",
    "expectile": 0.93,
    "agent_settings": {"goal_dim": 3, "backup_horizon": 10, "kappa_d": 0.8},
}
LOGIT_WEIGHTS = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0)

_SUITES = (
    Suite(
        "cube-single",
        tuple(f"cube-single-play-singletask-task{n}-v0" for n in range(1, 6)),
        10_000,
        (0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    # its episodes are long: 750 steps where nothing succeeds
    Suite(
        "scene",
        ("scene-play-singletask-task1-v0",),
        10_000,
        (0.003, 0.01, 0.03, 0.1, 0.3),
        selection_episodes=6,
        episodes=20,
    ),
    Suite(
        "pointmaze",
        ("pointmaze-medium-navigate-singletask-task1-v0",),
        10_000,
        (0.1, 0.3, 1.0, 3.0, 10.0),
    ),
    # three layers of 192, so that it stays under 3 MB
    Suite(
        "embedded",
        ("cube-single-play-singletask-task1-v0",),
        30_000,
        (0.01, 0.03, 0.1, 0.3, 1.0),
        (0,),
        {"hidden": (192, 192, 192)},
        selection_episodes=20,
        episodes=50,
    ),
    Suite(
        "corrections",
        tuple(f"cube-single-play-singletask-task{n}-v0" for n in range(1, 6)),
        10_000,
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        methods=("qgf", "qgf_covariance", "qgf_shifted", "qgf_shifted_taylor"),
        runs_of="cube-single",
        backend="numba",
    ),
    Suite(
        "methods",
        ("cube-single-play-singletask-task1-v0",),
        10_000,
        (0.01, 0.03, 0.1, 0.3, 1.0),
        episodes=40,
        methods=(
            *("bc", "bfn-16", "gradstep", "ood", "robust_q", "cfgrl", "bptt", "qgf_chain"),
            *("qgf_distill", "qgf_jacobian_distill", "qgf", "qgf_jacobian", "qgf_shifted"),
        ),
        runs_of="cube-single",
        extra=("robust_q", "cfgrl", "distill"),
        backend="numba",
    ),
    Suite(
        "goals",
        (GOALS,),
        20_000,
        LOGIT_WEIGHTS,
        settings=DQC,
        methods=("bc", "bfn-16", "ood", "bptt", "qgf_jacobian", "qgf"),
        backend="numba",
    ),
    # the same networks, but what is climbed is a probability (which is not compiled), or the
    # target critic's
    Suite(
        "goals-probability",
        (GOALS,),
        20_000,
        (1.0, 3.0, 10.0, 20.0, 30.0),
        settings=DQC,
        methods=("bc", "qgf"),
        runs_of="goals",
        acting={"guide_output": "probability"},
    ),
    Suite(
        "goals-target",
        (GOALS,),
        20_000,
        LOGIT_WEIGHTS,
        settings=DQC,
        methods=("bc", "qgf"),
        runs_of="goals",
        backend="numba",
        acting={"guide_critic": "target"},
    ),
)
SUITES = {suite.name: suite for suite in _SUITES}
