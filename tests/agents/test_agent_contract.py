"""check_agent: the paper's agent and one of a user's pass; each clause catches a planted error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from qgf_ref.agents.agent import Acting, Agent, FlowAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import IQL, PARTS
from qgf_ref.agents.part import Part
from qgf_ref.arrays import Array
from qgf_ref.audit.agent_contract import CHECKS, AgentTrial
from qgf_ref.errors import InputError
from qgf_ref.evaluation.methods import parse_methods
from qgf_ref.evaluation.protocol import evaluate
from qgf_ref.evaluation.settings import Settings
from qgf_ref.nets.joint import Input, JointCache, JointMLP
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.ops.ensemble import ensemble_reduce
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.testing import ContractError, agent_checks, check_agent
from tests.evaluation.fakes import LineTask


@dataclass(frozen=True)
class NoiseToAction(JointMLP):
    """μ(s, z)."""

    params: MLPParams
    options: MLPOptions = MLPOptions()
    kernels: Kernels = reference_kernels
    inputs: tuple[Input, ...] = ("obs", "noise")
    active: ClassVar[Input] = "noise"


class HalfJvp(NoiseToAction):
    def jvp(self, x_dot: Array, cache: JointCache) -> Array:
        return 0.5 * super().jvp(x_dot, cache)


ACTOR = Part("actor", ("obs", "noise"), "action", acting=True, kind=NoiseToAction)
CRITIC = Part("critic", ("obs", "action"), "scalar", ensemble=True, acting=True)
TARGET = replace(CRITIC, name="target", target_of="critic", acting=False)


class Direct(Agent):
    """a = clip(μ(s, z)), expected Q of its critic. No flow."""

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        dtype = checkpoint.dtype
        action, _ = checkpoint.network("actor").joint(
            obs=obs.astype(dtype), noise=noise.astype(dtype)
        )
        return np.clip(action, -1, 1)

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        q, _ = checkpoint.network("critic").forward(obs, chunks)
        return ensemble_reduce(q, "min")[0]


DIRECT = Direct("direct", (ACTOR, CRITIC, TARGET))


@pytest.mark.parametrize(("name", "check"), agent_checks(DIRECT))
def test_an_agent_of_ones_own(name: str, check: Callable[[], None]) -> None:
    check()


def test_what_is_not_there_is_not_checked() -> None:
    assert set(check_agent(DIRECT).unchecked) == {"flow"}
    assert set(check_agent(Mute("mute", (ACTOR,))).unchecked) == {"flow", "expects"}
    assert check_agent(IQL).checked == tuple(CHECKS)


def test_it_is_evaluated() -> None:
    """By the protocol, in workers too; what has no flow cannot be guided."""
    checkpoint = AgentTrial(DIRECT).checkpoint.astype("float32")
    checkpoint = replace(checkpoint, options=replace(checkpoint.options, horizon_length=3))
    played = [
        evaluate(
            [checkpoint], LineTask(), Settings(parse_methods(["bc"]), episodes=4, workers=n)
        ).held_out[0].episodes
        for n in (1, 2)
    ]  # fmt: skip
    assert played[0] == played[1]
    assert all(np.isfinite(e.q).all() for e in played[0])
    for method in ("qgf", "bfn-4", "gradstep"):
        with pytest.raises(InputError, match="the agent direct has no flow to guide"):
            evaluate([checkpoint], LineTask(), Settings(parse_methods([method])))


class Mute(Direct):
    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        raise NotImplementedError


def acting(change: Callable[[Array, Array], Array]) -> Agent:
    """DIRECT with its chunks changed: (chunks, obs) → chunks."""

    class Changed(Direct):
        def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
            return change(super().act(checkpoint, obs, noise, how), obs)

    return Changed("changed", DIRECT.parts)


def expecting(change: Callable[[Array], Array]) -> Agent:
    class Changed(Direct):
        def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
            return change(super().q(checkpoint, obs, chunks))

    return Changed("changed", DIRECT.parts)


@dataclass(frozen=True)
class WithFunction(Direct):
    function: Any = None


class Mirrored(FlowAgent):
    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        return -super().act(checkpoint, obs, noise, how)


def spoil(chunks: Array, obs: Array) -> Array:
    obs += 1
    return chunks


RANDOM = np.random.default_rng(0)
PLANTED: dict[str, tuple[str, Agent, str]] = {
    "two of one name": ("parts", Direct("x", (ACTOR, CRITIC, CRITIC)), "two parts"),
    "nothing acts": ("parts", Direct("x", (replace(ACTOR, acting=False),)), "needed to act"),
    "follows nobody": ("parts", Direct("x", (ACTOR, TARGET)), "critic, which is no part"),
    "follows another kind": (
        "parts", Direct("x", (ACTOR, CRITIC, replace(TARGET, ensemble=False))), "ensemble False",
    ),
    "jvp off": ("networks", Direct("x", (replace(ACTOR, kind=HalfJvp),)), "not adjoint"),
    "a dot in a name": ("stored", Direct("x", (ACTOR, replace(CRITIC, name="q.1"))), "unexpected"),
    "shape": ("acts", acting(lambda a, _: a[:, :2]), "chunks of shape"),
    "nan": ("acts", acting(lambda a, _: a * np.nan), "not finite"),
    "beyond the bound": ("acts", acting(lambda a, _: 3 * a), "leaves the action bound"),
    "dtype": ("acts", acting(lambda a, _: a.astype(float)), "chunks are float64"),
    "luck": ("deterministic", acting(lambda a, _: a * RANDOM.uniform(size=a.shape)), "other bits"),
    "in place": ("leaves_its_input", acting(spoil), "changed obs"),
    "batch mean": ("row_independence", acting(lambda a, _: a - a.mean(0)), "differ by"),
    "a lambda": ("other_processes", WithFunction("x", DIRECT.parts, function=lambda: 0), "pickle"),
    "a column": ("expects", expecting(lambda q: q[:, None]), "shape"),
    "q is nan": ("expects", expecting(lambda q: q * np.nan), "not finite"),
    "not its flow": ("flow", Mirrored("x", PARTS), "as its flow is sampled"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_error_is_caught(case: str) -> None:
    name, agent, message = PLANTED[case]
    clause = dict(agent_checks(agent))[name]
    with pytest.raises(ContractError, match=message):
        clause()


def test_every_clause_has_a_planted_error() -> None:
    assert {name for name, _, _ in PLANTED.values()} == set(CHECKS)
