"""Who takes part: the backends of `qgf_ref.sample`, and samplers of the user's.

A peer is a function that makes a sampler of a checkpoint:

    def my_sampler(checkpoint, *, estimator, weight, denoise_steps):
        ...                                     # everything that is done once
        return lambda obs, noise: actions       # (B, O), (B, D) → (B, D)

Its arrays are those of `checkpoint.policy` and `checkpoint.target_critic`, in the dtype to be
measured; where a flow is timed, the flow takes the checkpoint's place. It returns finished numbers
(an asynchronous library must wait), in any type that `numpy.asarray` takes without a copy. For what
it cannot do it raises NotImplementedError or InputError, and the table shows a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.backends.engine import Engine
from qgf_ref.bench.settings import Peer
from qgf_ref.bench.timed_flow import TimedFlow
from qgf_ref.bench.validation import Timed
from qgf_ref.errors import InputError, QGFError
from qgf_ref.sampling import sample
from qgf_ref.user_code import error_summary, import_named

Sampler = Callable[[Array, Array], Array]
"""(obs (B, O), noise (B, D)) → actions (B, D), in the dtype of the networks."""


class Factory(Protocol):
    """Makes a sampler of a checkpoint, or a flow; see the module. denoise_steps is T."""

    def __call__(
        self, checkpoint: Any, *, estimator: str, weight: float, denoise_steps: int
    ) -> Sampler:
        """The sampler."""
        ...


class Declined(QGFError):
    """A contender does not do what a cell asks; the message says why."""


def backend(name: str, threads: int) -> Factory:
    """`qgf_ref.sample` with this backend and this number of threads."""
    engine = Engine.of(name)
    # NumPy has BLAS's threads, which the whole process is limited to
    engine = Engine.of(name, threads) if engine.backend.threaded else engine

    def factory(checkpoint: Timed, *, estimator: str, weight: float, denoise_steps: int) -> Sampler:
        flow = checkpoint.flow

        def run(obs: Array, noise: Array) -> Array:
            return sample(
                flow,
                obs,
                estimator=estimator,
                weight=weight,
                noise=noise,
                denoise_steps=denoise_steps,
                backend=engine,
            )

        return run

    return factory


def peer(given: Peer) -> Factory:
    """The factory that `given` names, its errors told as the peer's.

    Raises InputError when it cannot be imported. What it makes raises Declined where the peer
    declines, and InputError when the peer fails otherwise or returns no actions (B, D).
    """
    function = imported(given.spec)

    def factory(checkpoint: Timed, *, estimator: str, weight: float, denoise_steps: int) -> Sampler:
        subject = checkpoint.flow if isinstance(checkpoint, TimedFlow) else checkpoint
        run = _asked(
            given,
            lambda: function(
                subject, estimator=estimator, weight=weight, denoise_steps=denoise_steps
            ),
        )
        if not callable(run):
            raise InputError(
                f"peer {given.spec} must return a function (obs, noise) → actions, "
                f"got {type(run).__name__}"
            )
        return run

    return factory


def first_call(name: str, run: Sampler, obs: Array, noise: Array) -> Array:
    """The actions of a contender's first call, checked for shape, dtype and finite numbers.

    Raises Declined and InputError as `peer` says; InputError, too, when it wrote into obs or noise,
    which are put right again: the others are called with them.
    """
    given = [(x, x.copy()) for x in (obs, noise)]
    actions = _asked(Peer(name, name), lambda: np.array(run(obs, noise)))
    changed = [not np.array_equal(x, before) for x, before in given]
    for x, before in given:
        x[...] = before
    if any(changed):
        raise InputError(
            f"{name} writes into the {'obs' if changed[0] else 'noise'} that it is called with, "
            "and a user's arrays would change: let it write into a copy"
        )
    return finished(name, actions, noise)


class InTurn:
    """A sampler called with other inputs each time; it keeps its last answer, which is validated.

    inputs  (obs, noise), in turn; the first of them has been called already
    A call that fails leaves the message in `failure`, and no later one is made.
    """

    def __init__(self, name: str, run: Sampler, inputs: Sequence[tuple[Array, Array]]) -> None:
        self.name, self.run, self.inputs = name, run, inputs
        self.calls, self.actions, self.failure = 0, np.empty(0), ""

    def __call__(self) -> None:
        """One call."""
        if self.failure:
            return
        self.calls += 1
        try:
            self.actions = np.asarray(self.run(*self.inputs[self.shift]))
        except Exception as error:  # noqa: BLE001  (a peer raises what it likes)
            self.failure = f"{self.name} raised, in a timed call, {error_summary(error)}"

    @property
    def shift(self) -> int:
        """Which of the inputs the last call had."""
        return self.calls % len(self.inputs)

    def last(self) -> Array:
        """The last answer, checked as a first one. Raises InputError."""
        if self.failure:
            raise InputError(self.failure)
        return finished(self.name, self.actions, self.inputs[self.shift][1])


def finished(name: str, actions: Array, noise: Array) -> Array:
    """The actions, if they are such. Raises InputError on another shape or dtype, and on NaN."""
    if actions.shape != noise.shape or actions.dtype != noise.dtype:
        raise InputError(
            f"{name} returned {actions.dtype} of shape {actions.shape}, expected {noise.dtype} of "
            f"shape {noise.shape}"
        )
    if not np.isfinite(actions).all():
        raise InputError(f"{name} returned actions that are not finite")
    return actions


def imported(spec: str) -> Callable[..., Any]:
    """What "package.module:function" names. Raises InputError when there is no such function."""
    function = import_named(spec, "peer")
    if not callable(function):
        raise InputError(f"peer {spec!r} is not a function, but {function!r}")
    factory: Callable[..., Any] = function
    return factory


def _asked(given: Peer, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (NotImplementedError, InputError) as error:
        raise Declined(f"{given.name}: {error}") from error
    except Exception as error:
        raise InputError(f"{given.spec} raised {error_summary(error)}") from error
