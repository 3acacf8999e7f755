"""Every mistake of the bank, and some that it does not hold, injected into the JAX peer.

A mistake replaces methods of `jax_sampler.Port`; what is not replaced stays right. The overrides
are in `jax_mistakes_networks` and `jax_mistakes_sampler`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.peers.jax_mistakes_networks import HELD_OUT_NETWORK, NETWORK, TIME, Override
from benchmarks.peers.jax_mistakes_sampler import (
    AGGREGATION,
    BEST_OF,
    GRADIENT,
    HELD_OUT_SAMPLER,
    QUERY,
    UPDATE,
)
from benchmarks.peers.jax_sampler import JaxSampler, Port
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.errors import unknown_name

MISTAKES: dict[str, Override] = {
    **NETWORK,
    **TIME,
    **QUERY,
    **GRADIENT,
    **AGGREGATION,
    **UPDATE,
    **BEST_OF,
}
"""name → {attribute of `Port`: what takes its place}, for every name of the bank, in its order."""

HELD_OUT: dict[str, Override] = {
    **HELD_OUT_NETWORK,
    **HELD_OUT_SAMPLER,
}
"""Mistakes that the bank does not hold: a diagnosis has to call them unknown."""


def broken(
    checkpoint: Checkpoint,
    mistake: str,
    *,
    estimator: str = "qgf",
    denoise_steps: int | None = None,
) -> JaxSampler:
    """`JaxSampler` with one mistake. Raises InputError on an unknown name, and as it does."""
    port = _broken_port(mistake)
    return JaxSampler(checkpoint, estimator=estimator, denoise_steps=denoise_steps, port=port)


def applies(checkpoint: Checkpoint, mistake: str) -> bool:
    """Whether the mistake can change anything at all with these options and shapes.

    Values are not looked at: a LayerNorm's scale may be 1 and its absence without effect.
    Raises InputError on an unknown name.
    """
    _override(mistake)
    return all(holds(checkpoint) for holds, names in NEEDS if mistake in names)


def _override(mistake: str) -> Override:
    known = {**MISTAKES, **HELD_OUT}
    if mistake not in known:
        raise unknown_name("mistake", mistake, known)
    return known[mistake]


@functools.cache
def _broken_port(mistake: str) -> type[Port]:
    return type(f"Port[{mistake}]", (Port,), dict(_override(mistake)))


def _norms(c: Checkpoint) -> bool:
    return any(x.scale is not None for p in (c.policy, c.target_critic) for x in p.layers)


def _square(c: Checkpoint) -> bool:
    kernels = [x.kernel for p in (c.policy, c.target_critic) for x in p.layers[:-1]]
    return any(k.shape[-1] == k.shape[-2] > 1 for k in kernels)


def _last_hidden_norm(params: Any) -> bool:
    return len(params.layers) > 1 and params.layers[-2].scale is not None


def _chunk(c: Checkpoint) -> bool:
    return 1 < c.action_dim < c.flat_action_dim


_MIN_ONLY = ("ensemble-mean", "ensemble-sum", "ensemble-max", "ensemble-member-0")

NEEDS: tuple[tuple[Callable[[Checkpoint], bool], tuple[str, ...]], ...] = (
    (
        lambda c: c.options.activation == "gelu",
        ("gelu-erf", "gelu-quick", "activation-relu", "activation-silu", "unknown-gelu-constant"),
    ),
    (lambda c: c.options.activation != "gelu", ("activation-gelu",)),
    (
        _norms,
        (
            *(name for name in (*NETWORK, *HELD_OUT_NETWORK) if "layer-norm" in name),
            "activation-before-norm",
        ),
    ),
    (
        lambda c: any(x.scale is not None for x in c.target_critic.layers),
        ("layer-norm-member-0", "layer-norm-member-0-forward"),
    ),
    (
        lambda c: len(c.policy.layers) > 1 and not _last_hidden_norm(c.policy),
        ("policy-norm-last-hidden",),
    ),
    (lambda c: _last_hidden_norm(c.target_critic), ("critic-norm-last-hidden-missing",)),
    (lambda c: len(c.policy.layers) > 1, ("policy-activation-last-hidden-missing",)),
    (_square, ("kernels-transposed",)),
    (
        lambda c: (c.target_critic.ensemble or 1) > 1,
        (
            *("layer-norm-member-0", "layer-norm-member-0-forward", "ensemble-axis-reshaped"),
            *(*_MIN_ONLY, "ensemble-min-of-batch-sum", "ensemble-min", "ties-first"),
            *("best-of-mean", "unknown-gradient-softmin"),
        ),
    ),
    (
        lambda c: c.options.q_aggregation == "min",
        (
            *(*_MIN_ONLY, "ensemble-min-of-batch-sum", "ensemble-min-over-batch", "ties-first"),
            *("best-of-mean", "unknown-gradient-softmin"),
        ),
    ),
    (lambda c: c.options.q_aggregation == "mean", ("ensemble-min",)),
    (
        lambda c: c.options.denoise_steps > 1,
        (
            *("time-unscaled", "time-scale-1000", "time-half-minus-1", "time-max-period-1000"),
            *("time-index", "time-float64", "grid-inclusive", "query-factor-1", "query-factor-dt"),
            *("gradient-times-1-t", "gradient-over-1-t", "steps-minus-1", "clip-every-step"),
            *("guidance-without-dt", "guidance-after-step"),
            *("unknown-gradient-momentum", "unknown-weight-schedule"),
        ),
    ),
    (lambda c: c.options.denoise_steps not in (1, 2, 4), ("unknown-time-quantised",)),
    (lambda c: c.flat_action_dim > 1, ("gradient-action-mean",)),
    (lambda c: c.obs_dim >= c.flat_action_dim, ("gradient-of-observation",)),
    (_chunk, ("chunk-action-major",)),
)
"""What the options and shapes must be like for some mistakes to have an effect."""
