"""Inputs that tell mistakes apart, and the checkpoints on which quiet ones speak up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.agent import FlowAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.arguments import asked_observations
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import (
    Made,
    Mistakes,
    candidates,
    first_quantity,
    order,
)
from qgf_ref.crosscheck.sampler.rounding import by_step, norms
from qgf_ref.crosscheck.sampler.runs import Inputs, Predicted, free_running
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import Compared, FlowNetworks
from qgf_ref.interop.trace_file import CAUSAL
from qgf_ref.nets.mlp import LayerParams, MLPParams
from qgf_ref.progress import watched

COVERAGE_ROWS = 16
VISIBLE = 20.0
"""A mistake counts as visible when it moves a recorded quantity by this many times the rounding."""


@dataclass(frozen=True)
class Probe:
    """One call of a sampler: obs (B, O), noise (B·n, D), both float32, and the weight.

    why  what it is for, as the end of "run it with …"
    z    (T, B, D), float32, of an agent whose steps add noise; chained: whether it acts without a
         flow, and so without a weight
    """

    name: str
    obs: Array
    noise: Array
    weight: float
    why: str
    z: Array | None = None
    chained: bool = False

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the sampler is called with."""
        arrays = [self.obs.copy(), self.noise.copy()]
        if not self.chained:
            return *arrays, self.weight
        return tuple(arrays) if self.z is None else (*arrays, self.z.copy())

    @property
    def inputs(self) -> Inputs:
        """As a simulation takes them, float64."""
        n = len(self.noise) // len(self.obs)
        weight = float(np.float32(self.weight))
        return Inputs(self.obs, self.noise, weight, n, self.z).astype(np.float64)


def probes(
    checkpoint: Compared,
    *,
    rows: int = 32,
    weight: float = 0.3,
    best_of: int = 4,
    seed: int = 0,
    observations: Array | None = None,
) -> tuple[Probe, ...]:
    """The calls of `check_sampler`: B = 1 and B > 1, inside and outside the clip, w = 0 and w > 1,
    ties, small inputs, several candidates.

    observations: those of the calls, in turn (default: a flow's own, of a checkpoint normal ones)
    """
    rng = np.random.default_rng(seed)
    O, D = checkpoint.obs_dim, checkpoint.flat_action_dim

    def normal(count: int, width: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal((count, width))).astype(np.float32)

    given = asked_observations(checkpoint, observations, rows)
    mixed = normal(rows, O) if given is None else given
    corners = np.zeros_like(mixed) if given is None else given
    rows = len(mixed)
    if (actor := actor_of(checkpoint)) is not None:
        return _chain_probes(actor, checkpoint.options.denoise_steps, mixed, D, normal)
    # one shape for most calls, because frameworks compile for each
    noise = normal(rows, D)
    calls = [
        Probe("mixed", mixed, noise, weight, f"{rows} rows of normal noise"),
        Probe("one row", mixed[:1], noise[:1], weight, "a batch of one row"),
        Probe("unguided", mixed, noise, 0.0, "weight 0"),
        Probe("strong", mixed, noise, 1.5, "weight 1.5"),
        Probe("outside", mixed, normal(rows, D, 3.0), weight, "noise of three times the size"),
        Probe("inside", mixed, normal(rows, D, 0.1), weight, "noise of a tenth of the size"),
        Probe("corners", corners, _corners(rows, D), 1.5,
              "observations of 0, noise of ±1.01 and weight 1.5"),
    ]  # fmt: skip
    if isinstance(checkpoint, FlowNetworks):  # fewer: every call may take seconds
        calls = [call for call in calls if call.name not in ("inside", "corners")]
    if best_of > 1:
        many = normal(rows * best_of, D)
        # the other way round, so that no fixed choice is right in both
        back = many.reshape(rows, best_of, D)[:, ::-1].reshape(many.shape)
        why = f"best-of-{best_of} (B·n rows of noise)"
        calls += [
            Probe("candidates", mixed, many, weight, why),
            Probe("candidates reversed", mixed, np.ascontiguousarray(back), weight, why),
        ]
    return tuple(calls)


def actor_of(networks: Compared) -> ActorAgent | None:
    """The agent of a checkpoint, if it acts without a flow."""
    agent = networks.agent if isinstance(networks, Checkpoint) else None
    return agent if isinstance(agent, ActorAgent) else None


def _chain_probes(
    actor: ActorAgent, T: int, obs: Array, D: int, normal: Callable[..., Array]
) -> tuple[Probe, ...]:
    """Of an agent without a flow: B = 1 and B > 1, inside and outside the clip."""
    rows, draws = len(obs), actor.chain.draws

    def call(name: str, why: str, scale: float = 1.0, some: int = rows) -> Probe:
        z = normal(T * some, D, scale).reshape(T, some, D) if draws else None
        return Probe(name, obs[:some], normal(some, D, scale), 0.0, why, z, chained=True)

    return (
        call("mixed", f"{rows} rows of normal noise"),
        call("one row", "a batch of one row", some=1),
        call("outside", "noise of three times the size", 3.0),
        call("inside", "noise of a tenth of the size", 0.1),
    )


def _corners(rows: int, D: int) -> Array:
    signs = np.where((np.arange(rows)[:, None] >> (np.arange(D) % 2)) & 1, -1.0, 1.0)
    return (1.01 * signs).astype(np.float32)


def loud(checkpoint: Checkpoint, seed: int = 0) -> dict[str, Checkpoint]:
    """Checkpoints of the same shape on which quiet mistakes show.

    trained   every parameter moved, each member and the online critic on its own: an untrained
              LayerNorm (1 and 0), zero biases or an exact target copy hide mistakes
    quiet     first kernels scaled down, so that LayerNorm sees a variance near its epsilon
    tied      members that agree at corner actions and differ in their gradients; no velocity, and
              one step, after which rounding would decide
    flat      a target critic that values every action alike, so that all candidates tie
    Of an agent without a flow, "trained" alone.
    """
    rng = np.random.default_rng(seed)
    agent, actor = checkpoint.agent, actor_of(checkpoint)
    acts = actor.actor if actor else agent.field if isinstance(agent, FlowAgent) else "policy"

    def moved(a: Array) -> Array:
        return (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32).astype(a.dtype)

    def each(source: Checkpoint, change: Callable[[MLPParams], MLPParams]) -> Checkpoint:
        parts = [n for n in (acts, "critic", "target_critic") if n in source.params]
        return source.with_params(**{name: change(source.part(name)) for name in parts})

    trained = each(checkpoint, lambda params: params.map(moved))
    if actor is not None:
        return {"trained": trained}
    quiet = each(trained, _quieter)
    once = replace(trained, options=replace(trained.options, denoise_steps=1))
    tied = once.with_params(target_critic=_tied(trained), **{acts: _still(trained.part(acts))})
    flat = trained.with_params(target_critic=_still(trained.target_critic))
    return {"trained": trained, "quiet": quiet, "tied": tied, "flat": flat}


def _quieter(params: MLPParams) -> MLPParams:
    first, *rest = params.layers
    small = replace(first, kernel=first.kernel * 2.0**-9, bias=first.bias * 2.0**-9)
    return MLPParams((small, *rest))


def _still(params: MLPParams) -> MLPParams:
    """Outputs that are 0."""
    *rest, last = params.layers
    return MLPParams((*rest, replace(last, kernel=0 * last.kernel, bias=0 * last.bias)))


def _tied(checkpoint: Checkpoint) -> MLPParams:
    """Member 1 is member 0 with the first two action dimensions exchanged, the others unused."""
    params, O, D = checkpoint.target_critic, checkpoint.obs_dim, checkpoint.flat_action_dim
    if (params.ensemble or 1) < 2 or D < 2:
        return params
    first, *rest = params.layers
    kernel = first.kernel.copy()
    kernel[:, O + 2 :] = 0
    kernel[1:] = kernel[:1]
    kernel[1:, [O, O + 1]] = kernel[1:, [O + 1, O]]

    def shared(layer: LayerParams) -> LayerParams:
        parts = [None if p is None else np.repeat(p[:1], len(p), axis=0) for p in layer.parts()]
        return LayerParams(*parts)  # type: ignore[arg-type]

    *middle, last = (shared(layer) for layer in rest)
    # falling towards the corner, by so much that guidance moves the action off the clip's edge but
    # not across: the result shows who got the gradient
    tied = MLPParams((replace(shared(first), kernel=kernel), *middle, last))
    critic = replace(checkpoint.network("target_critic"), params=tied)
    q, cache = critic.forward(np.zeros((1, O)), np.ones((1, D)))
    g = critic.vjp(np.arange(len(q))[:, None] == 0 * q, cache)
    size = float(np.abs(g).max())
    slope = -0.25 / size if g.sum() > 0 else 0.25 / size if size else 1.0
    return MLPParams((*tied.layers[:-1], replace(last, kernel=slope * last.kernel)))


def hidden(
    setting: Setting, cases: Sequence[RecordedCase], show_progress: bool = False
) -> tuple[str, ...]:
    """Mistakes of the bank that would not show in any of these cases."""
    unseen: dict[str, None] = {}
    port = setting.port()
    tests = [_visibility(setting, case) for case in cases]
    most = max(case.best_of for case in cases)
    last = max(order(case.observed[-1]) for case in cases)
    every = _first_variants(candidates(port, most))
    for made in watched(every, "what would not show", show_progress):
        if first_quantity(made) > last:
            continue
        if made.mistake.variants and not any(visible(made) for visible in tests):
            unseen[made.name] = None
    return tuple(unseen)


def _visibility(setting: Setting, case: RecordedCase) -> Callable[[Made], bool]:
    """Whether a mistake shows in this case, where the right port runs once for all of them."""
    small = len(case.inputs.obs) <= COVERAGE_ROWS

    def simulated(made: Mistakes, whole: bool) -> Predicted:
        return case.simulate(setting.port(made), None if whole else np.arange(COVERAGE_ROWS))

    right = cache(partial(simulated, ()))

    def visible(made: Made) -> bool:
        if made.mistake.selects and case.best_of == 1:
            return False
        whole = made.mistake.coupled or small
        return _differs(right(whole), simulated((made,), whole), case.observed, case.unit)

    return visible


def _differs(one: Predicted, two: Predicted, names: Sequence[str], unit: float) -> bool:
    for name in names:
        a, b = one[name], two[name]
        if a.shape != b.shape:
            return True
        error = by_step(name, a - b)
        every = np.ones(error.shape[1], bool)
        size = norms(by_step(name, a), every)[0]
        # a network's rounding is a few units of its output's size
        if not (norms(error, every)[1] <= VISIBLE * 4 * unit * size).all():
            return True
    return False


def _first_variants(variants: tuple[Made, ...]) -> tuple[Made, ...]:
    return tuple({made.name: made for made in reversed(variants)}.values())[::-1]


def separating(
    setting: Setting, hypotheses: Sequence[Mistakes], tried: Sequence[Probe]
) -> Probe | None:
    """The first of these probes whose actions differ between all hypotheses; None if none does."""
    best, apart = None, 0
    for probe in tried:
        runs = [free_running(setting.port(made), probe.inputs) for made in hypotheses]
        pairs = [
            _differs(one, two, (CAUSAL[-1],), 2.0**-20)
            for i, one in enumerate(runs)
            for two in runs[:i]
        ]
        if sum(pairs) > apart:
            best, apart = probe, sum(pairs)
    return best
