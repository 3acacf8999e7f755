"""What training checkpoints hold beside parameters: what is passed over, and what is asked about.

Passed over, with a note: states of optimizers, schedules and generators, losses and counters,
integers, empty arrays, the frequencies of a time embedding, bounds of ±1 on actions. Asked about,
since the networks compute something else with them: statistics of inputs, other bounds, averages
without names. What is neither stays left over, which is an error (`mapping/by_names.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.interop.mapping.modules import parts_of, passing_over, words_of
from qgf_ref.ops.time_embedding import DIM, angular_frequencies


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ANYWHERE = _words(
    "opt optim optims optimizer optimizers optimiser optimisers adam adamw scheduler schedulers "
    "rng rngs"
)
_WHOLE = re.compile(r"key|seed|(global_)?steps?|epochs?|opt_state")
_OUTSIDE = _words(
    "loss losses metric metrics reward rewards return returns score scores history callback "
    "callbacks loop loops hyper hparams config cfg args logger wandb replay iteration iterations "
    "scaler amp lr generator generators seed seeds step steps epoch epochs entropy"
)
_STATISTICS = _words(
    "mean means std stds stddev var variance running rms normalizer normaliser normalize normalise "
    "unnormalize unnormalise normalization normalisation stats statistics min max q01 q99 mu sigma"
)
_FREQUENCIES = _words("freq freqs frequency frequencies inv timesteps times grid ids omega omegas")
_ONE = {
    frozenset(("low",)): -1, frozenset(("min",)): -1, frozenset(("bias",)): 0,
    frozenset(("offset",)): 0, frozenset(("shift",)): 0,
}  # fmt: skip
"""What a bound of that word is where actions lie in ±1; 1 where no word says so."""


def is_bookkeeping(name: str) -> bool:
    """Whether the name says that it is the state of an optimizer, schedule or generator, …"""
    parts = parts_of(name)
    return any(words_of(part) & _ANYWHERE or _WHOLE.fullmatch(part.lower()) for part in parts)


def sorted_out(
    left: Mapping[str, str | None], tensors: Mapping[str, Array], source: str
) -> tuple[list[str], list[str], list[str]]:
    """(names passed over, names left over, notes) of those that are no parameter of a network.

    left  {name: the network that it mentions, or None}
    Raises InputError on those that change what the networks compute, with the ways out.
    """
    passed: list[str] = []
    rest: list[str] = []
    notes: list[str] = []
    asked: dict[str, list[str]] = {}
    for name, network in left.items():
        verdict = _verdict(name, tensors[name], network is not None)
        if verdict is None:
            rest.append(name)
        elif verdict:
            asked.setdefault(verdict, []).append(name)
        else:
            passed.append(name)
            notes += _other_frequencies(name, tensors[name])
    for question, names in asked.items():
        kept = [name for name in tensors if name not in names]
        raise InputError(
            f"{source}: {listing(names, most=4)} ({len(names)} in all) {question}, pass over by a "
            f"rule file (--rules R.json): {passing_over(names, kept)}"
        )
    return passed, rest, notes


_NORMALISER = (
    "are statistics by which inputs or outputs are normalised, which change what the networks "
    "compute. If you normalise as the port does, outside of them"
)
_BATCH_NORM = (
    "are the running statistics of a BatchNorm, which no network here has. If nothing depends on "
    "them"
)
_OTHER_BOUND = (
    "bound or scale actions, other than to ±1, to which they are clipped here. If the port does so "
    "outside of its sampler"
)
_SHADOW = (
    "are averages of the weights without names. To take them, copy them into the model in PyTorch "
    "(ema.copy_to(model.parameters())) and save that; to take the model's own weights"
)


def _verdict(name: str, array: Array, inside: bool) -> str | None:
    """ "" to pass a tensor over, a question to ask, None if nothing is known of it."""
    parts = parts_of(name)
    words = words_of(" ".join(parts))
    last = words_of(parts[-1])
    if array.size == 0 or (not inside and words & _OUTSIDE):
        return ""
    if "shadow" in words:
        return _SHADOW
    if _is_bound(parts, last):
        expected = next((one for key, one in _ONE.items() if key <= last), 1)
        return "" if (array == expected).all() else _OTHER_BOUND
    if array.dtype.kind in "iu" and not (inside and "mask" in words):
        return ""
    if words & _STATISTICS and "log" not in words:
        return _BATCH_NORM if "running" in last else _NORMALISER
    if last & _FREQUENCIES:
        return ""
    scalar = array.size == 1 and array.ndim <= 1
    return "" if not inside and (scalar or array.dtype.kind == "b") else None


def _is_bound(parts: Sequence[str], last: set[str]) -> bool:
    """action_low, act_limit, max_action, action_scale, action_space.high; not obs_low."""
    about = words_of(" ".join(parts[-2:]))
    kinds = _words("low high limit limits bound bounds scale bias max min offset shift")
    normalised = words_of(" ".join(parts)) & (_STATISTICS - {"max", "min"})
    return bool(about & {"action", "actions", "act"} and last & kinds) and not normalised


def _other_frequencies(name: str, array: Array) -> list[str]:
    """A note where a table of frequencies is not the official one."""
    if array.size != DIM // 2 or array.dtype.kind != "f":
        return []
    theirs, ours = np.sort(np.ravel(array)), np.sort(angular_frequencies(DIM // 2))
    if np.allclose(theirs * ours[-1], ours * theirs[-1], rtol=1e-4, atol=0):
        return []
    return [f"{name}: these are not the official frequencies, which the time embedding here has"]
