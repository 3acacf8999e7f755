"""Arguments of the checks of samplers and their functions, refused where nothing would use them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.arrays import Array, matrix, whole_number
from qgf_ref.crosscheck.sampler.subject import FLOW_ROWS, Compared, FlowNetworks
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.flow.convention import CORE, ConventionLike
from qgf_ref.flow.convention import convention as convention_by_name
from qgf_ref.interop.trace_file import LARGEST, PRECISIONS

USUAL_WEIGHT = 0.3
"""Of guidance, where a check is not told another."""


def guidance_weight(weight: Any) -> float:
    """The weight as a float. Raises InputError unless it is a finite number ≥ 0."""
    number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= LARGEST:
        raise InputError(f"weight must be a finite number ≥ 0, at most {LARGEST:g}, got {weight!r}")
    return float(weight)


def known_precision(precision: str | None) -> str | None:
    """Itself. Raises InputError, listing them, on one that is none of `PRECISIONS`."""
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return precision


def require_core(convention: ConventionLike | None, why: str) -> None:
    """Raise InputError on another convention than the core's, and on one that is none."""
    if convention is not None and convention_by_name(convention).name != CORE:
        raise InputError(f"convention: {why}")


def require_plain(actor: ActorAgent, source: str, **given: bool) -> None:
    """Raise InputError where an agent that acts without a flow is given what guides one."""
    if idle := [name for name, typed in given.items() if typed]:
        raise InputError(
            f"{source}: the agent {actor.name} acts without a flow ({actor.acts}): leave out "
            f"{', '.join(idle)}"
        )


def asked_observations(networks: Compared, given: Array | None, rows: Any) -> Array | None:
    """The observations (rows, O), float32, that a port is called with: those given, in turn; None
    of a checkpoint for which none are, whose networks take any. Fewer of a flow, whose calls may
    take seconds. Raises InputError on observations that do not fit.
    """
    count = whole_number(rows, "rows", 1)
    if isinstance(networks, FlowNetworks):
        known, count = networks.obs, min(count, FLOW_ROWS)
    elif given is None:
        return None
    else:
        known = matrix(given, "observations", columns=networks.obs_dim)
    if not len(known):
        raise InputError("observations must have at least one row, got none")
    return known[np.arange(count) % len(known)].astype(np.float32)


class AskedAt(NamedTuple):
    """At which obs (B, O) and actions (B, D) a function is asked, and the precision of its networks
    if that is less than float32.
    """

    obs: Array
    actions: Array
    precision: str | None


def asked_at(
    networks: Compared, rows: int, seed: int, observations: Array | None, precision: str | None
) -> AskedAt:
    """Arguments of a check of one function. Raises InputError as `asked_observations` does."""
    rng = np.random.default_rng(whole_number(seed, "seed"))
    obs = asked_observations(networks, observations, rows)
    if obs is None:
        obs = rng.standard_normal((rows, networks.obs_dim)).astype(np.float32)
    actions = rng.standard_normal((len(obs), networks.flat_action_dim)).astype(np.float32)
    return AskedAt(obs, actions, known_precision(precision))
