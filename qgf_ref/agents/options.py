"""What the arrays of a checkpoint do not tell: the sampler's options and the training recipe's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from qgf_ref.agents.by_network import ALL, NONE, network_names, value_text, values_by_network
from qgf_ref.errors import InputError, listing
from qgf_ref.flow.path import check_steps
from qgf_ref.nets.joint import Input
from qgf_ref.nets.mlp import MLPOptions
from qgf_ref.ops.activations import require_activation
from qgf_ref.ops.ensemble import require_aggregation
from qgf_ref.ops.layer_norm import EPS


@dataclass(frozen=True)
class Options:
    """What the arrays of a checkpoint do not tell; none is guessed.

    The sampler's, always needed:
    activation, q_aggregation  names of `qgf_ref.ops`; activations, by network
    denoise_steps              T, the Euler steps of the sampler
    horizon_length             H, actions in a chunk
    action_chunking            whether the policy outputs the whole chunk (D = H·A) or one action

    Where the networks are not the official ones, else None:
    layer_norm_eps             inside the square root of every LayerNorm (official 1e-6, PyTorch's
                               default 1e-5)
    policy_inputs              the columns that the policy reads, in the order of its concatenation:
                               obs, action and one of time (embedded) or raw_time (one column)
    norm_after_activation      the networks whose LayerNorm follows the activation, not the linear
    residual                   those whose hidden layers are x + block(x), `qgf_ref.nets.mlp`
    What is said by network is written as in `qgf_ref.agents.by_network`; a network's average has
    what the network has.

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
    policy_inputs: str | None = None
    norm_after_activation: str | None = None
    residual: str | None = None

    def __post_init__(self) -> None:
        activations = values_by_network(self.activation, "activation")
        for name in activations.values():
            require_activation(name)
        object.__setattr__(self, "activation", value_text(activations))
        if self.policy_inputs is not None:
            object.__setattr__(self, "policy_inputs", ",".join(_inputs(self.policy_inputs)))
        for option in SOME_NETWORKS:
            names = network_names(getattr(self, option), option)
            object.__setattr__(self, option, ",".join(names) or None)
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
        """What the networks are evaluated with of which nothing else is said."""
        return self.mlp_of(ALL)

    def mlp_of(self, network: str) -> MLPOptions:
        """What the network of that name, and its average, are evaluated with."""
        return _mlp_of(self, network)

    def networks_with(self, option: str) -> tuple[str, ...]:
        """The names for which an option of `SOME_NETWORKS` holds; ("all",): every network."""
        return network_names(getattr(self, option), option)

    def named_networks(self) -> dict[str, tuple[str, ...]]:
        """{option: the networks that it names}, of the options that do."""
        named = {"activation": tuple(values_by_network(self.activation, "activation"))}
        named |= {option: self.networks_with(option) for option in SOME_NETWORKS}
        return {o: tuple(n for n in names if n != ALL) for o, names in named.items()}

    @property
    def field_inputs(self) -> tuple[Input, ...] | None:
        """`policy_inputs`, one by one."""
        return None if self.policy_inputs is None else _inputs(self.policy_inputs)

    def stated(self) -> dict[str, Any]:
        """{name: value} of those that are known, in order: what reports hold."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def stored(self) -> dict[str, Any]:
        """What files hold.

        Releases that do not know an option pass over it. With one that changes what the networks
        compute, the activation is written so that they refuse it.
        """
        values = self.stated()
        if values.keys() & {"policy_inputs", *SOME_NETWORKS}:
            values["activation"] = f"{ALL}={self.activation}"
        return values


SOME_NETWORKS = ("norm_after_activation", "residual")
"""Options that name the networks for which they hold."""


def _inputs(text: str) -> tuple[Input, ...]:
    names: list[Any] = [name.strip() for name in text.split(",")]
    times = [name for name in names if name in ("time", "raw_time")]
    others = {"obs", "action"} <= set(names) <= {"obs", "action", "label", *times}
    if not others or len(times) != 1 or len(set(names)) < len(names):
        raise InputError(
            "policy_inputs must name obs, action and time (embedded) or raw_time (one column), in "
            "the order in which the policy concatenates them, such as obs,action,raw_time; got "
            f"{listing([text])}"
        )
    return tuple(names)


_TYPES = {
    "activation": str,
    "q_aggregation": str,
    "denoise_steps": int,
    "horizon_length": int,
    "action_chunking": bool,
    "discount": float,
    "expectile": float,
    "layer_norm_eps": float,
    "policy_inputs": str,
    "norm_after_activation": str,
    "residual": str,
}
RECIPE_OPTIONS = ("discount", "expectile")
"""Needed to train, to check an update and to discount returns; not to sample."""
_OPTIONAL = (*RECIPE_OPTIONS, "layer_norm_eps", "policy_inputs", *SOME_NETWORKS)


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
    if name in SOME_NETWORKS:
        value = ",".join(network_names(value, name)) or NONE
    elif name == "policy_inputs" and isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    if kind is bool:
        right = value in (0, 1)
    elif kind is float:
        right = isinstance(value, float) or (type(value) is int and value in (0, 1))
    else:
        right = isinstance(value, kind) and not isinstance(value, bool)
    if not right:
        raise InputError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return kind(value)


@lru_cache(maxsize=256)
def _mlp_of(options: Options, network: str) -> MLPOptions:
    """`Options.mlp_of`; an agent that acts asks for all of its networks' at every step."""
    activations = values_by_network(options.activation, "activation")
    order, residual = (
        bool({ALL, network} & set(options.networks_with(option))) for option in SOME_NETWORKS
    )
    return MLPOptions(
        activations.get(network, activations[ALL]),
        options.layer_norm_eps or EPS,
        norm_after_activation=order,
        residual=residual,
    )
