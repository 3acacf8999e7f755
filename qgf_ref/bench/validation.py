"""Before a contender is timed: does it compute the sampler?

Its actions on some rows are compared with the float64 NumPy reference on the same inputs. What may
differ is measured, not guessed: `FACTOR` times what our NumPy sampler loses to rounding in the
same dtype on the same rows. A row on which a minimum of critics, or a clip, nearly ties answers to
rounding with a jump; it is found by moving its noise by 1e-5 and is left out.

Libraries that embed the time in float32 (the official code does) differ by 5e-6 from those that
do it exactly; a contender may agree with either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.bench.timed_flow import TimedFlow
from qgf_ref.errors import InputError
from qgf_ref.ops.time_embedding import PRECISIONS
from qgf_ref.sampling import sample

ROWS = 32
FACTOR = 8.0
"""Measured on 3×256 and 4×512, five estimators, weights 0.1 and 1: NumPy in float32 errs by 2.9e-7
to 4.7e-7, JAX and PyTorch by 0.7 to 1.5 times that. The weakest mistake of the time's
representation, the other embedding, is at 10 times."""
FLOOR = 8.0
"""In epsilons: where NumPy happens to be exact, others need not be."""
_MOVED, _JUMP = 1e-5, 30.0
_JITTERED = 3
Timed = Checkpoint | TimedFlow
"""What may be timed."""


@dataclass(frozen=True)
class Reference:
    """obs (R, O), noise (R, D), and the actions (R, D) there for either embedding of the time.

    stable (R,)  rows that answer smoothly to a small change of the noise
    rounding     by dtype: the largest error of our NumPy sampler
    """

    obs: Array
    noise: Array
    actions: dict[str, Array]
    stable: Array
    rounding: dict[str, float]

    @classmethod
    def of(
        cls, checkpoint: Timed, estimator: str, weight: float, steps: int, seed: int
    ) -> Reference:
        """The reference of one cell's network and estimator. checkpoint: float64, or a flow, whose
        reference is itself, and its rounding that of `jittered` runs.
        """
        rng = np.random.default_rng(seed)
        # exact in float32, so that every dtype starts from the same numbers
        obs, noise, direction = (
            x.astype(np.float32).astype(np.float64)
            for x in (_observations(checkpoint, rng, ROWS), *_normal(checkpoint, rng, ROWS, 2))
        )

        def actions(ck: Timed, x: Array, embedding: Any = "exact") -> Array:
            flow = ck.guided_flow(embedding=embedding)
            return sample(
                flow, obs, estimator=estimator, weight=weight, noise=x, denoise_steps=steps
            )

        told = PRECISIONS if isinstance(checkpoint, Checkpoint) else ("exact",)
        by_precision = {name: actions(checkpoint, noise, name) for name in told}
        exact = by_precision["exact"]
        moved = [abs(actions(checkpoint, noise + s * direction) - exact) for s in (_MOVED, -_MOVED)]
        response = np.max(moved, axis=(0, 2))
        stable = response <= _JUMP * np.median(response)
        rounding = {"float64": 0.0}
        if isinstance(checkpoint, Checkpoint):
            singles = [actions(checkpoint.astype("float32"), noise)]
        else:
            singles = [actions(checkpoint.jittered(i), noise) for i in range(_JITTERED)]
        rounding["float32"] = max(float(abs(x - exact)[stable].max()) for x in singles)
        return cls(obs, noise, by_precision, stable, rounding)

    def inputs(
        self, checkpoint: Timed, batch: int, dtype: str, seed: int, shift: int = 0
    ) -> tuple[Array, Array]:
        """obs (B, O), noise (B, D): the reference's rows at both ends, others between them.

        shift  all of it moved up by so many rows; of a small batch, later rows of the reference
        """
        rows = self._rows(batch, shift)
        obs, noise = (
            np.roll(x, -shift, axis=0) for x in random_inputs(checkpoint, batch, dtype, seed)
        )
        for x, known in ((obs, self.obs), (noise, self.noise)):
            x[rows >= 0] = known[rows[rows >= 0]]
        return obs, noise

    def _rows(self, batch: int, shift: int) -> Array:
        """Which row of the reference each input is, (B,); −1: none."""
        if batch >= ROWS:
            rows = np.full(batch, -1)
            head = ROWS - ROWS // 2
            rows[:head], rows[batch - ROWS // 2 :] = np.arange(head), np.arange(head, ROWS)
            return np.roll(rows, -shift)
        smooth = np.flatnonzero(self.stable)
        usable = smooth if batch <= len(smooth) // 2 else np.arange(ROWS)
        return usable[(np.arange(batch) + shift) % len(usable)]

    def compared(self, batch: int) -> int:
        """How many rows of a batch are compared."""
        rows = self._rows(batch, 0)
        return int(self.stable[rows[rows >= 0]].sum())

    def tolerance(self, dtype: str) -> float:
        """The largest difference of an action that rounding explains; actions lie in ±1."""
        return max(FACTOR * self.rounding[dtype], FLOOR * float(np.finfo(dtype).eps))

    def error(
        self, theirs: Array, shift: int = 0, over_rows: Callable[[Array], Any] = np.max
    ) -> tuple[float, str]:
        """The largest difference on the compared rows, and the embedding for which it is least.

        over_rows  of the rows' largest differences (R,), which one
        """
        rows = self._rows(len(theirs), shift)
        theirs, rows = theirs[rows >= 0], rows[rows >= 0]
        if self.stable[rows].any():
            theirs, rows = theirs[self.stable[rows]], rows[self.stable[rows]]
        errors = {
            name: float(over_rows(abs(theirs - actions[rows]).max(axis=1)))
            for name, actions in self.actions.items()
        }
        nearest = min(errors, key=lambda name: errors[name])
        return errors[nearest], nearest

    def require(
        self, name: str, theirs: Array, where: str, shift: int = 0, coarser: float = 1.0
    ) -> dict[str, Any]:
        """The error of a contender; raises InputError when rounding does not explain it.

        coarser  how many times as coarse its products are, as those in TF32: then the middle row's
                 error is judged, since rows that answer smoothly to rounding need not to that.
                 Measured with TF32's factors in NumPy, of which 2¹³ are as many: 810 to 1190 times
                 float32's rounding on 3×256 and 4×512
        """
        error, embedding = self.error(theirs, shift)
        tolerance = self.tolerance(theirs.dtype.name)
        if coarser > 1:
            error = self.error(theirs, shift, np.median)[0]
            tolerance = coarser * self.rounding[theirs.dtype.name]
        if error > tolerance:
            raise InputError(
                f"{name} does not compute the sampler, so its speed says nothing: on {where} its "
                f"actions differ from the float64 reference by {error:.1e}; rounding explains "
                f"{tolerance:.1e}. qgf_ref.testing.check_sampler finds the mistake"
            )
        return {"error": error, "tolerance": tolerance, "embedding": embedding}


def random_inputs(checkpoint: Timed, batch: int, dtype: str, seed: int) -> tuple[Array, Array]:
    """obs (B, O), of a flow some of its own; noise (B, D); else standard normal."""
    rng = np.random.default_rng(seed + 1)
    obs = _observations(checkpoint, rng, batch).astype(dtype)
    return obs, _normal(checkpoint, rng, batch, 1)[0].astype(dtype)


def _observations(checkpoint: Timed, rng: np.random.Generator, rows: int) -> Array:
    if isinstance(checkpoint, TimedFlow):
        return checkpoint.draw(rng, rows)
    return rng.standard_normal((rows, checkpoint.obs_dim))


def _normal(checkpoint: Timed, rng: np.random.Generator, rows: int, count: int) -> list[Array]:
    return [rng.standard_normal((rows, checkpoint.flat_action_dim)) for _ in range(count)]
