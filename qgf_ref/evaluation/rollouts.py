"""Rollouts: chunks executed open loop in several environments at a time.

A group of episodes is the unit of work. Its result depends on its seeds and on nothing else: not
on which process plays it, nor on what that process played before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import Engine, EngineLike
from qgf_ref.data.tasks import seeded_reset
from qgf_ref.errors import InputError
from qgf_ref.evaluation.goals import Goals
from qgf_ref.evaluation.methods import Method


class TaskLike(Protocol):
    """What an evaluation needs of a task: `qgf_ref.data.tasks.Task` has it."""

    @property
    def name(self) -> str:
        """The task's name."""

    def make_env(self, **options: Any) -> Any:
        """A new Gymnasium environment with a time limit and info['success']; render_mode is
        the only option that is passed.
        """


@dataclass(frozen=True)
class Episode:
    """What one episode gave.

    success, total_reward (undiscounted), length in environment steps; terminated: False when the
    time limit cut it. For each executed chunk: `steps`, the time step it began at; `q`, the
    aggregated target critic of it; `realised`, the discounted return that really followed, to the
    end of the episode and, after a cut, as if the last reward went on forever (None where γ = 1
    leaves that undefined); `observed`, the same without anything after the cut.
    """

    seed: int
    success: bool
    total_reward: float
    length: int
    terminated: bool
    steps: tuple[int, ...]
    q: tuple[float, ...]
    realised: tuple[float | None, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True)
class Played:
    """Episodes of one group, and the seconds spent in the sampler and in the environments."""

    episodes: tuple[Episode, ...]
    sampling_seconds: float = field(default=0.0, compare=False)
    stepping_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Policy:
    """A checkpoint together with the method, weight and engine that draw actions from it.

    discount  γ of the returns that Q is compared with
    """

    checkpoint: Checkpoint
    method: Method
    weight: float | None
    discount: float
    engine: Engine = field(default_factory=Engine.of)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        method: Method,
        weight: float | None,
        engine: EngineLike = "numpy",
    ) -> Policy:
        """The policy of this checkpoint. Raises InputError when its discount is not known."""
        discount = checkpoint.recipe_option("discount", "an evaluation, to compare Q with returns,")
        return cls(checkpoint, method, weight, discount, Engine.of(engine))

    def act(self, obs: Array, noise: Array) -> tuple[Array, Array]:
        """Chunks (B, D) for obs (B, O) from noise (B·best_of, D), and their critic values (B,)."""
        agent = self.checkpoint.agent
        how = self.method.acting(self.weight, self.engine)
        chunks = agent.act(self.checkpoint, obs, noise, how)
        return chunks, agent.q(self.checkpoint, obs, chunks)


@dataclass
class _Running:
    """One environment's episode as it goes."""

    env: Any
    seed: int
    obs: Array
    done: bool = False
    terminated: bool = False
    success: bool = False
    rewards: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    q: list[float] = field(default_factory=list)

    def execute(self, chunk: Array, q: float) -> None:
        self.steps.append(len(self.rewards))
        self.q.append(q)
        for action in chunk:
            obs, reward, terminated, truncated, info = self.env.step(action)
            self.rewards.append(float(reward))
            if terminated or truncated:
                if "success" not in info:
                    raise InputError("the environment's info lacks 'success' at an episode's end")
                self.success = bool(info["success"])
                self.terminated = bool(terminated)
                self.done = True
                return
        self.obs = np.asarray(obs)

    def episode(self, discount: float, late: float) -> Episode:
        observed = discounted_returns(self.rewards, discount)
        if self.terminated:
            realised: Sequence[float | None] = observed
        elif discount < 1:
            tail = self.rewards[-1] / (1 - discount)
            realised = discounted_returns(self.rewards, discount, tail)
        else:
            realised = [None] * len(observed)
        return Episode(
            seed=self.seed,
            success=self.success,
            total_reward=sum(self.rewards),
            length=len(self.rewards),
            terminated=self.terminated,
            steps=tuple(self.steps),
            q=tuple(self.q),
            realised=tuple(None if (g := realised[t]) is None else late * g for t in self.steps),
            observed=tuple(late * observed[t] for t in self.steps),
        )


def discounted_returns(rewards: Sequence[float], discount: float, tail: float = 0.0) -> list[float]:
    """Σ_i γⁱ r_{t+i} + γⁿ·tail for every t, where n = len(rewards) − t."""
    returns = []
    following = tail
    for reward in reversed(rewards):
        following = reward + discount * following
        returns.append(following)
    return returns[::-1]


def episode_noise(seed: int, chunk: int, best_of: int, width: int) -> Array:
    """a_0 (best_of, D) of one chunk of one episode.

    From a generator of its own, so that every method starts each chunk of an episode from the same
    noise, and the first candidate of best-of-N is the one that N = 1 would draw.
    """
    return np.random.default_rng([seed, 1, chunk]).standard_normal((best_of, width))


def play(envs: Sequence[Any], policy: Policy, seeds: Sequence[int]) -> Played:
    """One episode for each seed, all at once, each in its own environment of `envs`.

    Chunks are drawn for all running episodes at once, executed open loop and cut where an episode
    ends. success = info['success'] of the last step. Source: official.md, section 8.
    Raises InputError when there are more seeds than environments, NonFiniteError as `sample`.
    """
    if len(seeds) > len(envs):
        raise InputError(f"{len(seeds)} episodes at a time need as many environments: {len(envs)}")
    sampling = 0.0
    start = perf_counter()
    episodes = [_Running(env, s, seeded_reset(env, s)) for env, s in zip(envs, seeds)]
    running = episodes
    width, action_dim = policy.checkpoint.flat_action_dim, policy.checkpoint.action_dim
    chunk = 0
    while running:
        before = perf_counter()
        noise = [episode_noise(e.seed, chunk, policy.method.best_of, width) for e in running]
        chunks, q = policy.act(np.stack([e.obs for e in running]), np.concatenate(noise))
        sampling += perf_counter() - before
        for e, actions, value in zip(running, chunks, q, strict=True):
            e.execute(actions.reshape(-1, action_dim), float(value))
        running = [e for e in running if not e.done]
        chunk += 1
    # of a goal, the reward is of the state that a step arrives at, and Q of the one that it leaves
    late = policy.discount if policy.checkpoint.agent.of_goals else 1.0
    played = tuple(e.episode(policy.discount, late) for e in episodes)
    return Played(played, sampling, perf_counter() - start - sampling)


class Simulator:
    """`count` environments of a task, made when first needed and kept from group to group."""

    def __init__(self, task: TaskLike, count: int) -> None:
        if count < 1:
            raise InputError(f"the number of environments must be ≥ 1, got {count}")
        self.task = task
        self.count = count
        self._envs: list[Any] = []

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(self, policy: Policy, seeds: Sequence[int]) -> Played:
        """`play` in as many of the environments as there are seeds."""
        while len(self._envs) < min(len(seeds), self.count):
            self._envs.append(self.task.make_env())
        return play(self._envs, policy, seeds)

    def require_fit(self, checkpoint: Checkpoint) -> None:
        """Raise InputError unless the checkpoint's widths are those of the task."""
        if checkpoint.agent.of_goals != isinstance(self.task, Goals):
            kinds = {True: "goals", False: "a single task"}
            raise InputError(
                f"{checkpoint.source} (agent {checkpoint.agent.name}) was trained on "
                f"{kinds[checkpoint.agent.of_goals]}, and {self.task.name} is of "
                f"{kinds[not checkpoint.agent.of_goals]}"
            )
        if not self._envs:
            self._envs.append(self.task.make_env())
        env = self._envs[0]
        obs, action = (s.shape for s in (env.observation_space, env.action_space))
        if (obs, action) != ((checkpoint.obs_dim,), (checkpoint.action_dim,)):
            raise InputError(
                f"{checkpoint.source} takes observations of {checkpoint.obs_dim} and gives actions "
                f"of {checkpoint.action_dim}, but {self.task.name} has observations of shape {obs} "
                f"and actions of shape {action}: is it another task's checkpoint, or its "
                "horizon_length wrong?"
            )

    def close(self) -> None:
        """Close the environments."""
        while self._envs:
            self._envs.pop().close()
