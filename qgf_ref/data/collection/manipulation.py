"""Episodes of cube, puzzle and scene: the oracles work on one random target after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.data.collection.recipe import MIN_NORM, NOISE_SMOOTHING, CollectionRecipe

NOISE_SCALES = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""Of the Markov oracle's action noise: x, y, z, yaw, gripper."""

Record = Callable[[Array, Array, bool, dict[str, Any]], None]


def run_episode(env: Any, recipe: CollectionRecipe, env_seed: int, record: Record) -> None:
    """Run one episode in `env`, with NumPy's global generator as it is; `record` each step."""
    obs, info = env.reset(seed=env_seed)
    agents = _oracles(env, recipe)
    p_stack = np.random.uniform(*recipe.p_stack)  # noqa: NPY002
    noise = recipe.noise * np.random.uniform() * NOISE_SCALES  # noqa: NPY002
    agent = agents[info["privileged/target_task"]]
    agent.reset(obs, info)
    done = False
    while not done:
        action = _action(agent, recipe, noise, obs, info)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        record(obs, action, done, info)
        obs = next_obs
        if agent.done:
            target_obs, target_info = env.unwrapped.set_new_target(p_stack=p_stack)
            agent = agents[target_info["privileged/target_task"]]
            agent.reset(target_obs, target_info)
            # OGBench's script keeps all of the step's info, so that its Markov oracles act once
            # more on the old target, which in scene can be one of the episode before
            info |= {k: v for k, v in target_info.items() if k.startswith("privileged/target_")}


def is_healthy(env: Any, recipe: CollectionRecipe, qpos: Array) -> bool:
    """Whether the cube of a scene episode, qpos (n, nq), stayed where a camera would see it or
    in the drawer; True in other environments. In metres; OGBench's bounds.
    """
    if recipe.family != "scene":
        return True
    start = int(env.unwrapped.model.joint("object_joint_0").qposadr[0])
    y, z = qpos[:, start + 1], qpos[:, start + 2]
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not bool(np.any(y >= 0.29) or np.any((y <= -0.3) & ~in_drawer))


def _action(
    agent: Any, recipe: CollectionRecipe, noise: Array, obs: Array, info: dict[str, Any]
) -> Array:
    if np.random.uniform() < recipe.p_random_action:  # noqa: NPY002
        # not env.action_space.sample(): that space is a new one, seeded at random, at each access
        return np.random.uniform(-1, 1, size=NOISE_SCALES.shape)  # noqa: NPY002
    action = np.asarray(agent.select_action(obs, info))
    if recipe.kind == "noisy":
        action = action + np.random.normal(0, noise)  # noqa: NPY002
    return np.clip(action, -1, 1)


def _oracles(env: Any, recipe: CollectionRecipe) -> dict[str, Any]:
    """OGBench's oracle for each kind of target that `recipe`'s environment sets."""
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    plan = {
        "cube": CubePlanOracle,
        "button": ButtonPlanOracle,
        "drawer": DrawerPlanOracle,
        "window": WindowPlanOracle,
    }
    markov = {
        "cube": CubeMarkovOracle,
        "button": ButtonMarkovOracle,
        "drawer": DrawerMarkovOracle,
        "window": WindowMarkovOracle,
    }
    options: dict[str, Any]
    if recipe.kind == "play":
        classes, options = plan, {"noise": recipe.noise, "noise_smoothing": NOISE_SMOOTHING}
    else:
        classes, options = markov, {"min_norm": MIN_NORM}
    targets = {"cube": ("cube",), "puzzle": ("button",), "scene": tuple(classes)}
    agents = {name: classes[name](env=env, **options) for name in targets[recipe.family]}
    if recipe.family == "puzzle":
        agents["button"] = classes["button"](env=env, gripper_always_closed=True, **options)
    return agents
