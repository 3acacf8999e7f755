"""`load`: a checkpoint of any supported kind from a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.combination import combined
from qgf_ref.agents.options import option_names
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.file_kinds import naming_the_cache
from qgf_ref.files import read_npz, user_path
from qgf_ref.interop.auxiliary_file import with_auxiliary
from qgf_ref.interop.foreign import Rules, load_foreign
from qgf_ref.interop.mapping.mapping import NameMapping
from qgf_ref.interop.several_files import located

EMBEDDED = "cube-single-play"
"""Name of the checkpoint inside the package."""

_ASSETS = Path(str(files("qgf_ref") / "assets"))

CheckpointLike = Checkpoint | str | Path
"""Networks, or the path of their file."""


def load(
    path: str | Path = EMBEDDED,
    *,
    dtype: DTypeLike = "float64",
    rules: Rules = None,
    target_critic_from: str | None = None,
    policy: CheckpointLike | None = None,
    critic: CheckpointLike | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Checkpoint:
    """The checkpoint at `path`, in `dtype` (float64 by default: the reference's precision).

    path     "cube-single-play" (inside the package); an official `params_N.pkl`, read without JAX
             and without trusting the pickle, with its `flags.json` beside it; a `.safetensors`
             file of ours; a PyTorch `.pt`, flax `.msgpack`, `.npz` or other `.safetensors` file,
             whose names tell the networks; or a directory that holds one of them. A run's
             directory may also hold auxiliary networks (`qgf-ref train-extra`)
    rules    a rule file (`qgf_ref.interop.mapping.by_rules`), or its content, where those names do
             not tell
    target_critic_from  "critic" where such a file has no target critic
    policy   instead of `path`: networks, or the path of their file
    critic   networks, or the path of their file, whose critic guides and ranks instead
             (`qgf_ref.agents.combination`)
    settings  of its agent (of the critic's, if that is DQC), by name, other than stored:
             {"guide_output": "probability"}
    options  activation, q_aggregation, denoise_steps, horizon_length, action_chunking, discount,
             expectile, layer_norm_eps (official: 1e-6), policy_inputs, norm_after_activation,
             residual (`qgf_ref.agents.options`): they override what is stored

    Raises InputError when the file is missing, refused, corrupt, lacks an option, or when its names
    leave more than one reading; when a policy and a critic do not fit each other.
    """
    if policy is not None:
        if path != EMBEDDED:
            raise InputError("give path or policy, not both")
        path = policy if not isinstance(policy, Checkpoint) else path
    if isinstance(policy, Checkpoint):
        checkpoint = policy.astype(dtype)
    else:
        stored, _ = load_as_stored(path, options, rules, target_critic_from)
        checkpoint = with_auxiliary(stored).astype(dtype)
    if critic is not None:
        checkpoint = combined(checkpoint, checkpoint_of(critic, dtype))
    return checkpoint if not settings else with_settings(checkpoint, settings)


def with_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint as its agent with these settings has it. Raises InputError as `Agent.having`,
    and on settings for which it lacks a network.
    """
    agent = checkpoint.agent.having(settings)
    lacking = [name for name in agent.part_names if name not in checkpoint.params]
    if lacking and set(agent.part_names) != set(checkpoint.agent.part_names):
        raise InputError(
            f"{checkpoint.source} has no {listing(lacking)}, which {', '.join(settings)} asks for"
        )
    return replace(checkpoint, agent=agent)


def checkpoint_of(given: CheckpointLike, dtype: DTypeLike | None = None) -> Checkpoint:
    """The checkpoint itself, or the one at that path (in float64); in `dtype` if that is given."""
    if isinstance(given, Checkpoint):
        return given if dtype is None else given.astype(dtype)
    return load(given, dtype=dtype or "float64")


def load_as_stored(
    path: str | Path,
    options: Mapping[str, Any],
    rules: Rules = None,
    target_critic_from: str | None = None,
) -> tuple[Checkpoint, NameMapping | None]:
    """`load` in the dtype of the file, and how names were mapped; None where they are known.

    Raises InputError as `load`.
    """
    unknown = set(options) - set(option_names())
    if unknown:
        raise InputError(
            f"unknown option {', '.join(sorted(unknown))}; the valid ones are: "
            f"{', '.join(option_names())}"
        )
    if str(path) == EMBEDDED:
        path = _ASSETS / f"{EMBEDDED}.safetensors"
    with naming_the_cache(user_path(path)):
        path, form = located(user_path(path))
    if rules is None and target_critic_from is None and form.load is not None:
        checkpoint = form.load(path, options)
        if checkpoint is not None:
            return checkpoint, None
    return load_foreign(path, form, options, rules, target_critic_from)


def embedded_observations() -> Array:
    """Real observations (256, 28) of cube-single-play-v0's validation episodes, float32."""
    return read_npz(_ASSETS / f"{EMBEDDED}-observations.npz", ("obs",))["obs"]


def is_embedded(checkpoint: Checkpoint) -> bool:
    """Whether this is the checkpoint inside the package, whose observations fit it."""
    return Path(checkpoint.source) == _ASSETS / f"{EMBEDDED}.safetensors"
