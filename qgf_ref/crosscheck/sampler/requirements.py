"""What a recorded run is compared under, and what it must be like for that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.probes import actor_of
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import Compared
from qgf_ref.errors import InputError
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.interop.trace_file import LARGEST, RecordedTrace

LARGEST_RUN = 10_000_000
"""T·B·n·D of a run that is compared: some hundreds of simulations of it must end in finite time."""


def prepared(
    checkpoint: Compared,
    theirs: RecordedTrace,
    estimator: EstimatorLike | None = None,
    weight: float | None = None,
    denoise_steps: int | None = None,
) -> tuple[Setting, RecordedCase]:
    """What a recorded run is compared under. Arguments and errors as those of `compare`."""
    known, actor = theirs.metadata, actor_of(checkpoint)
    name = known.get("estimator") if estimator is None else estimator
    if name is None and isinstance(checkpoint, Checkpoint) and checkpoint.agent.usual == "none":
        name = "none"
    if name is None:
        own = isinstance(checkpoint, Checkpoint) and checkpoint.auxiliary.cfgrl is not None
        raise InputError(
            f"{theirs.source} does not say which estimator it was made with: give --estimator"
            f"{', cfgrl if it samples with the network of CFGRL that is here' * own}"
        )
    if estimator is None and ":" in str(name):
        # a file from elsewhere must not decide what is imported
        raise InputError(
            f"{theirs.source} names code, {name!r}, as its estimator: give --estimator {name} "
            "if that is yours"
        )
    guide = estimator_by_name(name)
    w = known.get("weight") if weight is None else weight
    if w is None and guide.name != "none":
        raise InputError(f"{theirs.source} does not say its guidance weight: give --weight")
    w = 0.0 if w is None else w
    if not 0 <= w <= LARGEST:
        raise InputError(f"weight must be a finite number ≥ 0, at most {LARGEST:g}, got {w}")
    T = known.get("denoise_steps") if denoise_steps is None else denoise_steps
    T = checkpoint.options.denoise_steps if T is None else T
    if T * theirs.noise.size > LARGEST_RUN:
        raise InputError(
            f"{theirs.source}: {T} denoising steps of {theirs.noise.shape} numbers are too many to "
            f"simulate ({LARGEST_RUN} at most); record fewer rows"
        )
    steps = T
    if actor is not None:
        theirs, steps = of_chain(theirs, actor, T), actor.chain.steps(T)
    if theirs.steps is not None and theirs.steps != steps:
        raise InputError(
            f"{theirs.source} holds {theirs.steps} denoising steps, expected {steps} "
            "(the checkpoint's, unless --denoise-steps says otherwise)"
            + ("; write a[:T]: states before a step" if theirs.steps == steps + 1 else "")
        )
    best_of = known.get("best_of", theirs.best_of)
    if best_of != theirs.best_of:
        raise InputError(
            f"{theirs.source}: best_of is {best_of}, but {len(theirs.noise)} rows of noise for "
            f"{len(theirs.obs)} observations make {theirs.best_of}"
        )
    for what, width, expected in (
        ("obs", theirs.obs.shape[1], checkpoint.obs_dim),
        ("action", theirs.action.shape[1], checkpoint.flat_action_dim),
    ):
        if width != expected:
            raise InputError(
                f"{theirs.source}: {what} has {width} columns; {checkpoint.source} has {expected}"
            )
    if actor is None:
        require_members(theirs, checkpoint)
    case = RecordedCase(theirs, float(w), theirs.source)
    return Setting(checkpoint.astype("float64"), guide, T), case


def of_chain(theirs: RecordedTrace, actor: ActorAgent, T: int) -> RecordedTrace:
    """A run of an agent that acts without a flow, its z complete.

    Raises InputError on quantities that it does not have, on several candidates, and without z.
    """
    what, chain = f"{theirs.source}: the agent {actor.name}", actor.chain
    strange = [name for name in theirs.stepwise if name not in chain.words]
    if strange:
        has = ", ".join(f"{name} ({says})" for name, says in chain.words.items())
        raise InputError(
            f"{what} acts without a critic and has no {', '.join(strange)}; it has {has}"
        )
    if theirs.best_of > 1:
        raise InputError(
            f"{what} draws one action for each observation; {len(theirs.noise)} rows of noise for "
            f"{len(theirs.obs)} observations were given"
        )
    if not chain.draws:
        return theirs if theirs.z is None else replace(theirs, z=None)
    shape = (T, *theirs.noise.shape)
    if theirs.z is None:
        raise InputError(
            f"{what} adds noise in each step: write down z {shape}, the standard normal numbers "
            "that your sampler added, unscaled, in the order of the steps"
        )
    z = theirs.z
    if len(z) == T - 1:  # the last one is never used
        z = np.concatenate([z, np.zeros_like(theirs.noise)[None]])
    if z.shape != shape:
        raise InputError(f"{what} takes z {shape}, or without the last step's; got {z.shape}")
    return replace(theirs, z=z)


def require_members(theirs: RecordedTrace, checkpoint: Compared) -> None:
    """Raise InputError unless a recorded q holds every member of the checkpoint's critic."""
    expected, q = checkpoint.target_critic.ensemble, theirs.stepwise.get("q")
    if q is not None and q.shape[1] != expected:
        raise InputError(
            f"{theirs.source}: q has shape {q.shape}, expected (T, E, B·n) with the {expected} "
            f"members of {checkpoint.source}'s target critic"
        )
