"""A flow of anybody's networks in the place of a checkpoint: what the measurement asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from qgf_ref.adapters.jitter import jittered_flow
from qgf_ref.adapters.named import flow_named
from qgf_ref.adapters.observations import known_observations
from qgf_ref.arrays import Array, matrix
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.ops.time_embedding import Precision


@dataclass(frozen=True)
class TimedFlow:
    """A flow, and the observations (N, O) of which inputs are drawn, or None: normal ones."""

    flow: GuidedFlow
    obs: Array | None

    @classmethod
    def named(cls, spec: str) -> TimedFlow:
        """That of "package.module:function". Raises InputError as `flow_named`, and where the
        networks do not say how wide an observation is.
        """
        flow, obs = flow_named(spec)
        if obs is None:
            obs = known_observations(flow)
        if obs is None and flow.field.obs_dim is None:
            raise InputError(f"let {spec} return (flow, obs), obs (N, O): its field has no obs_dim")
        if obs is not None:
            wide = flow.field.obs_dim
            obs = matrix(obs, "obs", columns=np.shape(obs)[-1] if wide is None else wide)
        return cls(flow, obs)

    @property
    def obs_dim(self) -> int:
        """O."""
        return self.obs.shape[1] if self.obs is not None else self.flow.field.obs_dim or 0

    @property
    def flat_action_dim(self) -> int:
        """D."""
        return self.flow.field.action_dim

    @property
    def options(self) -> Any:
        """denoise_steps."""
        return SimpleNamespace(denoise_steps=self.flow.denoise_steps)

    def astype(self, dtype: str) -> TimedFlow:
        """Itself. Raises InputError on another dtype than its networks'."""
        own = self.flow.field.dtype.name
        if dtype != own:
            raise InputError(f"the flow's networks compute in {own}, and {dtype} was asked for")
        return self

    def guided_flow(self, embedding: Precision = "exact") -> GuidedFlow:
        """The flow: its times are its adapter's."""
        return self.flow

    def jittered(self, seed: int) -> TimedFlow:
        """The same, every number of its networks a little off: what rounding explains."""
        return TimedFlow(jittered_flow(self.flow, seed), self.obs)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Observations (count, O)."""
        if self.obs is None:
            return rng.standard_normal((count, self.obs_dim))
        return np.asarray(self.obs[rng.integers(len(self.obs), size=count)], np.float64)
