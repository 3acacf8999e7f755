"""How far guided actions go: from the best-of-N action, and from the data. The paper's Figure 17.

    oracle   ‖a − a*‖, a* the best of N = 64 BC samples for the same observation under the critic
             (the paper's BFN oracle), drawn from noise of its own
    data     distance to the nearest action chunk of the data set, whatever its state
    local    distance to the nearest chunk among those of the 100 nearest states [choice]
    q        the critic's value: what guidance climbs, not what is then earned

Distances are L2 norms of flat chunks (D = H·A normalised coordinates). The data are every H-th
transition whose chunk stays within its episode [choice: a fifth of the windows for H = 5, which no
action shares]; states are compared in units of each feature's standard deviation.
Source: method.md, section 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import Engine
from qgf_ref.data.tasks import task as ogbench_task
from qgf_ref.guidance.queries import critic_value
from qgf_ref.progress import progress
from qgf_ref.sampling import sample
from qgf_ref.studies.base import StudyOutcome, StudySettings, fill
from qgf_ref.studies.ood_distance.data_actions import DataActions, whole_chunks
from qgf_ref.studies.ood_distance.words import BC, BFN, DATA, DRAWS, Distances, Drawn, report
from qgf_ref.studies.shared.trained import (
    common_times,
    dataset_files,
    interval,
    interval_over,
    left_out,
    observations,
    usable_estimators,
)

WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ESTIMATORS = ("ood", "qgf", "qgf_chain", "bptt", "qgf_jacobian", "qgf_shifted", "robust_q")
MEASURES = ("oracle", "data", "local", "q")


def study(settings: StudySettings) -> StudyOutcome:
    """`qgf-ref study ood-distance`. Raises InputError as `observations` and `usable_estimators`,
    and on a data set whose actions are not the checkpoint's.
    """
    common_times(settings)
    names = ("ood", "qgf", "bptt") if settings.quick else ESTIMATORS
    estimators, without = usable_estimators(settings, names)
    weights = WEIGHTS[1::2] if settings.quick else WEIGHTS
    rows = 48 if settings.quick else 128
    task = ogbench_task(settings.task or "")
    distances: dict[Drawn, list[dict[str, Array]]] = {}
    counts, observed = [], []
    total = len(settings.checkpoints) * (2 + len(estimators) * len(weights))
    with progress(total, "cell") as job:
        for c, checkpoint in enumerate(settings.checkpoints):
            job.say("reading the data")
            files = dataset_files(settings, c)
            parts = [whole_chunks(path, task, checkpoint) for path in files.train]
            chunks_of, states_of = (np.concatenate(each) for each in zip(*parts, strict=True))
            data = DataActions(chunks_of, states_of)
            measure = _Measure(checkpoint, observations(settings, c, rows), data, settings)
            counts.append(len(data.chunks))
            observed.append(len(measure.obs))
            job.advance()
            cells: list[tuple[Drawn, Any, int]] = [((BC, None), "none", 1)]
            cells.append(((BFN, None), "none", DRAWS))
            cells += [((e.label, w), e, 1) for e in estimators for w in weights]
            for (name, weight), guide, best_of in cells:
                job.say(f"{name} w={weight or 0:g}")
                actions = measure.draw(guide, weight, best_of)
                distances.setdefault((name, weight), []).append(measure(actions))
                job.advance(weight is not None)
            if files.validation is not None:
                chunks, states = whole_chunks(files.validation, task, checkpoint)
                some = np.random.default_rng((settings.seed, 33)).permutation(len(chunks))[:rows]
                near = data.neighbours(states[some])
                reference = {
                    "data": data.distance(chunks[some]),
                    "local": data.local_distance(chunks[some], near),
                }
                distances.setdefault((DATA, None), []).append(reference)
            job.advance()
    table = _table(distances)
    over = interval_over(settings)
    head = (
        f"{settings.task}: {observed[0]} observations, {counts[0]} chunks of data; oracle: best of "
        f"{DRAWS} BC samples; {over}."
    )
    guided = [e.label for e in estimators]
    return StudyOutcome(
        "\n".join([fill(head), *left_out(without), "", report(table, distances, guided, weights)]),
        {"": table},
        {
            "weights": list(weights),
            "observations": observed,
            "chunks": counts,
            "intervals": over,
            "without": without,
        },
    )


class _Measure:
    """Actions of one checkpoint on its observations, and their distances."""

    def __init__(
        self, checkpoint: Checkpoint, obs: Array, data: DataActions, settings: StudySettings
    ) -> None:
        self.flow, self.obs, self.data = checkpoint.flow, obs, data
        self.seed, self.engine = settings.seed, Engine.of(settings.backend or "numpy")
        self.neighbours = data.neighbours(obs)
        rng = np.random.default_rng((self.seed, 32))
        self.oracle = sample(
            self.flow, obs, estimator="none", best_of=DRAWS, rng=rng, backend=self.engine
        )

    def draw(self, estimator: Any, weight: float | None, best_of: int) -> Array:
        """Actions (B, D); every estimator and weight starts from the same noise."""
        rng = np.random.default_rng((self.seed, 31))
        return sample(
            self.flow, self.obs, estimator=estimator, weight=weight, best_of=best_of, rng=rng,
            backend=self.engine,
        )  # fmt: skip

    def __call__(self, actions: Array) -> dict[str, Array]:
        """Every measure (B,) of actions (B, D)."""
        return {
            "oracle": np.linalg.norm(actions - self.oracle, axis=1),
            "data": self.data.distance(actions),
            "local": self.data.local_distance(actions, self.neighbours),
            "q": critic_value(self.flow, self.obs, actions),
        }


def _table(distances: Distances) -> list[dict[str, Any]]:
    return [
        {"estimator": name, "weight": weight, "measure": measure}
        | interval([m[measure] for m in by_checkpoint])._asdict()
        for (name, weight), by_checkpoint in distances.items()
        for measure in MEASURES
        if measure in by_checkpoint[0]
    ]
