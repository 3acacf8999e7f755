"""Networks that are otherwise than the options say: the port is wrong, or the options are.

Weights do not tell these options (`qgf_ref.agents.options.Options`), so that somebody gives them.
They stand beside the bank, which is of the official networks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

from qgf_ref.crosscheck.sampler.mistakes.base import (
    Applies,
    Change,
    Mistake,
    changing_options,
    one,
)
from qgf_ref.crosscheck.sampler.mistakes.networks import GELU, RIVALS, any_network, has_norm
from qgf_ref.crosscheck.sampler.mistakes.parameters import reads_officially
from qgf_ref.crosscheck.sampler.port import Port
from qgf_ref.ops.activations import ACTIVATIONS
from qgf_ref.ops.layer_norm import EPS

TIMES = ("time", "raw_time")
OTHERWISE = "the checkpoint's options say otherwise; if it was trained so, the option is wrong:"


def _order(port: Port) -> tuple[str, ...]:
    """The order of obs, action and time, however that is told, in the policy's columns."""
    plain = ("time" if name in TIMES else name for name in port.field.inputs)
    return tuple(name for name in plain if name in ("obs", "action", "time"))


def _reading(order: tuple[str, ...]) -> Change:
    """The policy's first layer meets its columns in this order."""

    def change(net: Any) -> Any:
        time = next(name for name in net.inputs if name in TIMES)
        rest = [name for name in net.inputs if name not in ("obs", "action", time)]
        return replace(net, inputs=(*(time if name == "time" else name for name in order), *rest))

    return lambda port: port.with_policy(change)


def _reads_another(order: tuple[str, ...]) -> Applies:
    def applies(port: Port) -> bool:
        unofficial = port.chain is None and not reads_officially(port)
        return unofficial and len(_order(port)) == len(order) and _order(port) != order

    return applies


def _has_other_activation(name: str) -> Applies:
    """Whether a network has another, and the bank does not try this one on it."""
    other = any_network(lambda net: net.options.activation != name)
    return lambda port: other(port) and not (GELU(port) and name in RIVALS)


def _blocks(net: Any, residual: bool) -> bool:
    """Whether it has a hidden layer of one width that is, or is not, a residual block."""
    options = replace(net.options, residual=True)
    could = any(options.adds_input(net.params, i) for i in range(len(net.params.layers)))
    return could and net.options.residual is residual


NETWORK_OPTIONS: tuple[Mistake, ...] = (
    Mistake(
        "norm-before-activation", "network", "v",
        "LayerNorm before the activation, as in the official QGF code: the options say after "
        "(norm_after_activation), as in DQC's",
        changing_options(norm_after_activation=False),
        any_network(lambda net: has_norm(net) and net.options.norm_after_activation),
    ),
    *(
        Mistake(
            f"policy-reads-{'-'.join(order)}", "network", "v",
            f"the policy reads [{', '.join(order)}]: {OTHERWISE} --policy-inputs (raw_time for a "
            "time that is one column)",
            one(_reading(order)), _reads_another(order),
        )
        for order in permutations(("obs", "action", "time"))
    ),
    Mistake(
        "residual-missing", "network", "v",
        f"hidden layers are block(x), and not x + block(x): {OTHERWISE} --residual",
        changing_options(residual=False), any_network(lambda net: _blocks(net, True)),
    ),
    Mistake(
        "residual-added", "network", "v",
        f"hidden layers are x + block(x), and not block(x): {OTHERWISE} --residual",
        changing_options(residual=True), any_network(lambda net: _blocks(net, False)),
    ),
    Mistake(
        "layer-norm-eps-1e-6", "network", "v",
        f"LayerNorm epsilon is 1e-6 (flax's default): {OTHERWISE} --layer-norm-eps",
        changing_options(layer_norm_eps=EPS),
        any_network(lambda net: has_norm(net) and net.options.layer_norm_eps != EPS),
    ),
    *(
        Mistake(
            f"activation-is-{name.replace('_', '-')}", "network", "v",
            f"the activation is {name}: {OTHERWISE} --activation",
            changing_options(activation=name), _has_other_activation(name),
        )
        for name in ACTIVATIONS
        if name != "gelu"
    ),
)  # fmt: skip
