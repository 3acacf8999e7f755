"""Networks of other frameworks as a flow, differentiated by the framework's own autodiff.

    flow = qgf_ref.adapters.torch(field=policy, critic=q, action_shape=(50, 32), obs_dim=14,
                                  convention="openpi", denoise_steps=10)
    actions = qgf_ref.sample(flow, obs, estimator="qgf", weight=0.1, rng=0)

A field is a function (obs, x, τ) → u with x and u (B, *action_shape) and τ (B,), in its own
convention (`qgf_ref.flow.convention`); a critic (obs, x) → Q (B,), or (E, B) of an ensemble. What
comes back is a `GuidedFlow`, for everything that takes one. No framework is imported before one of
these functions is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qgf_ref.adapters.autodiff import Autodiff
from qgf_ref.adapters.build import AdapterSettings, guided_flow
from qgf_ref.adapters.differences import NumpyFunction
from qgf_ref.adapters.observations import row_numbers
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.guidance.base import GuidedFlow

__all__ = ["AdapterSettings", "Normalisation", "functions", "jax", "row_numbers", "torch"]

Function = Callable[..., Any]


def torch(
    field: Function,
    critic: Function | None = None,
    *,
    dtype: Any = None,
    device: Any = None,
    **settings: Any,
) -> GuidedFlow:
    """A flow whose field and critic are PyTorch modules, or functions of tensors.

    field, critic  see the module. Without a critic only the estimator "none" runs
    dtype, device  of the tensors; default: those of the modules that the functions refer to. Of
                   half-precision modules the flow computes in float32, and casts at their door
    settings       the fields of `AdapterSettings`, action_shape first of all
    Raises InputError where PyTorch is missing, on a module in training mode, on a device that does
    not fit, and as `AdapterSettings` does.
    """
    from qgf_ref.adapters.torch_autodiff import TorchFunction

    def autodiff(function: Function, what: str) -> Autodiff:
        return TorchFunction(function, what, dtype, device)

    return guided_flow(autodiff, field, critic, AdapterSettings.of(settings))


def jax(
    field: Function,
    critic: Function | None = None,
    *,
    dtype: Any = None,
    jit: bool = True,
    **settings: Any,
) -> GuidedFlow:
    """A flow whose field and critic are functions of JAX arrays.

    field, critic  see the module. Without a critic only the estimator "none" runs
    dtype     float32, or float64 with jax_enable_x64; default: JAX's own
    jit       compile forward and products, one time for each shape; observations must then be
              pytrees of arrays. False: call the functions as they are
    settings  the fields of `AdapterSettings`, action_shape first of all
    Raises InputError where JAX is missing, on float64 that is off, and as `AdapterSettings` does.
    """
    from qgf_ref.adapters.jax_autodiff import JaxFunction

    def autodiff(function: Function, what: str) -> Autodiff:
        return JaxFunction(function, what, dtype, jit)

    return guided_flow(autodiff, field, critic, AdapterSettings.of(settings))


def functions(
    field: Function, critic: Function | None = None, *, dtype: Any = np.float64, **settings: Any
) -> GuidedFlow:
    """A flow whose field and critic are functions of NumPy arrays: of any framework, or a server's.

    There is no autodiff: every product comes from `AdapterSettings.differences`, and one that is
    not among them raises InputError when it is asked for. A vjp takes 2D calls.
    """

    def autodiff(function: Function, what: str) -> Autodiff:
        return NumpyFunction(function, what, dtype)

    return guided_flow(autodiff, field, critic, AdapterSettings.of(settings))
