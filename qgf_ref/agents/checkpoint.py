"""A checkpoint: networks and the options that the arrays alone do not tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from qgf_ref.arrays import real_dtype
from qgf_ref.errors import InputError
from qgf_ref.flow.path import check_steps
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.losses.batch import Hyperparameters
from qgf_ref.nets.auxiliary import NO_AUXILIARY_PARAMS, AuxiliaryParams
from qgf_ref.nets.critic import MLPCritic
from qgf_ref.nets.joint import LABEL_COLUMNS, LABELS
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.nets.networks import Networks
from qgf_ref.nets.value import MLPValue
from qgf_ref.nets.velocity import MLPVelocity
from qgf_ref.ops.activations import require_activation
from qgf_ref.ops.ensemble import require_aggregation
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import DIM, Precision


@dataclass(frozen=True)
class Options:
    """What the arrays of a checkpoint do not tell. All are required; none is guessed.

    activation, q_aggregation  names of `qgf_ref.ops`
    denoise_steps              T, the Euler steps of the sampler
    horizon_length             H, actions in a chunk
    action_chunking            whether the policy outputs the whole chunk (D = H·A) or one action
    discount, expectile        γ and τ of IQL
    """

    activation: str
    q_aggregation: str
    denoise_steps: int
    horizon_length: int
    action_chunking: bool
    discount: float
    expectile: float

    def __post_init__(self) -> None:
        require_activation(self.activation)
        require_aggregation(self.q_aggregation)
        check_steps(self.denoise_steps)
        if not 1 <= self.horizon_length <= 10_000:
            raise InputError(f"horizon_length must be from 1 to 10000, got {self.horizon_length}")
        for name in ("discount", "expectile"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def options_from(values: dict[str, Any], source: str) -> Options:
    """`Options` from a mapping that may hold more; raises InputError naming what is missing."""
    types = {
        "activation": str,
        "q_aggregation": str,
        "denoise_steps": int,
        "horizon_length": int,
        "action_chunking": bool,
        "discount": float,
        "expectile": float,
    }
    missing = [name for name in types if values.get(name) is None]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')} …" for name in missing)
        raise InputError(
            f"{source} does not say: {', '.join(missing)}. Give them on the command line "
            f"({flags}), in a flags.json beside the checkpoint, or as load(…, {missing[0]}=…)."
        )
    chosen: dict[str, Any] = {}
    for name, kind in types.items():
        value = values[name]
        value = value.item() if isinstance(value, np.generic) else value
        right = isinstance(value, kind) or (
            kind is float and type(value) is int and value in (0, 1)
        )
        if kind is bool and value in (0, 1):
            right = True
        elif kind is not bool and isinstance(value, bool):
            right = False
        if not right:
            raise InputError(f"{source}: {name} must be of type {kind.__name__}, got {value!r}")
        chosen[name] = kind(value)
    try:
        return Options(**chosen)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


@dataclass(frozen=True)
class Checkpoint:
    """The four networks of a trained agent, as arrays, and the options.

    policy MLPParams; critic, target_critic MLPParams with the ensemble axis; value MLPParams;
    auxiliary: networks trained against these, for the estimators that need them.
    Raises InputError when the arrays contradict each other or the options.
    """

    options: Options
    policy: MLPParams
    critic: MLPParams
    target_critic: MLPParams
    value: MLPParams
    source: str = "memory"
    auxiliary: AuxiliaryParams = NO_AUXILIARY_PARAMS

    def __post_init__(self) -> None:
        O, D = self.value.in_features, self.policy.out_features
        expected = {"policy": O + D + DIM, "critic": O + D, "target_critic": O + D, "value": O}
        for name, width in expected.items():
            params: MLPParams = getattr(self, name)
            if params.in_features != width:
                raise InputError(
                    f"{self.source}: the {name}'s first layer takes {params.in_features} features; "
                    f"with observations of {O} (value) and actions of {D} (policy) it must take "
                    f"{width}. Is it a Q-Guided Flow checkpoint with a sinusoidal time embedding?"
                )
            _check_chain(name, params, self.source)
        members = self.target_critic.ensemble
        for name, ensemble, outputs in (
            ("policy", None, D),
            ("critic", members, 1),
            ("target_critic", members, 1),
            ("value", None, 1),
        ):
            _check_ensemble(name, getattr(self, name), ensemble, outputs, self.source)
        if self.options.action_chunking and D % self.options.horizon_length:
            raise InputError(
                f"{self.source}: the policy's output of {D} is not a multiple of horizon_length "
                f"{self.options.horizon_length}"
            )
        _check_auxiliary(self.auxiliary, O, D, self.source)

    @property
    def obs_dim(self) -> int:
        """O."""
        return self.value.in_features

    @property
    def flat_action_dim(self) -> int:
        """D, the width of the flat action chunk."""
        return self.policy.out_features

    @property
    def action_dim(self) -> int:
        """A, the width of one action."""
        horizon = self.options.horizon_length if self.options.action_chunking else 1
        return self.flat_action_dim // horizon

    @property
    def dtype(self) -> str:
        """Name of the parameters' dtype."""
        return str(self.policy.layers[0].kernel.dtype.name)

    def astype(self, dtype: DTypeLike) -> Checkpoint:
        """The same checkpoint in float32 or float64."""
        kind = real_dtype(dtype)
        parts = ("policy", "critic", "target_critic", "value", "auxiliary")
        return replace(self, **{name: getattr(self, name).astype(kind) for name in parts})

    def networks(
        self, *, embedding: Precision = "exact", kernels: Kernels = reference_kernels
    ) -> Networks:
        """The four networks, ready to be evaluated."""
        options = MLPOptions(self.options.activation)
        aggregation = self.options.q_aggregation
        return Networks(
            policy=MLPVelocity(self.policy, options, embedding, kernels),
            critic=MLPCritic(self.critic, options, aggregation, kernels),
            target_critic=MLPCritic(self.target_critic, options, aggregation, kernels),
            value=MLPValue(self.value, options, kernels),
        )

    def guided_flow(
        self, *, embedding: Precision = "exact", kernels: Kernels = reference_kernels
    ) -> GuidedFlow:
        """What a sampler needs: the policy's field, the target critic, T and the action bound."""
        nets = self.networks(embedding=embedding, kernels=kernels)
        return GuidedFlow(
            nets.policy,
            nets.target_critic,
            self.options.denoise_steps,
            time_precision=embedding,
            kernels=kernels,
            auxiliary=self.auxiliary.networks(
                MLPOptions(self.options.activation), embedding, kernels
            ),
        )

    @property
    def flow(self) -> GuidedFlow:
        """`guided_flow()` with its defaults."""
        return self.guided_flow()

    def hyperparameters(self) -> Hyperparameters:
        """What a training update needs beside the networks."""
        o = self.options
        return Hyperparameters(o.discount, o.horizon_length, o.expectile)

    def describe(self) -> dict[str, Any]:
        """Sizes and options, for reports."""
        hidden = [int(layer.kernel.shape[-1]) for layer in self.policy.layers[:-1]]
        return {
            "source": self.source,
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "flat_action_dim": self.flat_action_dim,
            "policy_hidden": hidden,
            "critic_hidden": [int(x.kernel.shape[-1]) for x in self.target_critic.layers[:-1]],
            "ensemble": self.target_critic.ensemble,
            "parameters": sum(
                p.count for p in (self.policy, self.critic, self.target_critic, self.value)
            ),
            "dtype": self.dtype,
            **asdict(self.options),
            **({"auxiliary": list(self.auxiliary.present())} if self.auxiliary.present() else {}),
        }


def digest(networks: Iterable[MLPParams], about: str = "") -> str:
    """SHA-256 of `about` and of every array of the networks: name, dtype, shape and bytes."""
    total = hashlib.sha256(about.encode())
    for network in networks:
        for name, array in network.named():
            total.update(f"{name} {array.dtype} {array.shape}".encode())
            total.update(array.tobytes())
    return total.hexdigest()


def option_names() -> tuple[str, ...]:
    """The names of all options, in order."""
    return tuple(f.name for f in fields(Options))


def _check_ensemble(
    name: str, params: MLPParams, ensemble: int | None, outputs: int, source: str
) -> None:
    if name.endswith("critic") and not ensemble:
        raise InputError(f"{source}: the target critic has no ensemble members")
    for i, layer in enumerate(params.layers):
        lead = () if ensemble is None else (ensemble,)
        if layer.kernel.shape[:-2] != lead:
            raise InputError(
                f"{source}: layer {i} of the {name} has kernels of shape {layer.kernel.shape}, "
                f"expected {'no ensemble axis' if ensemble is None else f'{ensemble} members'}"
            )
    if params.out_features != outputs:
        raise InputError(f"{source}: the {name} has {params.out_features} outputs, not {outputs}")


def _check_auxiliary(auxiliary: AuxiliaryParams, O: int, D: int, source: str) -> None:
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
