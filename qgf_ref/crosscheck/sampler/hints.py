"""What would make a right port of one that is accused: another option of the checkpoint.

A mistake's text says what the official code has. Who trained other networks, and loaded them
without saying so, has a right port and a wrong option: the line under the finding names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qgf_ref.agents.by_network import ALL, value_text, values_by_network
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.goal_guided import GoalGuided
from qgf_ref.crosscheck.sampler.mistakes.bank import Made
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.flow.diffusion import SamplerClips

ACTIVATIONS = {
    "gelu-erf": "gelu_erf", "gelu-quick": "gelu_quick", "activation-relu": "relu",
    "activation-silu": "silu", "activation-gelu": "gelu",
}  # fmt: skip
EPSILONS = {"layer-norm-eps-1e-5": 1e-5, "layer-norm-eps-1e-3": 1e-3}
ORDERS = {"policy-input-action-first": "action,obs,{}", "policy-input-time-first": "{},obs,action"}
GUIDES = {
    "gradient-of-probability": "guide_output=probability",
    "gradient-of-logit": "guide_output=logit", "critic-target": "guide_critic=target",
}  # fmt: skip
CLIPS = {
    "no-clip": SamplerClips(), "clip-before": SamplerClips(before=True),
    "clip-after": SamplerClips(after=True), "clip-before-and-after": SamplerClips(True, True),
}  # fmt: skip
REDUCED = {"ensemble-mean": "mean", "ensemble-min": "min"}
"""Mistake → the option under which it is right."""


def hints(setting: Setting, made: Sequence[Made], ranked: bool = False) -> dict[str, str]:
    """{a mistake as made: the line that names the option}, of those that an option explains.

    made     the mistakes of one explanation: some options explain two of them at once
    ranked   whether candidates were chosen among, too
    """
    networks = setting.checkpoint
    if not isinstance(networks, Checkpoint):
        return {}
    every = {item.name for item in made}
    told = ((str(item), _hint(setting, networks, item, every, ranked)) for item in made)
    return {name: line for name, line in told if line}


def _hint(setting: Setting, ck: Checkpoint, made: Made, every: set[str], ranked: bool) -> str:
    name, options, where = made.name, ck.options, _networks(ck, made.variant)
    if name in ACTIVATIONS:
        values = values_by_network(options.activation, "activation")
        return _option("activation", value_text(_with(values, where, ACTIVATIONS[name])))
    if name == "activation-before-norm":
        names = [*options.networks_with("norm_after_activation"), *where]
        return _option("norm_after_activation", ALL if ALL in names else ",".join(names))
    if name in EPSILONS and where == (ALL,):  # one for all networks
        return _option("layer_norm_eps", EPSILONS[name])
    if name in ORDERS:
        time = "raw_time" if "raw_time" in ck.agent.part("policy").inputs else "time"
        return _option("policy_inputs", ORDERS[name].format(time))
    if name in GUIDES:
        return _settings(GUIDES[name])
    if name in CLIPS:
        flags = vars(CLIPS[name]).items()
        return _settings(*(f"clip_sampler_{n}={str(on).lower()}" for n, on in flags))
    if name in REDUCED and (not ranked or f"best-of-{REDUCED[name]}" in every):
        return _option("q_aggregation", REDUCED[name])
    return _MEANT.get(name, "")


_MEANT = {
    "time-float64": "if float32 networks are to be told float64 times, say so in the trace's "
    'metadata: "time_embedding": "exact"',
    "matmul-bf16": "if its networks are to compute in bfloat16: --precision bfloat16 "
    "(precision='bfloat16')",
}
"""What is no option of a checkpoint."""


def _networks(ck: Checkpoint, variant: str) -> tuple[str, ...]:
    """The networks in which a mistake was made, by the names that options have for them."""
    critic = "action_critic" if isinstance(ck.agent, GoalGuided) else "critic"
    return {"in the policy only": ("policy",), "in the critic only": (critic,)}.get(variant, (ALL,))


def _with(values: dict[str, str], where: tuple[str, ...], new: str) -> dict[str, str]:
    return {ALL: new} if where == (ALL,) else {**values, **dict.fromkeys(where, new)}


def _option(name: str, value: Any) -> str:
    return _trained(f"--{name.replace('_', '-')} {value}", f"{name}={value!r}")


def _settings(*said: str) -> str:
    return _trained(f"--set {' '.join(said)}", "settings={…}")


def _trained(flag: str, python: str) -> str:
    return f"if the checkpoint was trained so, its option is wrong: {flag} ({python})"
