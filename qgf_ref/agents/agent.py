"""An agent: the networks that it is made of, and how it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qgf_ref.agents.part import NetworkSettings, Part
from qgf_ref.agents.recipe import Recipe
from qgf_ref.agents.settings import OwnSettings
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import EngineLike
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.guidance.base import Estimator, GuidedFlow
from qgf_ref.guidance.queries import critic_value
from qgf_ref.guidance.registry import estimator
from qgf_ref.nets.critic import Critic
from qgf_ref.nets.joint import Input
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.sampling import sample

if TYPE_CHECKING:
    from qgf_ref.agents.checkpoint import Checkpoint


@dataclass(frozen=True)
class Acting:
    """How actions are drawn: the arguments of `qgf_ref.sampling.sample` of these names.

    An agent without a flow takes the defaults only, and its own `backend`.
    """

    estimator: str | Estimator = "none"
    weight: float | None = None
    best_of: int = 1
    gradient_steps: GradientSteps | None = None
    denoise_steps: int | None = None
    backend: EngineLike = "numpy"


@dataclass(frozen=True)
class Agent:
    """What is trained and how it acts. A subclass says how, by `act` and `q`, or has a `flow`.

    parts        in the order in which files and reports list them
    recipe       its training update; None: it is not trained here
    base         the agent against whose finished run it is trained, whose networks stay as they
                 are; None: it is trained alone
    drawn_first  parts whose initial parameters are drawn before those of the others
    stream       of an agent with a base: tells its random numbers from those of other agents
                 with the same base and seed
    settings     what of it can be set, if anything; parts and recipe follow from it
    official     settings of the paper's runs: "" → those of a training that differ from every
                 agent's, a task's domain → its own
    guided       whether it has a flow that an estimator may guide
    usual        the estimator with which it acts if nothing else is said
    of_goals     whether it is trained on goal-conditioned data, and its observation is [s, g]
    Checkpoints carry their agent to worker processes, without its recipe: the other fields of a
    subclass must be picklable.
    """

    name: str
    parts: tuple[Part, ...]
    recipe: Recipe | None = None
    base: str | None = None
    drawn_first: tuple[str, ...] = ()
    stream: int = 0
    settings: OwnSettings | None = None
    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    guided: ClassVar[bool] = False
    usual: ClassVar[str] = "none"
    of_goals: ClassVar[bool] = False

    @property
    def stated(self) -> dict[str, Any]:
        """{name: value} of its own settings: what files hold beside the options."""
        return {} if self.settings is None else dict(vars(self.settings))

    def having(self, changes: Mapping[str, Any]) -> Agent:
        """The same agent, some of its own settings changed.

        Raises InputError on a setting that it does not have, and on a value of another type.
        """
        if not changes:
            return self
        if self.settings is None:
            raise InputError(f"the agent {self.name} has no settings: not {', '.join(changes)}")
        return self.with_settings(self.settings.changed(changes))

    def with_settings(self, settings: Any) -> Agent:
        """The agent of these settings: a subclass that has any makes it."""
        raise NotImplementedError(f"what follows from {settings}, {self.name} does not say")

    def reading(self, inputs: Sequence[Input] | None) -> Agent:
        """The agent whose flow's network reads these inputs, in this order; None: its own.

        Raises InputError where it has no flow, or one of other inputs.
        """
        if inputs is None:
            return self
        raise InputError(f"policy_inputs: the agent {self.name} has no flow that could read them")

    def __getstate__(self) -> dict[str, Any]:
        # what is pickled plays and does not train; recipes are made of functions without a name
        return {**vars(self), "recipe": None}

    def part(self, name: str) -> Part:
        """The part of that name. Raises InputError, listing the agent's, when there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise unknown_name(f"network of the agent {self.name}", name, self.part_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return tuple(part.name for part in self.parts)

    def require_recipe(self) -> Recipe:
        """Its recipe. Raises InputError when it has none."""
        if self.recipe is None:
            raise InputError(f"the agent {self.name} has no recipe to be trained by")
        return self.recipe

    def generator(self, seed: int) -> np.random.Generator:
        """The generator from which initial parameters, then batches and noise are drawn."""
        return np.random.default_rng(seed if self.base is None else (seed, self.stream))

    def initial(
        self,
        rng: np.random.Generator,
        obs_dim: int,
        flat_action_dim: int,
        hidden: Sequence[int],
        members: int,
    ) -> dict[str, MLPParams]:
        """Initial parameters of all parts, float32. O, D, hidden widths, E.

        Averages start as copies of what they follow.
        """
        order = sorted(self.part_names, key=lambda name: name not in self.drawn_first)
        drawn = {
            name: self.part(name).initial(rng, obs_dim, flat_action_dim, hidden, members)
            for name in order
            if self.part(name).target_of is None
        }
        return {part.name: drawn[part.target_of or part.name] for part in self.parts}

    def flow(
        self,
        checkpoint: Checkpoint,
        *,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> GuidedFlow:
        """What a sampler needs of `checkpoint`. Raises InputError: this agent has no flow."""
        raise InputError(f"{checkpoint.source}: the agent {self.name} has no flow to guide")

    def require(self, checkpoint: Checkpoint, how: Acting) -> None:
        """Raise InputError unless the agent can act so with what the checkpoint has."""
        if how != Acting(backend=how.backend):
            raise InputError(
                f"{checkpoint.source}: the agent {self.name} has no flow to guide, to rank or to "
                "refine: evaluate it as bc (--methods bc)"
            )

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """Action chunks (B, D) for obs (B, O) from standard normal noise (B·best_of, D)."""
        raise NotImplementedError(f"the agent {self.name} does not say how it acts")

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """What the agent expects of the chunks (B, D): its aggregated Q (B,)."""
        raise NotImplementedError(f"the agent {self.name} does not say what it expects")


@dataclass(frozen=True)
class FlowAgent(Agent):
    """An agent that acts by a flow, `field`, which `critic` guides: names of two of its parts.

    itself  the agent with its own inputs, of one that reads others (`reading`)
    """

    field: str = "policy"
    critic: str = "target_critic"
    itself: FlowAgent | None = None
    guided: ClassVar[bool] = True
    usual: ClassVar[str] = "qgf"

    def reading(self, inputs: Sequence[Input] | None) -> FlowAgent:
        """The agent whose field reads these inputs, in this order; None: its own.

        Raises InputError on others than its own in another order, the time embedded or not.
        """
        plain = self.itself or self
        own = plain.part(plain.field).inputs
        if inputs is None or tuple(inputs) == own:
            return plain
        if {n.removeprefix("raw_") for n in inputs} != {n.removeprefix("raw_") for n in own}:
            raise InputError(
                f"policy_inputs {','.join(inputs)}: the {plain.field.replace('_', ' ')} of the "
                f"agent {self.name} reads {', '.join(own)}"
            )
        parts = [
            replace(part, inputs=tuple(inputs))
            if plain.field in (part.name, part.target_of)
            else part
            for part in plain.parts
        ]
        return replace(plain, parts=tuple(parts), itself=plain)

    def flow(
        self,
        checkpoint: Checkpoint,
        *,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> GuidedFlow:
        """The policy's field, the target critic, T and the action bound.

        Raises InputError when the checkpoint lacks one of the two networks.
        """
        if self.critic not in self.part_names:
            raise InputError(
                f"{checkpoint.source}: the agent {self.name} is a flow, which has no critic to "
                "guide it: name one, with --critic P or load(policy=…, critic=…)"
            )
        settings = checkpoint.network_settings(embedding, kernels)
        averaged, online = self.part(self.critic).target_of, None
        if averaged is not None and averaged in checkpoint.params:
            online = self.climbed(checkpoint.network(averaged, settings))
        return GuidedFlow(
            checkpoint.network(self.field, settings),
            self.climbed(checkpoint.network(self.critic, settings)),
            checkpoint.options.denoise_steps,
            time_precision=embedding,
            kernels=kernels,
            auxiliary=checkpoint.auxiliary.networks(checkpoint.options.mlp, embedding, kernels),
            online_critic=online,
        )

    def climbed(self, critic: Critic) -> Critic:
        """What guides and ranks, of a network of the critic: itself."""
        return critic

    def ranking(self, checkpoint: Checkpoint, settings: NetworkSettings) -> Any:
        """The critic that ranks the candidates of an unguided best of N: the one that guides."""
        return checkpoint.network(self.critic, settings)

    def require(self, checkpoint: Checkpoint, how: Acting) -> None:
        """Raise InputError unless the checkpoint has the networks that the estimator needs."""
        estimator(how.estimator).on(checkpoint.acting_flow)

    def act(self, checkpoint: Checkpoint, obs: Array, noise: Array, how: Acting) -> Array:
        """Action chunks (B, D) for obs (B, O) from noise (B·best_of, D): `sample`."""
        return sample(checkpoint.acting_flow, obs, noise=noise, **vars(how))

    def q(self, checkpoint: Checkpoint, obs: Array, chunks: Array) -> Array:
        """The aggregated target critic (B,) of the chunks (B, D)."""
        return critic_value(checkpoint.acting_flow, obs.astype(chunks.dtype), chunks)
