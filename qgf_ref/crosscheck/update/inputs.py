"""What a training cross-check starts from, and what an implementation gives back, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.stage import FLOW_TIMES
from qgf_ref.arrays import Array, matrix, require_finite, whole_number
from qgf_ref.crosscheck.errors import answer_of
from qgf_ref.crosscheck.update.mistake import TrainingBank
from qgf_ref.crosscheck.update.runs import TrainingCase
from qgf_ref.errors import InputError, listing, unknown_name
from qgf_ref.losses.batch import AnyBatch, Batch, GoalBatch, Hyperparameters
from qgf_ref.nets.mlp import MLPParams
from qgf_ref.ops.ensemble import ensemble_reduce

EXPOSING = Hyperparameters(discount=0.9, horizon=3, expectile=0.8, tau=0.1, learning_rate=0.003)
"""With these, two updates show every mistake of the bank, in float32, too: γ ≠ γᴴ, τ ≠ ½, and
steps long enough that the order of the updates and Adam's ε stand out from rounding. (An ε of 1e-7
is the hardest to see; a report that passes names what it could not see.)"""

ROWS = 24


def default_batch(checkpoint: Checkpoint, seed: int = 0, rows: int = ROWS) -> AnyBatch:
    """A batch on which mistakes show, float32; a GoalBatch for an agent that reaches goals.

    A quarter of the rows is invalid, a third is masked, some are both; as far as the networks
    allow, the target critic is above the value in half of the rows and below in the others.
    """
    rng, goals = np.random.default_rng(seed), checkpoint.agent.of_goals
    many, D = 16 * rows, checkpoint.flat_action_dim
    obs = rng.standard_normal((many, checkpoint.obs_dim))
    action = rng.uniform(-1, 1, (many, _action_width(checkpoint)))
    above: Array = np.arange(many) % 2 == 0
    target = "target_action_critic" if goals else "target_critic"
    if {target, "value"} <= checkpoint.params.keys():
        wide = checkpoint.astype("float64")
        q = wide.network(target).forward(obs, action[:, :D])[0]
        q, _ = ensemble_reduce(q, checkpoint.options.q_aggregation)
        above = q > wide.network("value").forward(obs)[0]
    half = rows // 2
    # half of them above if there are as many, then whichever come first
    order = np.concatenate([np.flatnonzero(above)[:half], np.flatnonzero(~above)])
    order = np.concatenate([order[:rows], np.flatnonzero(above)[half:]])[:rows]
    chosen = rng.permutation(order)
    if goals:
        own: Any = checkpoint.agent.settings
        return _reaching(own, obs[chosen], action[chosen], rng).astype("float32")
    index = np.arange(rows)
    return Batch(
        obs[chosen],
        action[chosen],
        rng.standard_normal((rows, checkpoint.obs_dim)),
        rng.standard_normal(rows),
        (index % 3 != 2).astype(float),
        (index % 4 != 3).astype(float),
    ).astype("float32")


def _action_width(checkpoint: Checkpoint) -> int:
    """Columns of a batch's action: D, or h·A where the policy's are h_a·A."""
    own: Any = checkpoint.agent.settings
    D = checkpoint.flat_action_dim
    return D * own.backup_horizon // own.policy_chunk_size if checkpoint.agent.of_goals else D


def _reaching(own: Any, obs: Array, action: Array, rng: np.random.Generator) -> GoalBatch:
    """A goal-conditioned batch of obs (B, O + G) and action (B, h·A).

    It has what no data have and what a formula may get wrong: bootstraps from k < h steps, with
    rewards that take the target above 1, and policies' goals of their own. Windows end in the
    policy's chunk and behind it; the first success is at k = 0.
    """
    index, h, h_a = np.arange(len(obs)), own.backup_horizon, own.policy_chunk_size
    O, masks = obs.shape[1] - own.goal_dim, index % 3 != 2
    length = np.where(index % 4 == 3, h_a - 1, np.where(index % 4 == 1, h_a, h))
    rewards = rng.uniform(size=len(obs)) * (index % 3 != 0)
    steps = rng.integers(0, h + masks)
    return GoalBatch(
        obs=obs[:, :O],
        action=action,
        goal=obs[:, O:],
        policy_goal=rng.standard_normal((len(obs), own.goal_dim if own.policy_goals else 0)),
        next_obs=rng.standard_normal((len(obs), O)),
        rewards=np.where(index == 2, 1, rewards),
        masks=masks.astype(float),
        steps=np.where(index == 2, 0, steps),
        valid=np.arange(h) < length[:, None],
        **{f"{of}row": index for of in ("", "goal_", "policy_goal_")},
    )


def default_times(rng: np.random.Generator, updates: int, rows: int, denoise_steps: int) -> Array:
    """Times (updates, rows) on the grid k/T, 0 and 1 among them, without ½, float32.

    At t = ½ an interpolation that runs backwards is right.
    """
    grid = [k for k in range(denoise_steps + 1) if 2 * k != denoise_steps]
    grid = [grid[0], grid[-1], *grid[1:-1]]
    rounds = [rng.permutation(np.resize(grid, rows)) for _ in range(updates)]
    return np.stack(rounds).astype(np.float32) / np.float32(denoise_steps)


def case_of(
    bank: TrainingBank,
    checkpoint: Checkpoint,
    batch: AnyBatch | None,
    drawn: Mapping[str, Array | None],
    hyper: Hyperparameters | None,
    updates: int,
    seed: int,
) -> TrainingCase:
    """The arguments of `check_losses` with their defaults, or InputError."""
    updates, seed = whole_number(updates, "updates"), whole_number(seed, "seed")
    if hyper is not None and not isinstance(hyper, Hyperparameters):
        raise InputError(
            f"hyper must be Hyperparameters (qgf_ref.losses.batch), got {type(hyper).__name__}"
        )
    batch = default_batch(checkpoint, seed) if batch is None else _batch(batch, checkpoint)
    hyper = checkpoint.hyperparameters() if hyper is None else hyper
    names = {draw.name for draw in bank.reference.draws}
    for name, array in drawn.items():
        if array is not None and name not in names:
            raise unknown_name("draw", name, names)
    rng, n = np.random.default_rng([seed, 1]), max(updates, 1)
    arrays: dict[str, Array] = {}
    for draw in bank.reference.draws:
        if draw is FLOW_TIMES:
            T = checkpoint.options.denoise_steps
            array = default_times(rng, n, len(batch.obs), T)
        else:
            array = np.stack([draw.sample(rng, batch, hyper) for _ in range(n)])
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        theirs = drawn.get(draw.name)
        if theirs is not None:
            array = _shaped(theirs, draw.name, array.shape, bool(updates))
        if draw.name == FLOW_TIMES.name and (array.min() < 0 or array.max() > 1):
            raise InputError(f"t must lie in [0, 1], got {array.min():g} … {array.max():g}")
        arrays[draw.name] = array
    return TrainingCase(bank, checkpoint, batch, arrays, hyper, updates)


def result_of(fn: Callable[..., Any], case: TrainingCase) -> dict[str, Any]:
    """What `fn` returns for the case, in the order of the bank's quantities.

    Raises CrossCheckError where it raises, InputError where it returns something else.
    """
    batch = type(case.batch)(**{name: a.copy() for name, a in vars(case.batch).items()})
    quantities = case.bank.quantities
    drawn = [(a if case.updates else a[0]).copy() for a in case.drawn.values()]
    when = f"on a batch of {len(batch.obs)} rows"
    result = answer_of(partial(fn, batch, *drawn), "your training step", when)
    if not isinstance(result, Mapping) or not result:
        raise InputError(
            f"the training step must return a mapping with any of {', '.join(quantities)}; "
            f"it returned {'nothing' if not result else type(result).__name__}"
        )
    for name in result:
        if name not in quantities:
            raise unknown_name("quantity", name, quantities)
        if name.startswith("params/") and not case.updates:
            raise InputError(
                f"{name} was returned, but there are no updates: give updates=1 or more"
            )
    return {
        name: _params(result[name], name, case.checkpoint.part(name.split("/")[1]))
        if "/" in name
        else _loss(result[name], name)
        for name in quantities
        if name in result
    }


def precision_of(given: Mapping[str, Any]) -> str:
    """The precision in which the quantities were computed, told from their digits.

    "float64" if some have digits that float32 does not hold and none has only those that it does.
    """
    single: set[bool] = set()
    for value in given.values():
        parts = value.arrays() if isinstance(value, MLPParams) else [np.asarray(value)]
        finite = [p[np.isfinite(p)] for p in parts]
        if any(p.any() for p in finite):
            with np.errstate(over="ignore", under="ignore"):
                single.add(all(bool((p == p.astype(np.float32)).all()) for p in finite))
    return "float64" if single == {False} else "float32"


def _batch(batch: AnyBatch, checkpoint: Checkpoint) -> AnyBatch:
    agent: Any = checkpoint.agent
    kind, own = (GoalBatch if agent.of_goals else Batch), agent.settings
    lacks = [part.name for part in fields(kind) if not hasattr(batch, part.name)]
    if lacks or (isinstance(batch, GoalBatch) and kind is Batch):
        raise InputError(
            f"batch must be a {kind.__name__} (qgf_ref.losses.batch) for the agent {agent.name}, "
            f"got {type(batch).__name__}{f', which lacks {listing(lacks)}' if lacks else ''}"
        )
    O = checkpoint.obs_dim - (own.goal_dim if agent.of_goals else 0)
    widths = {"obs": O, "action": _action_width(checkpoint), "next_obs": O}
    if agent.of_goals:
        widths |= {"goal": own.goal_dim, "policy_goal": own.goal_dim if own.policy_goals else 0}
        widths["valid"] = own.backup_horizon
    arrays = {}
    for part in fields(kind):
        array, name = getattr(batch, part.name), f"batch.{part.name}"
        if part.name in widths:
            arrays[part.name] = matrix(array, name, columns=widths[part.name])
        else:
            arrays[part.name] = _numbers(array, name, whole=part.name.endswith(("steps", "row")))
    rows = len(arrays["obs"])
    for name, array in arrays.items():
        if len(array) != rows or not rows or (name not in widths and array.ndim != 1):
            raise InputError(f"batch.{name} has shape {array.shape}; batch.obs has {rows} rows")
    least, most = (f(arrays.get("steps", np.zeros(1))) for f in (np.min, np.max))
    if least < 0 or most > (h := widths.get("valid", 0)):
        raise InputError(f"batch.steps must lie in 0 … backup_horizon {h}, got {least} … {most}")
    return kind(**arrays)


def _shaped(array: Any, name: str, shape: tuple[int, ...], several: bool) -> Array:
    wanted = shape if several else shape[1:]
    values = _numbers(array, name)
    if values.shape != wanted:
        raise InputError(f"{name} must have shape {wanted}, got {values.shape}")
    return values.reshape(shape)


def _numbers(array: Any, name: str, finite: bool = True, whole: bool = False) -> Array:
    values = np.array(array)
    if whole and values.dtype.kind not in "iu":
        raise InputError(f"{name} must be an array of integers, got dtype {values.dtype}")
    if whole:
        return values.astype(np.int64)
    if values.dtype.kind not in "fiub":
        raise InputError(f"{name} must be an array of real numbers, got dtype {values.dtype}")
    if finite:
        require_finite(values, name, InputError)
    return values if values.dtype.name in ("float32", "float64") else values.astype(np.float64)


def _loss(value: Any, name: str) -> float:
    number = _numbers(value, f"the loss {name}", finite=False)
    if number.size != 1:
        raise InputError(f"the loss {name} must be one number, got shape {number.shape}")
    return float(number.reshape(()))


def _params(value: Any, name: str, like: MLPParams) -> MLPParams:
    wanted = dict(like.named())
    given = dict(value.named()) if isinstance(value, MLPParams) else value
    if not isinstance(given, Mapping):
        raise InputError(f"{name} must be MLPParams or a mapping, got {type(given).__name__}")
    if given.keys() != wanted.keys():
        raise InputError(
            f"{name} must have exactly the arrays {', '.join(wanted)}; "
            f"missing: {listing(wanted.keys() - given.keys())}; "
            f"unknown: {listing(given.keys() - wanted.keys())}"
        )
    arrays = []
    for part, expected in wanted.items():
        array = _numbers(given[part], f"{name}: {part}", finite=False)
        if array.shape != expected.shape:
            raise InputError(
                f"{name}: {part} has shape {array.shape}, expected {expected.shape} (kernels are "
                "(in, out), an ensemble has its members first)"
            )
        arrays.append(array)
    return like.replace(tuple(arrays))
