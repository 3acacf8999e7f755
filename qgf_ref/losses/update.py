"""One training update of Q-Guided Flow: behaviour cloning and IQL, which never touch.

Pure: `update` returns a new state and leaves the old one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError, NonFiniteError
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.losses.flow_matching import flow_matching
from qgf_ref.losses.iql import critic_loss, critic_target, dataset_q, value_regression
from qgf_ref.losses.optimiser import AdamState, adam, target_update
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.nets.value import MLPValue
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.threads import Once, in_parallel

R = TypeVar("R")

LEARNED = ("policy", "critic", "value")
"""The networks that have a loss and an optimiser."""
ROWS_TOGETHER = 8
"""What threads share is a multiple of this many rows: those of a tile."""


@dataclass(frozen=True)
class TrainState:
    """Networks and the three optimisers' states; the target critic has none."""

    networks: Networks
    policy_adam: AdamState
    critic_adam: AdamState
    value_adam: AdamState

    @classmethod
    def create(cls, networks: Networks) -> TrainState:
        """The state before the first update."""
        return cls(
            networks,
            AdamState.zero(networks.policy.params),
            AdamState.zero(networks.critic.params),
            AdamState.zero(networks.value.params),
        )


@dataclass(frozen=True)
class Losses:
    """The three losses of one batch and their gradients in the parameters."""

    policy: float
    critic: float
    value: float
    policy_bar: MLPParams
    critic_bar: MLPParams
    value_bar: MLPParams


def losses(
    nets: Networks, batch: Batch, x0: Array, t: Array, hyper: Hyperparameters, threads: int = 1
) -> Losses:
    """All three losses on one batch, with noise x0 (B, D) and flow times t (B,).

    threads  as in `update`
    Raises InputError on a batch of 0 rows, whose mean is undefined.
    """
    plan = _plan(nets, len(batch.obs), threads)
    found = _run(*_losses(nets, batch, x0, t, hyper, plan), plan)
    values, bars = zip(*(found[name] for name in LEARNED), strict=True)
    return Losses(*values, *bars)


def update(
    state: TrainState, batch: Batch, x0: Array, t: Array, hyper: Hyperparameters, threads: int = 1
) -> tuple[TrainState, Losses]:
    """One update of all networks from the parameters *before* the step.

    The value loss reads the old target critic, the critic loss the old value, and the target
    critic moves towards the critic from before its update. The three networks' updates thus do
    not depend on each other.

    threads  how many of the three may run at once: of use where the networks' kernels leave
             Python's lock alone (Numba's). The bits of Numba's results do not depend on it; NumPy
             may round a row of the target critic otherwise when another thread takes it over.
    Raises NonFiniteError naming the network whose loss is not finite. Source: official.md,
    section 3.
    """
    nets = state.networks
    plan = _plan(nets, len(batch.obs), threads)
    jobs = _losses(nets, batch, x0, t, hyper, plan)

    def learn(name: str) -> _Learned:
        loss, params_bar = jobs.losses[name]()
        require_finite(np.atleast_1d(loss), f"the {name} loss")
        net: MLPVelocity | MLPCritic | MLPValue = getattr(nets, name)
        moments: AdamState = getattr(state, f"{name}_adam")
        params, moments = adam(
            net.params, params_bar, moments, hyper.learning_rate, kernels=net.kernels
        )
        target = None
        if name == "critic":
            old = nets.target_critic
            target = target_update(old.params, nets.critic.params, hyper.tau, old.kernels)
        return _Learned(loss, params_bar, params, moments, target)

    found = _run({name: partial(learn, name) for name in LEARNED}, jobs.help_value, plan)
    policy, critic, value = (found[name] for name in LEARNED)
    assert critic.target is not None
    networks = Networks(
        policy=replace(nets.policy, params=policy.params),
        critic=replace(nets.critic, params=critic.params),
        target_critic=replace(nets.target_critic, params=critic.target),
        value=replace(nets.value, params=value.params),
    )
    result = Losses(
        policy.loss, critic.loss, value.loss, policy.params_bar, critic.params_bar, value.params_bar
    )
    return TrainState(networks, policy.adam, critic.adam, value.adam), result


class _Learned(NamedTuple):
    loss: float
    params_bar: MLPParams
    params: MLPParams
    adam: AdamState
    target: MLPParams | None


class _Jobs(NamedTuple):
    """The losses by network, and what may be done ahead for the value's, if anything."""

    losses: dict[str, Callable[[], tuple[float, MLPParams]]]
    help_value: Callable[[], object] | None


class _Plan(NamedTuple):
    """Who does what: networks by thread, and the rows of the target critic that `helper` does."""

    groups: list[list[str]]
    helper: int
    helped_rows: int


def _plan(nets: Networks, rows: int, threads: int) -> _Plan:
    """The largest network first, each to the thread that has least to do.

    Then two threads share what divides without changing a bit: rows of the target critic.
    """
    # matrix products in units of a forward: one forward, two for the backward
    policy, critic, value = (n.params.count for n in (nets.policy, nets.critic, nets.value))
    work = {"policy": 3 * policy, "critic": 3 * critic + value, "value": 3 * value + critic}
    groups: list[list[str]] = [[] for _ in range(min(threads, len(work)))]
    loads = [0] * len(groups)
    for name in sorted(work, key=lambda n: -work[n]):
        least = loads.index(min(loads))
        groups[least].append(name)
        loads[least] += work[name]
    helper = loads.index(min(loads))
    helped = next(i for i, group in enumerate(groups) if "value" in group)
    share = min(1.0, (loads[helped] - loads[helper]) / 2 / critic)
    return _Plan(groups, helper, round(share * rows / ROWS_TOGETHER) * ROWS_TOGETHER)


def _losses(
    nets: Networks, batch: Batch, x0: Array, t: Array, hyper: Hyperparameters, plan: _Plan
) -> _Jobs:
    """Each loss and its gradient, to be called in any order, or at once."""
    b = batch
    if not len(b.obs):
        raise InputError("a training batch needs at least one row")
    helped = min(plan.helped_rows, len(b.obs))

    def some_q(rows: slice) -> Array:
        return dataset_q(nets.target_critic, b.obs[rows], b.action[rows])

    helped_q = Once(lambda: some_q(slice(helped)))

    def critic() -> tuple[float, MLPParams]:
        target = critic_target(
            nets.value, b.next_obs, b.rewards, b.masks, hyper.discount, hyper.horizon
        )
        return critic_loss(nets.critic, b.obs, b.action, target, b.valid)

    def value() -> tuple[float, MLPParams]:
        parts = [some_q(slice(helped, None))] if helped < len(b.obs) else []
        if helped:  # last, so that the helper has had time
            parts.insert(0, helped_q())
        q = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return value_regression(nets.value, b.obs, q, b.valid, hyper.expectile)

    return _Jobs(
        {
            "policy": lambda: flow_matching(nets.policy, b.obs, x0, b.action, t),
            "critic": critic,
            "value": value,
        },
        helped_q if helped else None,
    )


def _run(
    jobs: Mapping[str, Callable[[], R]], help_value: Callable[[], object] | None, plan: _Plan
) -> dict[str, R]:
    """The jobs' results, each thread doing its own in the plan's order; the helper helps first."""
    results: dict[str, R] = {}
    errors: dict[str, NonFiniteError] = {}
    handling = np.geterr()  # a thread has its own

    def run(thread: int) -> None:
        with np.errstate(**handling):
            if help_value is not None and thread == plan.helper:
                help_value()
            for name in plan.groups[thread]:
                try:
                    results[name] = jobs[name]()
                except NonFiniteError as error:
                    errors[name] = error

    in_parallel([partial(run, thread) for thread in range(len(plan.groups))])
    for name in LEARNED:  # the same one, whichever came first
        if name in errors:
            raise errors[name]
    return results
