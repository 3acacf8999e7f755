"""What is known of a difference that nothing in the bank reproduces: where it is, and what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.sampler.case import PEAK_LIMIT, RMS_LIMIT, RecordedCase
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes
from qgf_ref.crosscheck.sampler.mistakes.gradient import of_member
from qgf_ref.crosscheck.sampler.mistakes.parameters import has_members
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.crosscheck.sampler.rounding import Scatter, by_step
from qgf_ref.crosscheck.sampler.runs import free_running
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.flow.diffusion import DDPM
from qgf_ref.relations import Difference, listed, relation

SAME_NOISE = 1e-3
"""What may be left of a difference that is noise of another size."""
FROM_THEIRS = ("a", "v", "q", "g")
"""Quantities to which another is related."""


class Known(NamedTuple):
    """Sentences, and whether one of them gives every number of theirs."""

    says: tuple[str, ...] = ()
    exact: bool = False


def known(setting: Setting, case: RecordedCase, base: Mistakes, quantity: str) -> Known:
    """Sentences about theirs against the reference's, the reference with what is explained already.

    In a run of known states every step counts; in another one the steps up to the first that is
    wrong, as what follows is infected.
    """
    given = {n: x for n, x in case.theirs.items() if n != quantity} if case.forced else None
    scatter = case.scatter(setting, base, given, free=not case.forced)
    theirs, truth = (by_step(quantity, x[quantity]) for x in (case.theirs, scatter.truth))
    if theirs.shape != truth.shape or not np.isfinite(truth).all():
        return Known()
    excess = case.judge(quantity, scatter).excess
    if not (excess > 1).any():
        return Known()
    upto = len(theirs) if case.forced else int(np.flatnonzero(excess > 1)[0]) + 1
    difference = _difference(setting, case, base, quantity, scatter, upto)
    rows = scatter.rows(quantity)
    wrong = _wrong_elements(quantity, theirs - truth, scatter)[:upto]
    says = [_where(quantity, wrong)]
    what = relation(difference)
    says += [what] if what else _likeness(difference)
    says += _conditions(difference, wrong[:, rows])
    says += _drawn(setting, case, base, quantity, scatter)
    if what is None and quantity == "action" and not case.forced:
        says += _move(setting, case, base, rows)
    return Known(tuple(says), what is not None)


def described(setting: Setting, diagnosis: Diagnosis, cases: Sequence[RecordedCase]) -> Diagnosis:
    """With what is known of an unknown difference, from the first case that shows it."""
    if diagnosis.unknown is None or diagnosis.known:
        return diagnosis
    base = diagnosis.so_far[0] if diagnosis.so_far else ()
    with np.errstate(all="ignore"):
        all_known = (known(setting, case, base, diagnosis.unknown) for case in cases)
        first = next((one for one in all_known if one.says), Known())
    # beside a relation that gives every number, what is merely near would mislead
    nearest = () if first.exact else diagnosis.nearest
    return replace(diagnosis, known=first.says, nearest=nearest)


def _difference(
    setting: Setting, case: RecordedCase, base: Mistakes, quantity: str, scatter: Scatter, upto: int
) -> Difference:
    rows = scatter.rows(quantity)
    times = np.array(setting.port(base).flow.times)
    if quantity == "action":
        times = times[-1:]
    # what theirs hangs on: their own numbers where recorded
    at_hand: dict[str, Array] = dict(scatter.truth)
    if case.forced:
        at_hand |= {n: x for n, x in case.theirs.items() if n != quantity}
        assert case.states is not None
        at_hand["a"] = case.states
    about: dict[str, Array] = {}
    if setting.actor is None:
        about = {n: by_step(n, at_hand[n])[:upto][:, rows] for n in FROM_THEIRS} | _members(
            setting, case, base, quantity, rows, upto
        )
    if quantity == "action":
        about = {}
        if case.forced and case.best_of == 1 and setting.actor is None:
            v, g = at_hand["v"][-1], at_hand["g"][-1]
            last = at_hand["a"][-1] + (v + case.weight * g) / setting.denoise_steps
            about["last"] = last[None, rows]
    limit = RMS_LIMIT * scatter.spread(quantity) * scatter.typical(quantity)
    theirs, truth = (by_step(quantity, x[quantity]) for x in (case.theirs, scatter.truth))
    return Difference(
        quantity, theirs[:upto, rows], truth[:upto, rows], limit[:upto], np.arange(upto),
        times[:upto], (setting.checkpoint.horizon, setting.checkpoint.action_dim), about,
    )  # fmt: skip


def _members(
    setting: Setting, case: RecordedCase, base: Mistakes, quantity: str, rows: Array, upto: int
) -> dict[str, Array]:
    """What the gradient would be of every member alone, (E, T', B·n, D)."""
    port = setting.port(base)
    if quantity != "g" or not has_members(port):
        return {}
    given = {n: x for n, x in case.theirs.items() if n != "g"}
    each = []
    for e in range(port.members or 1):
        alone = of_member(e)(port)
        run = case.simulate(alone, given=given) if case.forced else case.free(alone)
        each.append(run["g"][:upto][:, rows])
    return {"members": np.stack(each)}


def _move(setting: Setting, case: RecordedCase, base: Mistakes, rows: Array) -> list[str]:
    """How far theirs is from the unguided action, beside the reference; of one candidate a row."""
    if case.best_of > 1 or not np.any(case.weight):
        return []
    port, inputs = setting.port(base), case.inputs._replace(weight=0.0)
    bare, truth = free_running(port, inputs)["action"], case.free(port)["action"]
    theirs = case.theirs["action"]
    # what is clipped has not gone as far as it would
    inside = (np.abs(theirs) < 1) & (np.abs(truth) < 1) & (np.abs(bare) < 1) & rows[:, None]
    guided, move = (np.where(inside, x - bare, 0) for x in (truth, theirs))
    far = float((guided * guided).sum())
    if not far:
        return []
    share = float((move * guided).sum()) / far
    length = float(np.linalg.norm(move))
    if length < 1e-3 * np.sqrt(far):
        return ["theirs is the action without guidance"]
    aside = float(np.linalg.norm(move - share * guided)) / length
    return [
        f"from the unguided action, theirs moves {share:.2f} times as far along the reference's "
        f"guidance (1 would be right), and {100 * aside:.0f} % of its move is aside of it"
    ]


def _wrong_elements(quantity: str, error: Array, scatter: Scatter) -> Array:
    """Elements beyond rounding; where only the whole is, those beyond half of the largest error."""
    peak = np.maximum(scatter.peak[quantity].max(axis=0), scatter.typical(quantity))
    rows = scatter.rows(quantity)[:, None]
    error = np.abs(error)
    wrong: Array = (error > PEAK_LIMIT * peak[:, None, None]) & rows
    return wrong if wrong.any() else (error > 0.5 * error.max()) & rows


def _where(quantity: str, wrong: Array) -> str:
    axes = {"step": (1, 2), "row": (0, 2), "member" if quantity == "q" else "column": (0, 1)}
    some, every = [], []
    for name, others in axes.items():
        hit = np.asarray(wrong.any(axis=others))
        if len(hit) == 1:
            continue
        if hit.all():
            every.append(name)
        else:
            at = np.flatnonzero(hit)
            words = ", ".join(map(str, at[:8])) + (" …" if len(at) > 8 else "")
            some.append(f"{len(at)} of {len(hit)} {name}s ({words})")
    if not some:
        return f"wrong in every {_and(every)}" if every else "the one number is wrong"
    rest = f", every {_and(every)}" if every else ""
    return f"wrong in {', '.join(some)}{rest}; the rest agrees"


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _likeness(d: Difference) -> list[str]:
    """Cosine and length by step, where theirs is nothing simple of the reference's."""
    flat = [x.reshape(len(x), -1) for x in (d.theirs, d.truth)]
    norms = [np.linalg.norm(x, axis=1) for x in flat]
    usual = np.maximum(norms[0] * norms[1], np.finfo(float).tiny)
    cosine = (flat[0] * flat[1]).sum(axis=1) / usual
    length = norms[0] / np.maximum(norms[1], np.finfo(float).tiny)
    by = " by step" if len(cosine) > 1 else ""
    says = [f"cosine to the reference's{by}: {listed(cosine)}; length over its length: "
            f"{listed(length)}"]  # fmt: skip
    still = [str(k) for k in d.steps if not d.theirs[k].any() and d.truth[k].any()]
    if still:
        says.append(f"theirs is zero at step {', '.join(still)}")
    if not np.isfinite(cosine).all():
        says.append("not every number is finite")
    return says


def _drawn(
    setting: Setting, case: RecordedCase, base: Mistakes, quantity: str, scatter: Scatter
) -> list[str]:
    """How much of its noise a diffusion adds in each step, where all else of it is right."""
    chain, z = setting.port(base).chain, case.inputs.z
    if quantity != "a" or not case.forced or z is None or not isinstance(chain, DDPM):
        return []
    schedule, T = chain.schedule(len(z)), len(z)
    right = np.array([chain.deviation(schedule, T - n) for n in range(T - 1)])
    z, off = z[: T - 1], (case.theirs["a"] - scatter.truth["a"])[1:]
    factor = (off * z).sum((1, 2)) / (z * z).sum((1, 2))
    left = np.abs(off - factor[:, None, None] * z).max()
    if chain.clip_state or left > SAME_NOISE * np.abs(off).max():
        return []
    return [
        f"theirs adds c·z, c by step {listed(right + factor)}; the reference's √β_k are "
        f"{listed(right)}"
    ]


def _conditions(d: Difference, wrong: Array) -> Iterator[str]:
    """On what being wrong hangs: the clip, the member that attains, the size."""
    if not d.about or d.quantity in ("a", "action"):
        return
    rest = 1 - d.times[:, None, None]
    beyond = np.abs(d.about["a"] + rest * d.about["v"]) > 1
    masks: dict[str, Any] = {}
    if d.quantity in ("a1_hat", "g"):
        masks["where the one-step estimate is clipped"] = beyond
        masks["where the one-step estimate is not clipped"] = ~beyond
        masks["in rows of which some coordinate is clipped"] = beyond.any(axis=2, keepdims=True)
    has_critic = d.about["q"].shape[2] > 0
    least = d.about["q"].argmin(axis=2)[..., None] if has_critic else None
    for e in range(d.about["q"].shape[2]):
        masks[f"in rows where member {e} attains the minimum"] = least == e
    # which steps are wrong is said already
    steps = wrong.any(axis=(1, 2))
    every, wrong = wrong.shape, wrong[steps]
    for says, mask in masks.items():
        mask = np.broadcast_to(mask, every)[steps]
        if wrong.shape[2] > 1 and "rows" in says:
            of_row = np.asarray(wrong.any(axis=2))
            inside, outside = of_row[mask[..., 0]], of_row[~mask[..., 0]]
        else:
            inside, outside = wrong[mask], wrong[~mask]
        if inside.size and outside.size and not outside.any() and inside.mean() > 0.5:
            yield f"wrong only {says}"
            return
