"""`load`: a checkpoint of any supported kind from a path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.combination import combined
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
from qgf_ref.file_kinds import naming_the_cache
from qgf_ref.files import read_npz, user_path
from qgf_ref.interop.auxiliary_file import with_auxiliary
from qgf_ref.interop.changed import require_options, with_options, with_settings
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
    critic   networks, or the path of their file, whose critic guides and ranks instead: its file
             tells q_aggregation, discount, expectile and, of DQC, the agent's settings, the
             policy's all else (`qgf_ref.agents.combination`)
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
        if rules is not None or target_critic_from is not None:
            raise InputError("rules and target_critic_from are for files: policy is in memory")
        checkpoint = with_options(policy, options).astype(dtype)
    else:
        stored, _ = load_as_stored(path, options, rules, target_critic_from)
        checkpoint = with_auxiliary(stored).astype(dtype)
    if critic is not None:
        if isinstance(critic, Checkpoint):
            guide = with_options(critic, _of_critics(options))
        else:
            guide = with_auxiliary(critic_as_stored(critic, options)[0])
        checkpoint = combined(checkpoint, guide.astype(dtype))
    return checkpoint if settings is None else with_settings(checkpoint, settings)


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
    require_options(options)
    if str(path) == EMBEDDED:
        path = _ASSETS / f"{EMBEDDED}.safetensors"
    with naming_the_cache(user_path(path)):
        path, form = located(user_path(path))
    if rules is None and target_critic_from is None and form.load is not None:
        checkpoint = form.load(path, options)
        if checkpoint is not None:
            return checkpoint, None
    return load_foreign(path, form, options, rules, target_critic_from)


CRITIC_OPTIONS = ("q_aggregation", "discount", "expectile")
"""Those that a guided flow has from its critic's file (`qgf_ref.agents.combination`)."""


def _of_critics(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in CRITIC_OPTIONS if name in options}


def critic_as_stored(
    path: str | Path, options: Mapping[str, Any]
) -> tuple[Checkpoint, NameMapping | None]:
    """`load_as_stored` of the file whose critic guides: the critic's options override what it
    tells, all others stand in for what it does not.
    """
    own = _of_critics(options)
    try:
        return load_as_stored(path, own)
    except InputError:
        beside = {name: value for name, value in options.items() if name != "policy_inputs"}
        if beside.keys() == own.keys():
            raise
        return load_as_stored(path, beside)


def embedded_observations() -> Array:
    """Real observations (256, 28) of cube-single-play-v0's validation episodes, float32."""
    return read_npz(_ASSETS / f"{EMBEDDED}-observations.npz", ("obs",))["obs"]


def is_embedded(checkpoint: Checkpoint) -> bool:
    """Whether this is the checkpoint inside the package, whose observations fit it."""
    return Path(checkpoint.source) == _ASSETS / f"{EMBEDDED}.safetensors"
