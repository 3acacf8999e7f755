"""What the arrays of a checkpoint do not tell: the sampler's options and the training recipe's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from qgf_ref.errors import InputError
from qgf_ref.flow.path import check_steps
from qgf_ref.nets.mlp import MLPOptions
from qgf_ref.ops.activations import require_activation
from qgf_ref.ops.ensemble import require_aggregation
from qgf_ref.ops.layer_norm import EPS


@dataclass(frozen=True)
class Options:
    """What the arrays of a checkpoint do not tell; none is guessed.

    The sampler's, always needed:
    activation, q_aggregation  names of `qgf_ref.ops`
    denoise_steps              T, the Euler steps of the sampler
    horizon_length             H, actions in a chunk
    action_chunking            whether the policy outputs the whole chunk (D = H·A) or one action

    Where the networks are not the official ones, else None:
    layer_norm_eps             inside the square root of every LayerNorm (official 1e-6, PyTorch's
                               default 1e-5)

    The training recipe's, None where they are not known:
    discount, expectile        γ and τ of IQL

    Raises InputError on a value outside its range.
    """

    activation: str
    q_aggregation: str
    denoise_steps: int
    horizon_length: int
    action_chunking: bool
    discount: float | None = None
    expectile: float | None = None
    layer_norm_eps: float | None = None

    def __post_init__(self) -> None:
        require_activation(self.activation)
        require_aggregation(self.q_aggregation)
        check_steps(self.denoise_steps)
        if not 1 <= self.horizon_length <= 10_000:
            raise InputError(f"horizon_length must be from 1 to 10000, got {self.horizon_length}")
        eps = self.layer_norm_eps
        if eps is not None and not 0 < eps < 1:
            raise InputError(f"layer_norm_eps must lie in (0, 1), got {eps}")
        if eps == EPS:  # said or not, it is the same checkpoint
            object.__setattr__(self, "layer_norm_eps", None)
        for name in RECIPE_OPTIONS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {value}")

    @property
    def mlp(self) -> MLPOptions:
        """What every network of the checkpoint is evaluated with."""
        return MLPOptions(self.activation, self.layer_norm_eps or EPS)

    def stated(self) -> dict[str, Any]:
        """{name: value} of those that are known, in order: what files and reports hold."""
        return {name: value for name, value in vars(self).items() if value is not None}


_TYPES = {
    "activation": str,
    "q_aggregation": str,
    "denoise_steps": int,
    "horizon_length": int,
    "action_chunking": bool,
    "discount": float,
    "expectile": float,
    "layer_norm_eps": float,
}
RECIPE_OPTIONS = ("discount", "expectile")
"""Needed to train, to check an update and to discount returns; not to sample."""
_OPTIONAL = (*RECIPE_OPTIONS, "layer_norm_eps")


def option_names() -> tuple[str, ...]:
    """The names of all options, in order."""
    return tuple(f.name for f in fields(Options))


def options_from(values: Mapping[str, Any], source: str) -> Options:
    """`Options` from a mapping that may hold more; raises InputError naming what is missing."""
    given = {name: values[name] for name in _TYPES if values.get(name) is not None}
    missing = [name for name in _TYPES if name not in given and name not in _OPTIONAL]
    if missing:
        raise InputError(f"{source} does not say: {', '.join(missing)}. {how_to_give(missing)}")
    try:
        return Options(**{name: _converted(name, value) for name, value in given.items()})
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def how_to_give(missing: list[str]) -> str:
    """The sentence that says where options can be stated."""
    flags = " ".join(f"--{name.replace('_', '-')} …" for name in missing)
    return (
        f"Give them on the command line ({flags}), in a flags.json beside the checkpoint, or as "
        f"load(…, {missing[0]}=…)."
    )


def _converted(name: str, value: Any) -> Any:
    """`value` in the option's type, without a change; raises InputError where that cannot be."""
    kind = _TYPES[name]
    value = value.item() if isinstance(value, np.generic) else value
    if kind is bool:
        right = value in (0, 1)
    elif kind is float:
        right = isinstance(value, float) or (type(value) is int and value in (0, 1))
    else:
        right = isinstance(value, kind) and not isinstance(value, bool)
    if not right:
        raise InputError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return kind(value)
