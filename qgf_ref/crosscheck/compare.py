"""`compare`: another implementation's recorded run against the reference, and why it differs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.arguments import known_precision, require_plain
from qgf_ref.crosscheck.located import Element, located
from qgf_ref.crosscheck.sampler.case import Judgement, RecordedCase
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.known import described
from qgf_ref.crosscheck.sampler.mistakes.bank import Mistakes
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.crosscheck.sampler.probes import Probe, actor_of, hidden, probes, separating
from qgf_ref.crosscheck.sampler.requirements import prepared
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import (
    FLOW_BUDGET,
    FlowNetworks,
    compared_with,
    convention_of,
    in_core,
)
from qgf_ref.denoising import GradientSteps
from qgf_ref.flow.convention import ConventionLike
from qgf_ref.flow.normalisation import Normalisation
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import EstimatorLike
from qgf_ref.interop.trace_file import RecordedTrace
from qgf_ref.threads import one_blas_thread


@dataclass(frozen=True)
class Comparison:
    """The outcome of `compare`.

    forced    quantity → judgement by step, every quantity recomputed from *their* inputs of it;
              empty without their states
    free      the same of the reference's own run from their noise
    first     the first quantity and step that disagree, or None
    worst     the element of `first` that is furthest off
    hidden    mistakes of the bank that this trace would not show
    separate  an input that tells the remaining candidates apart
    alike     what the bank does not list, and is the same as the one explanation on this input
    """

    setting: Setting
    case: RecordedCase
    forced: dict[str, Judgement]
    free: dict[str, Judgement]
    first: tuple[int, str] | None
    worst: Element | None
    diagnosis: Diagnosis
    hidden: tuple[str, ...] = ()
    separate: Probe | None = None
    rows_undecided: int = 0
    notes: tuple[str, ...] = field(default=())
    alike: Mistakes = ()

    @property
    def agrees(self) -> bool:
        """Whether rounding explains every recorded number."""
        return self.diagnosis.agrees

    @property
    def judged(self) -> dict[str, Judgement]:
        """The judgements of the pass that localises: forced where their states are known."""
        return self.forced or self.free


@one_blas_thread()
def compare(
    checkpoint: Checkpoint | GuidedFlow,
    theirs: RecordedTrace,
    *,
    estimator: EstimatorLike | None = None,
    weight: float | None = None,
    denoise_steps: int | None = None,
    progress: bool = False,
    convention: ConventionLike | None = None,
    units: Normalisation | None = None,
    budget: int = FLOW_BUDGET,
    gradient_steps: GradientSteps | None = None,
    precision: str | None = None,
) -> Comparison:
    """Compare a recorded run with the reference on `checkpoint`, and name what is wrong with it.

    estimator, weight, denoise_steps  override the trace's metadata, as does gradient_steps, of
    GradStep; the checkpoint's T is used when neither says. Raises InputError when the trace does
    not fit the checkpoint, or nothing says which estimator and weight it was made with. Ctrl-C ends
    a diagnosis with what is known by then, and says so (`Diagnosis.interrupted`).

    convention, units  in which the trace was recorded (default: what it says, else that of the
                       flow's adapter; and the networks' own units)
    precision          in which the port's networks compute, if that is less than float32:
                       "bfloat16" or "float16". Its rounding explains the more
    Of a flow of anybody's networks, in place of a checkpoint:
    budget             calls of a network; a diagnosis that does not come to its end says so
    Mistakes inside of networks are not simulated then, and rounding is that of jittered networks.
    """
    if known_precision(precision) is not None:
        theirs = replace(theirs, metadata={**theirs.metadata, "precision": precision})
    told = convention_of(checkpoint, convention, theirs.metadata.get("convention"))
    theirs = in_core(theirs, told, units)
    networks = compared_with(checkpoint, theirs.obs, budget)
    climb = theirs.gradient_steps if gradient_steps is None else gradient_steps
    actor = actor_of(networks)
    if actor is not None and estimator in (None, "none"):  # another is refused by its name
        require_plain(
            actor, networks.source, weight=bool(weight), gradient_steps=climb is not None,
            convention=convention is not None,
        )  # fmt: skip
    setting, case = prepared(networks, theirs, estimator, weight, denoise_steps)
    setting = replace(setting, climb=climb)
    chosen, search, diagnosis = diagnose(setting, [case], progress, interruptible=True)
    diagnosis = described(chosen, diagnosis, [case])
    place = located(chosen, case)
    first, worst = (None, None) if diagnosis.agrees else (place.first, place.worst)
    separate, alike = None, search.alike(diagnosis)
    several = [*(e.mistakes for e in diagnosis.explanations[:4]), *((m,) for m in alike)]
    if len(several) > 1 and not chosen.opaque:
        separate = separating(chosen, several, probes(networks))
        # what no input tells apart from the explanation is another word for it
        alike = alike if separate is not None else ()
    notes = _notes(chosen, case)
    return Comparison(
        chosen, case, place.forced, place.free, first, worst, diagnosis,
        hidden(chosen, [case]) if diagnosis.agrees and not chosen.opaque else (),
        separate, int((~place.scatter.decided).sum()), notes, alike,
    )  # fmt: skip


def _notes(setting: Setting, case: RecordedCase) -> tuple[str, ...]:
    notes = list(case.notes)
    if setting.open_ended:
        notes.append("the result is not clipped to ±1, as the official sampler leaves it")
    if setting.divided:
        notes.append("times are fl(k)/fl(T); the official jitted code has fl(k)·fl(1/T)")
    if setting.wide_times:
        notes.append(
            "a float32 port with times embedded in float64, as its metadata say; the official code "
            "rounds them to float32"
        )
    if not case.single and setting.time_precision == "float32":
        notes.append("a float64 port with the official float32 time embedding")
    if halves := case.trace.in_half_precision:
        every = len(halves) == 1 + len(case.trace.stepwise)
        what = "every number" if every else f"every number of {', '.join(halves)}"
        notes.append(
            f"{what} is a float16: computed or stored so, and judged as float32 (computed so: "
            "--precision float16)"
        )
    if (precision := case.trace.metadata.get("precision")) is not None:
        notes.append(
            f"judged by the rounding of {precision}: what is smaller goes unseen. Run the port in "
            "float32 to see it"
        )
    if isinstance(setting.checkpoint, FlowNetworks):
        if grid := setting.checkpoint.grid:
            notes.append(
                f"the port's times are rounded as the grid {grid!r} of a qgf_ref.Convention, not "
                "as its flow's"
            )
        notes.append(
            f"{setting.checkpoint.meter.total} calls of a network; what is wrong inside of it is "
            "not among the mistakes that are tried"
        )
    return tuple(notes)


def as_dict(result: Comparison) -> dict[str, Any]:
    """Everything, for JSON. Infinite ratios (a missing row, a NaN) become null."""

    def numbers(values: Array) -> list[float | None]:
        return [float(f"{x:.4g}") if np.isfinite(x) else None for x in values]

    def judgements(judged: dict[str, Judgement]) -> dict[str, Any]:
        return {
            name: {
                "ratio": numbers(j.ratio),
                "spread": numbers(j.spread),
                "peak": numbers(j.peak),
                "agrees": bool(j.agrees),
            }
            for name, j in judged.items()
        }

    d = result.diagnosis
    return {
        "agrees": result.agrees,
        "estimator": result.setting.method,
        "weight": result.case.weight,
        "denoise_steps": result.setting.denoise_steps,
        "best_of": result.case.best_of,
        "precision": result.case.precision,
        "first": None
        if result.first is None
        else {"step": result.first[0], "quantity": result.first[1]},
        "worst": None if result.worst is None else vars(result.worst),
        "teacher_forced": judgements(result.forced),
        "free_running": judgements(result.free),
        "rows_undecided": result.rows_undecided,
        "explanations": [
            {
                "mistakes": [
                    {
                        "name": m.name,
                        "variant": m.variant,
                        "says": m.mistake.says,
                        "hint": d.hints.get(str(m)),
                    }
                    for m in e.mistakes
                ],
                "excess": e.excess,
                "record": list(e.record),
            }
            for e in d.explanations
        ],
        "unknown": d.unknown,
        "nearest": [{"mistake": str(n.made), "explained": n.explained} for n in d.nearest],
        "known": list(d.known),
        "record": list(d.record),
        "alike": [str(made) for made in result.alike],
        "hidden": list(result.hidden),
        "separating_input": None if result.separate is None else result.separate.why,
        "notes": list(result.notes),
    }
