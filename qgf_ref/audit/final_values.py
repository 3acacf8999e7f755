"""Q of the final actions of guided chains: what guidance gains, each weight's chain run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.on_engine import REFERENCE, in_parts, one_batch, ours, own
from qgf_ref.backends.engine import Engine
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.queries import critic_value
from qgf_ref.sampling import sample
from qgf_ref.threads import results_of


@dataclass(frozen=True)
class FinalValues:
    """Q (B,) of the final action of each row, from the chain's observations and noise.

    The chains run on `engine`, Q on the reference, in `threads` threads.
    """

    flow: GuidedFlow
    chain: ChainGradients
    engine: Engine = REFERENCE
    threads: int = 1
    _known: dict[tuple[str, float], Array] = field(default_factory=dict)

    @cached_property
    def unguided(self) -> Array:
        """Without guidance."""
        return self.sampled("none", 0.0, self.engine)

    def sampled(self, estimator: Estimator | str, weight: float, engine: Engine) -> Array:
        """Of one weight, by a chain of its own."""
        obs, noise = self.chain.states[0].obs, self.chain.noise
        action = sample(
            self.flow, obs, estimator=estimator, weight=weight, noise=noise, backend=engine
        )
        return critic_value(self.flow, obs, action)

    def of(self, e: Estimator, weights: Sequence[float]) -> Array:
        """Of each weight, (len(weights), B)."""
        missing = [w for w in weights if (e.label, w) not in self._known]
        if 0 in missing and self._begins_unguided(e):
            self._known[e.label, 0.0] = self.unguided
            missing.remove(0)
        if missing:
            found = self._of_each(e, missing)
            self._known.update(((e.label, w), q) for w, q in zip(missing, found, strict=True))
        return np.stack([self._known[e.label, w] for w in weights])

    def _begins_unguided(self, e: Estimator) -> bool:
        """Whether its chain at w = 0 is the one without guidance, v + 0·G being v.

        Not on another flow, where there is an acceleration, which knows no weight, or G is no
        number.
        """
        plain = self.chain.plain.get(e.label, False)
        return plain and ours(e) and e.on(self.flow) is self.flow

    def _of_each(self, e: Estimator, weights: Sequence[float]) -> list[Array]:
        """Of each weight; of all in one batch where rows of several measurements may share one."""
        if not one_batch(e, self.engine):
            runner = own(e, self.engine)
            return [self.sampled(e, weight, runner) for weight in weights]
        obs, noise = self.chain.states[0].obs, self.chain.noise
        many, B = len(weights), len(obs)

        def chains(obs: Array, noise: Array, weight: Array) -> Array:
            return sample(
                self.flow, obs, estimator=e, weight=weight, noise=noise, backend=self.engine
            )

        batch = np.tile(obs, (many, 1)), np.tile(noise, (many, 1)), np.repeat(weights, B)
        actions = in_parts(chains, e, self.engine, *batch).reshape(many, B, -1)
        values = [partial(critic_value, self.flow, obs, action) for action in actions]
        return results_of(values, self.threads)
