"""Which data sets can be collected, and the numbers of OGBench's recipe for each.

Source: OGBench's data_gen_scripts (generate_manipspace.py, generate_locomaze.py and the commands
listed beside them), restated here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from qgf_ref.data.tasks import dataset_env, make_env
from qgf_ref.errors import InputError

VERSION = 1
"""Raised whenever a change makes the same seed give other episodes."""
SIMULATION_PACKAGES = ("gymnasium", "mujoco", "ogbench")

NOISE_SMOOTHING = 0.5
MIN_NORM = 0.4
_P_STACK = {
    "cube-single": (0.0, 0.0),
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
    "cube-octuple": (0.0, 0.35),
}
_KINDS: dict[str, tuple[str, ...]] = {
    "cube": ("play", "noisy"),
    "puzzle": ("play", "noisy"),
    "scene": ("play", "noisy"),
    "pointmaze": ("navigate",),
}
_ANY_OTHER_P_STACK = (0.5, 0.5)


@dataclass(frozen=True)
class CollectionRecipe:
    """How one data set is made.

    dataset          e.g. cube-single-play-v0
    env_id           Gymnasium id of the environment, e.g. cube-single-v0
    kind             play (plan oracle), noisy (Markov oracle) or navigate (maze)
    episode_steps    transitions of every episode
    noise            play: standard deviation of the plan's noise, in units of the action range;
                     noisy: upper end of the uniform law of an episode's noise level;
                     navigate: standard deviation of the action noise
    p_random_action  probability that an action is uniform on [−1, 1] instead of the oracle's
    p_stack          ends of the uniform law from which an episode draws the probability that a
                     new target is on top of another cube
    """

    dataset: str
    env_id: str
    kind: str
    episode_steps: int
    noise: float
    p_random_action: float
    p_stack: tuple[float, float]

    @property
    def family(self) -> str:
        """cube, puzzle, scene or pointmaze."""
        return self.env_id.split("-")[0]

    def make_env(self) -> Any:
        """The environment, in the mode in which it draws targets of its own."""
        options: dict[str, Any] = {} if self.kind == "navigate" else {"mode": "data_collection"}
        return make_env(
            self.env_id, terminate_at_goal=False, max_episode_steps=self.episode_steps, **options
        )

    def configuration(self) -> dict[str, Any]:
        """All that an episode depends on besides its seed, for JSON."""
        return {
            **asdict(self),
            "p_stack": list(self.p_stack),
            "recipe_version": VERSION,
            "versions": {name: version(name) for name in SIMULATION_PACKAGES},
        }


def recipe(dataset: str, episode_steps: int | None = None) -> CollectionRecipe:
    """OGBench's recipe of `dataset`; `episode_steps` None: OGBench's, 1001 or (giant maze) 2001.

    Raises InputError for an unknown name, for a data set that no scripted oracle makes, and for
    episodes of less than 2 transitions (the last one of each is dropped at loading).
    """
    env_id, kind = dataset_env(dataset)
    family = env_id.split("-")[0]
    if kind not in _KINDS.get(family, ()):
        raise InputError(
            f"cannot collect {dataset!r}: OGBench has scripted oracles for cube-*, puzzle-* and "
            "scene with play or noisy, and for pointmaze-* with navigate; "
            "the other data sets need trained agents or another script"
        )
    steps = 2001 if "giant" in env_id else 1001
    steps = steps if episode_steps is None else episode_steps
    if steps < 2:
        raise InputError(f"an episode needs at least 2 steps, got {steps}")
    p_random = {"play": 0.0, "noisy": 0.2 if family == "puzzle" else 0.1, "navigate": 0.0}
    return CollectionRecipe(
        dataset=dataset,
        env_id=env_id,
        kind=kind,
        episode_steps=steps,
        noise=0.5 if family == "pointmaze" else 0.1,
        p_random_action=p_random[kind],
        p_stack=_P_STACK.get(env_id.rsplit("-", 1)[0], _ANY_OTHER_P_STACK),
    )
