"""FLOPs and weight bytes of a sampler, from its products and the sizes of its layers.

Only matrix products are counted: 2·I·F for each row and kernel (I, F), and a kernel's bytes
once for each product. LayerNorm, activations, biases and the update are left out; a share of the
machine's peak is thus what the whole sampler makes of the peak of its matrix products.

nominal    the official formulation: every member's vjp, every column of every kernel, each step
necessary  without what the sampler can avoid (the same numbers come out):
           * the observation's part of a first layer is the same at every step: once per chain;
           * the time embedding's part is a constant of the sampler: never;
           * with min, a row's cotangent is zero but for its attaining member: one vjp, not E;
           * the last product of a vjp, and the first of a jvp, need only the action's columns.

A Hessian-vector product is a jvp and a sweep backward with a cotangent and its tangent; of the
cotangent the last product is not made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.guidance.base import CRITIC_GRADIENT, Products
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.guidance.registry import estimator as estimator_by_name
from qgf_ref.nets.mlp import MLPParams


class Count(NamedTuple):
    """Of one call of a sampler. weight_bytes: kernels, read once for each product."""

    flops: int
    weight_bytes: int


class Counts(NamedTuple):
    """Both counts; see the module."""

    nominal: Count
    necessary: Count


class LayerSizes(NamedTuple):
    """Numbers in one member's kernels.

    whole   all of them
    obs     the first kernel's rows of the observation
    active  all but the first kernel's rows of the observation and of the time
    inner   all but the first kernel
    """

    whole: int
    obs: int
    active: int
    inner: int


def total_products(
    checkpoint: Checkpoint, estimator: EstimatorLike, steps: int | None = None
) -> Products | None:
    """What a whole sampler asks of the networks; None for an estimator that does not say.

    steps  T, instead of the checkpoint's
    """
    guide, flow = estimator_by_name(estimator), checkpoint.flow
    if steps is not None:
        flow = replace(flow, denoise_steps=steps)
    total = Products(field_forward=flow.denoise_steps)
    for k in range(flow.denoise_steps):
        asked = guide.products(flow, k)
        if asked is None:
            return None
        total += asked
    return total


def count(
    checkpoint: Checkpoint,
    estimator: EstimatorLike,
    rows: int,
    steps: int | None = None,
    *,
    best_of: int = 1,
    gradient_steps: int = 0,
) -> Counts | None:
    """One call with `rows` observations, in the checkpoint's dtype; None as `total_products`.

    best_of  N candidates for each observation, ranked by one more forward of the critic; what is
             the same for all of them, the observation's part, is necessary only once
    gradient_steps  after the flow: a forward and a vjp of the critic each
    Also None for an estimator with an auxiliary network, whose size is not that of the products
    that it counts as.
    """
    if estimator_by_name(estimator).auxiliary is not None:
        return None
    products = total_products(checkpoint, estimator, steps)
    if products is None:
        return None
    for _ in range(gradient_steps):
        products += CRITIC_GRADIENT
    if best_of > 1:
        products += Products(critic_forward=1)
    chains = rows * best_of
    flow: Any = checkpoint.flow  # of the parts that act, whatever the agent calls them
    itemsize = flow.field.params.layers[0].kernel.dtype.itemsize
    E = flow.critic.params.ensemble or 1
    policy = sizes(flow.field.params, checkpoint)
    critic = sizes(flow.critic.params, checkpoint)
    of_field = products.field_forward + products.field_jvp + products.field_vjp
    forward, hvp = products.critic_forward, products.critic_hvp
    back = products.critic_jvp + products.critic_vjp
    back_whole = back * critic.whole + hvp * (2 * critic.whole + critic.inner)
    back_active = back * critic.active + hvp * (2 * critic.active + critic.inner)
    every = of_field * policy.whole + E * (forward * critic.whole + back_whole)
    # once per chain
    first = policy.obs + (E * critic.obs if forward else 0)
    always = of_field * policy.active + E * forward * critic.active
    attaining = checkpoint.options.q_aggregation == "min"
    per_row, touched = (1, min(E, chains)) if attaining else (E, E)
    return Counts(
        Count(2 * chains * every, itemsize * every),
        Count(
            2 * (rows * first + chains * (always + per_row * back_active)),
            itemsize * (first + always + touched * back_active),
        ),
    )


def sizes(params: MLPParams, checkpoint: Checkpoint) -> LayerSizes:
    """Of a policy or a critic of this checkpoint."""
    kernels = [layer.kernel.shape[-2:] for layer in params.layers]
    first = kernels[0][1]
    inner = sum(fan_in * fan_out for fan_in, fan_out in kernels[1:])
    return LayerSizes(
        whole=inner + kernels[0][0] * first,
        obs=checkpoint.obs_dim * first,
        active=inner + checkpoint.flat_action_dim * first,
        inner=inner,
    )
