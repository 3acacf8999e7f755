"""Is a training step right? Losses, gradients and updated parameters against the reference.

    def step(batch, x0, t):                     # yours, on the checkpoint's parameters
        loss, gradient = critic_loss_and_gradient(batch)
        return {"critic": loss, "grad/critic": {"layers.0.kernel": gradient["Dense_0"], …}}

    check_losses(step, checkpoint)              # raises CrossCheckError, naming the mistake

Which mistakes have names, and which a given batch cannot show: `training_mistakes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.premises import MATTERS, broken_premise, difference
from qgf_ref.crosscheck.update.banks import bank_of
from qgf_ref.crosscheck.update.diagnosis import LIMIT, TrainingDiagnosis, diagnose, unseen, wrapped
from qgf_ref.crosscheck.update.inputs import case_of, precision_of, result_of
from qgf_ref.crosscheck.update.mistake import TrainingBank
from qgf_ref.crosscheck.update.rounding import Truth, exact, size, truth
from qgf_ref.crosscheck.update.runs import TrainingCase
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.interop.load import CheckpointLike, checkpoint_of
from qgf_ref.losses.batch import AnyBatch, GoalBatch, Hyperparameters
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.progress import wanted
from qgf_ref.threads import one_blas_thread
from qgf_ref.user_code import require_function

COARSE = 0.01
"""Relative errors that bfloat16 explains: its rounding is 0.004."""

SATURATED = (
    "The value's loss is not finite: float32 rounds σ(z) to 1 from z = 16.64 on, whose logit is "
    "infinite, and 0·∞ in a row that does not count is nan (T9). The official code does so, too; "
    "take the logit of the reduced members from z itself (qgf_ref.ops.logits.reduced_logit)."
)

TrainingStep = Callable[..., Mapping[str, Any]]
"""(batch, x0, t), or whatever the agent's recipe draws, → losses, gradients, parameters."""


@dataclass(frozen=True)
class QuantityComparison:
    """One quantity: error ‖theirs − truth‖/‖truth‖; ratio, the same error in units of rounding's;
    worst, the array with the largest error ("" for a loss); factor, if a gradient is a multiple of
    the reference's to rounding, which.
    """

    quantity: str
    error: float
    ratio: float
    worst: str
    factor: float | None = None

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error."""
        return self.ratio <= LIMIT

    def line(self, width: int) -> str:
        """Its line of the report, the name in `width` columns."""
        if self.passed:
            verdict = "ok"
        elif self.factor is not None:
            verdict = f"WRONG, {self.factor:.6g} times the reference"
        else:
            verdict = f"WRONG{f', most in {self.worst}' if self.worst else ''}"
        return f"  {self.quantity:<{width}}{self.error:>15.1e}{self.ratio:>16.3g}   {verdict}"


@dataclass(frozen=True)
class TrainingReport:
    """What `check_losses` found. `str` of it is the report.

    unseen     if all agrees: the mistakes of the bank that this check could not have seen
    diagnosis  if something disagrees
    precision  in which the implementation computes, as its numbers tell; embedding, how the truth
               computes the time embedding ("float32" is the official way)
    """

    comparisons: tuple[QuantityComparison, ...]
    settings: str
    precision: str
    embedding: Precision
    diagnosis: TrainingDiagnosis | None = None
    unseen: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every quantity agrees to rounding."""
        return all(c.passed for c in self.comparisons)

    @property
    def first(self) -> str | None:
        """The first quantity that disagrees: losses, then gradients, then parameters. Among the
        parameters, which infect each other from the second update on, the one that does most.
        """
        wrong = [c for c in self.comparisons if not c.passed]
        if wrong and wrong[0].quantity.startswith("params/"):
            return max(wrong, key=lambda c: c.ratio).quantity
        return wrong[0].quantity if wrong else None

    def __str__(self) -> str:
        state = "agrees to rounding" if self.passed else f"WRONG, first in {self.first}"
        named = self.diagnosis and " or ".join(fit.name for fit in self.diagnosis.fits)
        width = max(21, *(len(c.quantity) for c in self.comparisons))
        lines = [] if self.passed else [named or f"unknown at {self.first}"]
        lines += [
            f"training step: {state}",
            f"  {self.settings}",
            f"  judged as {self.precision}; time embedding {self.embedding}",
            "",
            f"  {'quantity':<{width}}{'relative error':>15}{'times rounding':>16}"
            f"   (limit {LIMIT:g})",
        ]
        lines += [c.line(width) for c in self.comparisons]
        if self.note:
            lines += ["", *wrapped(self.note)]
        if self.diagnosis:
            lines += ["", str(self.diagnosis)]
            wrong = [c for c in self.comparisons if not c.passed]
            coarse = all(c.error < COARSE and c.factor is None for c in wrong)
            if coarse and not self.diagnosis.fits:
                lines += wrapped(
                    "No error is larger than that of reduced precision (TF32, bfloat16): look for "
                    "a cast before looking for a wrong formula."
                )
        if self.unseen:
            lines += ["", *wrapped("this check cannot see: " + ", ".join(self.unseen))]
        return "\n".join(lines)


@one_blas_thread()
def check_losses(
    fn: TrainingStep,
    checkpoint: CheckpointLike,
    *,
    batch: AnyBatch | None = None,
    x0: Array | None = None,
    t: Array | None = None,
    hyper: Hyperparameters | None = None,
    updates: int = 0,
    seed: int = 0,
    bank: TrainingBank | None = None,
    drawn: Mapping[str, Array] | None = None,
    show_progress: bool | None = None,
) -> TrainingReport:
    """Compare a training step with the reference; where it disagrees, name the mistake.

    fn       fn(batch, x0, t) → what it computes from the checkpoint's parameters, any subset of
             "policy", "critic", "value"          the losses
             "grad/policy", …/critic, …/value     their gradients
             "params/policy", …/critic, …/value, …/target_critic   after the updates
             or those of the checkpoint's agent under its parts' names; where gradients are clipped
             together, "received/actor", …, what Adam is given at the first update, too
             Gradients and parameters as MLPParams or {"layers.0.kernel": array, …}.
             updates = 0: x0 (B, D), t (B,). updates = n: x0 (n, B, D), t (n, B), one for each
             update of the same batch from fresh optimisers; losses and gradients are then those of
             the first update, as it computes them.
    checkpoint  the networks before the step, or the path of their file
    batch    default `default_batch`: rows of every kind of valid, mask and advantage; a GoalBatch
             for an agent that reaches goals
    x0, t    noise and times as fn takes them; drawn if absent, t with 0 and 1 but without 0.5
    hyper    what fn computes with, default `checkpoint.hyperparameters()`; EXPOSING shows every
             mistake of the bank
    bank     the recipe that is right, and the mistakes that are looked for, by default those of the
             checkpoint's agent; fn takes the recipe's draws, in their order, and returns its
             losses, gradients and parameters
    drawn    other draws of the recipe by name, of the shapes that fn takes
    show_progress  on stderr (default: on a terminal)

    What rounding explains is measured, not assumed: see `qgf_ref.crosscheck.update.rounding`.
    A float64 implementation is held to float64's rounding, and its time embedding may be exact.
    Raises CrossCheckError, whose message is the report, if a quantity disagrees, or where fn
    raises, and InputError on arguments and results that cannot be compared. A step that disagrees
    is called again first: nothing is explained of one whose answers its inputs do not decide.
    """
    require_function(fn, "fn", "(batch, x0, t) → losses, gradients, parameters by name")
    given = _drawn(x0, t, drawn)
    if isinstance(checkpoint, GuidedFlow):
        raise InputError(
            "an update is of a checkpoint's parameters, and a GuidedFlow has none: give the "
            "checkpoint, or the path of its file"
        )
    networks = checkpoint_of(checkpoint)
    if bank is not None and not isinstance(bank, TrainingBank):
        raise InputError(f"bank must be a TrainingBank, got {type(bank).__name__}")
    bank = bank_of(networks.agent) if bank is None else bank
    case = case_of(bank, networks, batch, given, hyper, updates, seed)
    theirs = result_of(fn, case)

    def premises() -> None:
        # one that updates may go on from the parameters that it has updated
        if not updates and (broken := _broken_premise(fn, case, theirs)):
            raise CrossCheckError(broken)

    show = wanted(show_progress)
    report = _judged(case, theirs, precision_of(theirs), premises, show)
    if not report.passed:
        if updates and report.diagnosis is not None and not report.diagnosis.fits:
            broken = _broken_premise(fn, case, theirs)
            note = f"Called again, {broken}; or it goes on from its updated parameters."
            report = replace(report, note=note if broken else report.note)
        if isinstance(case.batch, GoalBatch) and not np.isfinite(float(theirs.get("value", 0.0))):
            report = replace(report, note=SATURATED)
        raise CrossCheckError(report)
    return report


def _drawn(
    x0: Array | None, t: Array | None, drawn: Mapping[str, Array] | None
) -> dict[str, Array | None]:
    """All draws that were given. Raises InputError where one is given twice."""
    if drawn is not None and not isinstance(drawn, Mapping):
        raise InputError(f"drawn must map names to arrays, got {type(drawn).__name__}")
    given: dict[str, Array | None] = {"x0": x0, "t": t}
    for name in drawn or {}:
        if given.get(name) is not None:
            raise InputError(f"{name} is given twice: as {name}=… and in drawn={{…}}")
    return {**given, **(drawn or {})}


def _broken_premise(fn: TrainingStep, case: TrainingCase, theirs: Mapping[str, Any]) -> str | None:
    def flat(values: Mapping[str, Any]) -> dict[str, Array]:
        parts = {n: x.arrays() if "/" in n else [np.asarray(x)] for n, x in values.items()}
        return {n: np.concatenate([a.ravel() for a in parts[n]]) for n in theirs}

    def right(drawn: Mapping[str, Array]) -> dict[str, Array]:
        return flat(exact(case.bank.reference, replace(case, drawn=drawn), "float64", "exact"))

    axes = {draw.name: 1 + draw.row_axis for draw in case.bank.reference.draws}
    others = {name: np.roll(array, 1, axes[name]) for name, array in case.drawn.items()}
    usual = right(case.drawn)

    def depends(name: str) -> bool:
        moved = right({**case.drawn, name: others[name]})
        return any(difference(moved[n], usual[n]) > MATTERS for n in theirs)

    def call(drawn: Mapping[str, Array]) -> dict[str, Array]:
        return flat(result_of(fn, replace(case, drawn=drawn)))

    return broken_premise("your training step", call, case.drawn, flat(theirs), others, depends)


def _judged(
    case: TrainingCase,
    theirs: Mapping[str, Any],
    precision: str,
    premises: Callable[[], None] = lambda: None,
    show: bool = False,
) -> TrainingReport:
    embeddings: tuple[Precision, ...] = (
        ("float32",) if precision == "float32" else ("exact", "float32")
    )
    truths = {name: truth(case.bank.reference, case, precision, name) for name in embeddings}

    def total(name: Precision) -> float:
        ratios = (truths[name].ratio(quantity, value) for quantity, value in theirs.items())
        return sum(min(ratio, 1e300) for ratio in ratios)

    reports = []
    for embedding in sorted(embeddings, key=total):
        reference = truths[embedding]
        comparisons = tuple(_comparison(reference, name, value) for name, value in theirs.items())
        about = (comparisons, _settings(case), precision, embedding)
        if all(c.passed for c in comparisons):
            hidden = unseen(case, theirs, reference, precision, embedding, show)
            return TrainingReport(*about, unseen=hidden)
        premises()
        diagnosis = diagnose(case, theirs, reference, precision, embedding, show)
        reports.append(TrainingReport(*about, diagnosis=diagnosis))
        if diagnosis.fits:
            return reports[-1]
    if precision == "float64":
        coarse = _judged(case, theirs, "float32", show=show)
        if coarse.passed:
            note = "The numbers are float64, but something in them was computed in float32."
            return replace(coarse, note=note)
    return reports[0]


def _comparison(reference: Truth, quantity: str, theirs: Any) -> QuantityComparison:
    value = reference.values[quantity]
    scale, error = size(value), reference.error(quantity, theirs)
    differences = reference.differences(quantity, theirs)
    worst = max(differences, key=lambda name: float(np.linalg.norm(differences[name])))
    relative = error / scale if scale else (0.0 if error == 0 else float("inf"))
    factor = None
    if quantity.startswith(("grad/", "received/")) and np.isfinite(error) and scale:
        a, b = (np.concatenate([part.ravel() for part in x.arrays()]) for x in (value, theirs))
        multiple = float(np.vdot(a, b.astype(a.dtype))) / scale**2
        rest = float(np.linalg.norm(b - multiple * a))
        if rest <= LIMIT * reference.rounding[quantity] * max(1.0, abs(multiple)):
            factor = multiple
    return QuantityComparison(quantity, relative, reference.ratio(quantity, theirs), worst, factor)


def _settings(case: TrainingCase) -> str:
    ck, hyper = case.checkpoint, case.hyper
    members = next((p.ensemble for p in ck.params.values() if p.ensemble), 1)
    own: Any = ck.agent.settings
    horizon = str(hyper.horizon)
    if isinstance(case.batch, GoalBatch):
        horizon = f"{own.backup_horizon} and {own.policy_chunk_size}, kappa_d {own.kappa_d:g}"
    return (
        f"{len(case.batch.obs)} rows, O = {ck.obs_dim}, D = {ck.flat_action_dim}, "
        f"E = {members}; {case.updates} updates\n"
        f"  discount {hyper.discount:g}, horizon {horizon}, expectile {hyper.expectile:g}, "
        f"tau {hyper.tau:g}, learning rate {hyper.learning_rate:g}"
    )
