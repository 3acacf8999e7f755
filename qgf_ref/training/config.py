"""The configuration of a training run: one dataclass, from which flags and JSON are made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.options import Options
from qgf_ref.agents.registry import agent_named, agent_of_file, agent_with
from qgf_ref.agents.settings import coerced, kinds_of
from qgf_ref.agents.settings import setting as _setting
from qgf_ref.backends.engine import backend_named, require_backend
from qgf_ref.data.datasets import Masks
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.losses.batch import FlowTimes, Hyperparameters
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.ensemble import WRITTEN
from qgf_ref.ops.kernels import Kernels
from qgf_ref.threads import VARIABLE, thread_count


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run. Raises InputError on a value out of range.

    The field's `help` texts are those of the command line. Defaults are the preset `small`.
    """

    task: str = _setting("", "OGBench task, e.g. cube-single-play-singletask-task1-v0")
    data: str | None = _setting(None, "npz file or directory (default: OGBench's cache, download)")
    seed: int = _setting(0, "of the initial parameters, batches and noise")
    updates: int = _setting(30_000, "length of the run")
    batch: int = _setting(256, "rows of a training batch")
    hidden: tuple[int, ...] = _setting((256, 256, 256), "hidden layers of all networks")
    ensemble: int = _setting(2, "members of the critic")
    activation: str = _setting("gelu", f"of all networks: {', '.join(ACTIVATIONS)}")
    q_aggregation: str = _setting("min", f"over the critic's members: {', '.join(WRITTEN)}")
    denoise_steps: int = _setting(10, "T, Euler steps of the sampler")
    flow_times: FlowTimes = _setting("grid", "training times: {0, 1/T, …, 1} or U[0, 1]")
    horizon_length: int = _setting(5, "H, actions in a chunk")
    discount: float = _setting(0.99, "γ")
    expectile: float = _setting(0.9, "τ of the value's expectile regression")
    tau: float = _setting(0.005, "step of the target critic's moving average")
    learning_rate: float = _setting(3e-4, "of the three Adam optimisers")
    masks: Masks = _setting(
        "relabelled", "official-100m: the official 100M loader's overwritten masks"
    )
    action_clip_eps: float = _setting(1e-5, "data actions are clipped to ±(1 − eps)")
    slice_steps: int = _setting(1000, "updates between slices, if --data is a directory of them")
    log_every: int = _setting(1000, "updates between rows of metrics.csv")
    checkpoint_every: int = _setting(5000, "updates between saved states")
    evaluate_every: int = _setting(0, "updates between evaluations in the environment; 0: never")
    evaluate_episodes: int = _setting(10, "episodes of such an evaluation")
    evaluate_weight: float = _setting(0.03, "guidance weight of such an evaluation (qgf)")
    backend: str = _setting(
        "numba",
        "numba: compiled kernels; numpy: the reference; cupy: a GPU; cupy:tf32: that in TF32. They "
        "round differently",
    )
    threads: int | None = _setting(
        None,
        "default: QGF_REF_THREADS, else all cores (numba) or 1 (numpy, whose bits depend on it)",
    )
    agent: str = _setting("iql", "what is trained: a name, or your own package.module:AGENT")
    agent_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "the agent's own, by name (each has a flag)"}
    )

    def __post_init__(self) -> None:
        kinds = kinds_of(TrainConfig)
        for setting in fields(self):
            value = coerced(setting.name, getattr(self, setting.name), kinds[setting.name])
            object.__setattr__(self, setting.name, value)
        least = {
            "seed": 0, "updates": 0, "batch": 1, "ensemble": 1, "slice_steps": 1, "log_every": 1,
            "checkpoint_every": 1, "evaluate_every": 0, "evaluate_episodes": 1,
        }  # fmt: skip
        require_backend(self.backend)
        if self.threads is not None:
            thread_count(self.threads)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden must be one or more widths ≥ 1, got {self.hidden}")
        for name in ("tau", "discount", "expectile"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "evaluate_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be ≥ 0, got {getattr(self, name)}")
        if not 0 <= self.action_clip_eps < 1:
            raise InputError(f"action_clip_eps must lie in [0, 1), got {self.action_clip_eps}")
        if self.evaluate_every % self.log_every:
            raise InputError(
                f"evaluate_every must be a multiple of log_every ({self.log_every}), got "
                f"{self.evaluate_every}"
            )
        self.options()
        # in files an agent has a name; where it comes from says only the command
        agent = self.trained_agent()
        object.__setattr__(self, "agent", agent.name)
        object.__setattr__(self, "agent_settings", agent.stated)

    def trained_agent(self) -> Agent:
        """The agent, with its own settings. Raises InputError as `agent_with`."""
        return agent_with(self.agent, self.agent_settings)

    def with_threads(self) -> TrainConfig:
        """The same with a number of threads: the given one, or this machine's default.

        numpy's default is 1 unless QGF_REF_THREADS says otherwise, since BLAS rounds differently
        with other numbers of threads.
        """
        if self.threads is not None:
            return self
        alone = not backend_named(self.backend).threaded and not os.environ.get(VARIABLE)
        return replace(self, threads=1 if alone else thread_count())

    def kernels(self) -> Kernels:
        """The backend's kernels, compiled for float32."""
        return backend_named(self.backend).kernels(np.float32)

    def options(self) -> Options:
        """What the checkpoint will carry."""
        return Options(
            activation=self.activation,
            q_aggregation=self.q_aggregation,
            denoise_steps=self.denoise_steps,
            horizon_length=self.horizon_length,
            action_chunking=True,
            discount=self.discount,
            expectile=self.expectile,
        )

    def hyperparameters(self) -> Hyperparameters:
        """What an update needs."""
        return Hyperparameters(
            discount=self.discount,
            horizon=self.horizon_length,
            expectile=self.expectile,
            tau=self.tau,
            learning_rate=self.learning_rate,
            denoise_steps=self.denoise_steps,
            flow_times=self.flow_times,
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        settings = {**asdict(self), "hidden": list(self.hidden)}
        if self.agent == "iql":  # as in the files of versions that had no other
            del settings["agent"], settings["agent_settings"]
        return settings

    @classmethod
    def from_json(cls, values: Any, source: str) -> TrainConfig:
        """From a JSON object; absent settings take their defaults.

        Raises InputError on a setting that does not exist or has the wrong type.
        """
        if not isinstance(values, dict):
            raise InputError(f"{source} must be a JSON object of settings")
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown_name(f"setting in {source}", name, known)
        if isinstance(name := values.get("agent"), str):
            agent_of_file(name, source)
        return cls(**values)


PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "paper": {
        "updates": 500_000,
        "batch": 1024,
        "hidden": (1024, 1024, 1024, 1024),
        "discount": 0.999,
        "checkpoint_every": 2000,
    },
}
"""Settings that differ from the defaults. paper: the table of method.md, section 1."""


def preset(
    name: str, agent: str = "iql", task: str = "", own: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of a preset for an agent, its task still empty.

    task  decides the paper's settings of the agent itself, which it states for some domains
    own   the agent's own settings, which come before the preset's
    Raises InputError on a preset that is none, and where the paper says nothing of the task.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    changes, own = dict(PRESETS[name]), dict(own or {})
    official = dict(agent_named(agent).official)
    if name == "paper" and agent_named(agent).of_goals:
        raise InputError(f"the paper does not say how its runs of {agent} were set: no such preset")
    if name == "paper" and official:
        changes |= official.pop("")
        domain = next((d for d in official if task.startswith(f"{d}-")), None)
        lacking = {setting for each in official.values() for setting in each} - set(own)
        if domain is None and lacking:
            stated = "; ".join(f"{d}: {_flags(each)}" for d, each in official.items())
            raise InputError(
                f"the paper has no {' and no '.join(sorted(lacking))} of {agent} for this task "
                f"({stated}): give your own, or another --preset"
            )
        own = {**official.get(domain or "", {}), **own}
    return replace(TrainConfig(), **changes, agent=agent, agent_settings=own)


def _flags(settings: Mapping[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in settings.items())
