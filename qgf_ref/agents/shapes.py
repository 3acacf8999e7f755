"""Whether an agent's networks fit each other: widths, ensembles, layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qgf_ref.agents.agent import Agent
from qgf_ref.agents.by_network import ALL
from qgf_ref.agents.options import Options
from qgf_ref.agents.part import Part
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.nets.auxiliary import AuxiliaryParams
from qgf_ref.nets.joint import COLUMNS, LABEL_COLUMNS, LABELS
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.time_embedding import DIM


def telling_parts(agent: Agent, params: Mapping[str, MLPParams]) -> tuple[Part, Part]:
    """The present parts that tell O and D: the fewest inputs with obs; the first with an action."""
    present = [part for part in agent.parts if part.name in params]
    by_obs = min((p for p in present if "obs" in p.inputs), key=lambda p: len(p.inputs))
    return by_obs, next(part for part in present if part.outputs == "action")


def hidden_widths(params: MLPParams) -> list[int]:
    """Widths of the hidden layers."""
    return [int(layer.kernel.shape[-1]) for layer in params.layers[:-1]]


def with_ensembles(agent: Agent, networks: Mapping[str, MLPParams]) -> dict[str, MLPParams]:
    """The parts, an ensemble of one that was stored without the axis with it."""
    return {
        name: params.map(lambda a: a[None])
        if agent.part(name).ensemble and params.ensemble is None
        else params
        for name, params in networks.items()
    }


def require_shapes(
    agent: Agent, networks: Mapping[str, MLPParams], options: Options, source: str
) -> None:
    """Raise InputError unless the parts fit each other and the options. source: for errors."""
    obs_part, action_part = telling_parts(agent, networks)
    D = networks[action_part.name].out_features
    O = networks[obs_part.name].in_features - obs_part.in_features(0, D)
    for name, params in networks.items():
        part, columns = agent.part(name), _encoded_columns(params, name, source)
        if (columns > 0) != ("step" in part.inputs):
            has = "an" if columns else "no"
            raise InputError(f"{source}: the {name} of the agent {agent.name} has {has} encoder")
        width = part.in_features(O, D) + columns
        if params.in_features != width:
            raise InputError(
                f"{source}: the {name}'s first layer takes {params.in_features} features; "
                f"with observations of {O} ({obs_part.name}) and actions of {D} "
                f"({action_part.name}) it must take {width}. "
                f"{_other_time(part, params.in_features - width)}"
            )
        _check_chain(name, params, source)
    # an average and what it is the average of have as many members
    averages = {part.target_of: part.name for part in agent.parts if part.name in networks}
    for name, params in networks.items():
        part, members = agent.part(name), None
        if part.ensemble:
            counted = averages.get(name, name)
            members = networks[counted].ensemble
            if not members:
                label = counted.replace("_", " ")
                raise InputError(f"{source}: the {label} has no ensemble members")
        _check_ensemble(name, params, members, part.out_features(D), source)
    if options.action_chunking and D % options.horizon_length:
        raise InputError(
            f"{source}: the {action_part.name}'s output of {D} is not a multiple of "
            f"horizon_length {options.horizon_length}"
        )


def _other_time(part: Part, surplus: int) -> str:
    """What may explain so many columns more than its inputs have."""
    for here, other, what in (("time", "raw_time", "one column"), ("raw_time", "time", "embedded")):
        if here in part.inputs and surplus == COLUMNS[other] - COLUMNS[here]:
            names = [other if name == here else name for name in part.inputs]
            return (
                f"That fits a time that is {what}: --policy-inputs {','.join(names)}, in the order "
                f"in which your network concatenates them (policy_inputs='{','.join(names)}')"
            )
    question = "Is it a Q-Guided Flow checkpoint with a sinusoidal time embedding?"
    if "time" in part.inputs or "raw_time" in part.inputs:
        question += " Another embedding comes in through an adapter (qgf_ref.adapters)"
    return question


def require_named_networks(
    agent: Agent, networks: Mapping[str, MLPParams], options: Options, source: str
) -> None:
    """Raise InputError unless networks that the options name are there and have what is said."""
    own = [part.name for part in agent.parts if part.target_of is None]
    for option, names in options.named_networks().items():
        for name in names:
            if name not in own:
                raise unknown_name(f"network in {option}", name, (ALL, *own))
    for option, (has, lacks) in _SAID_OF_NETWORKS.items():
        for name in options.networks_with(option):
            concerned = [
                params
                for part, params in networks.items()
                if name in (ALL, agent.part(part).target_of or part)
            ]
            if concerned and not any(map(has, concerned)):
                who = "no network has a" if name == ALL else f"the {name} has no"
                raise InputError(f"{source}: {option} says {name}, but {who} {lacks}")


def _has_norm(params: MLPParams) -> bool:
    return any(layer.scale is not None for layer in params.layers[:-1])


def _has_block(params: MLPParams) -> bool:
    rule = MLPOptions(residual=True)
    return any(rule.adds_input(params, i) for i in range(len(params.layers)))


_SAID_OF_NETWORKS: dict[str, tuple[Callable[[MLPParams], bool], str]] = {
    "norm_after_activation": (_has_norm, "LayerNorm"),
    "residual": (_has_block, "hidden layer after the first that gives as many numbers as it takes"),
}


def _encoded_columns(params: MLPParams, name: str, source: str) -> int:
    """How many columns the encoder of a step gives, if there is one, whose arrays fit."""
    encoder = params.encoder
    if encoder is None:
        return 0
    shape = () if encoder.table is None else encoder.table.shape
    if shape != (encoder.in_features // 2, 1) or encoder.in_features % 2:
        raise InputError(
            f"{source}: the frequencies of the {name}'s encoder have shape {shape}, which does not "
            f"fit {encoder.in_features} features"
        )
    _check_chain(f"{name}'s encoder", encoder, source)
    return encoder.out_features


def _check_ensemble(
    name: str, params: MLPParams, ensemble: int | None, outputs: int, source: str
) -> None:
    for i, layer in enumerate(params.layers):
        lead = () if ensemble is None else (ensemble,)
        if layer.kernel.shape[:-2] != lead:
            raise InputError(
                f"{source}: layer {i} of the {name} has kernels of shape {layer.kernel.shape}, "
                f"expected {'no ensemble axis' if ensemble is None else f'{ensemble} members'}"
            )
    if params.out_features != outputs:
        raise InputError(f"{source}: the {name} has {params.out_features} outputs, not {outputs}")


def check_auxiliary(auxiliary: AuxiliaryParams, O: int, D: int, source: str) -> None:
    """Raise InputError unless the auxiliary networks fit observations of O and actions of D."""
    widths = {"robust_q": (O + D + DIM, 1), "distill": (O + D + DIM, D)}
    widths["cfgrl"] = (O + D + DIM + LABEL_COLUMNS, D)
    for name, params in auxiliary.present().items():
        takes, gives = widths[name]
        if params.in_features != takes:
            raise InputError(
                f"{source}: the auxiliary network {name} takes {params.in_features} features; with "
                f"observations of {O} and actions of {D} it must take {takes}"
            )
        _check_chain(name, params, source)
        _check_ensemble(name, params, None, gives, source)
    if auxiliary.cfgrl is not None:
        table = auxiliary.cfgrl.table
        shape = () if table is None else table.shape
        if shape != (LABELS, LABEL_COLUMNS):
            raise InputError(
                f"{source}: cfgrl's table has shape {shape}, expected {(LABELS, LABEL_COLUMNS)}"
            )


def _check_chain(name: str, params: MLPParams, source: str) -> None:
    width = params.in_features
    for i, layer in enumerate(params.layers):
        fan_in, fan_out = layer.kernel.shape[-2:]
        if fan_in != width:
            raise InputError(
                f"{source}: layer {i} of the {name} takes {fan_in} features, but the layer before "
                f"gives {width}"
            )
        for part in ("bias", "scale", "offset"):
            array = getattr(layer, part)
            if array is not None and array.shape != (*layer.kernel.shape[:-2], fan_out):
                raise InputError(
                    f"{source}: {part} of layer {i} of {name} has shape {array.shape}, expected "
                    f"{(*layer.kernel.shape[:-2], fan_out)}"
                )
        width = fan_out
