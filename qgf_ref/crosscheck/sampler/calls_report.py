"""What a check of a sampler, or of one of its functions, found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qgf_ref.crosscheck.located import Element, located
from qgf_ref.crosscheck.sampler.case import RecordedCase, causal_order
from qgf_ref.crosscheck.sampler.known import described
from qgf_ref.crosscheck.sampler.outcome import Diagnosis
from qgf_ref.crosscheck.sampler.probes import Probe, probes, separating
from qgf_ref.crosscheck.sampler.report import diagnosis_lines, headline, place, wrapped
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import Compared


@dataclass(frozen=True)
class SamplerReport:
    """What a check found.

    diagnosis  on the networks `on`, by the calls named
    first      (call, step, quantity) of the first disagreement in the call that shows most; worst,
               the element of it that is furthest off
    hidden     mistakes of the bank that none of the calls would have shown
    right      the calls that agree, of a disagreement that has no name; notes  on what was returned
    """

    diagnosis: Diagnosis
    on: str
    calls: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    separate: Probe | None = None
    title: str = "sampler"
    first: tuple[str, int, str] | None = None
    worst: Element | None = None
    right: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether rounding explains everything."""
        return self.diagnosis.agrees

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DISAGREES"
        call = self.first[0] if self.first and len(self.calls) > 1 else ""
        lines = [] if self.agrees else [headline(self.diagnosis, call)]
        who = f"the {self.title}'s record" if self.diagnosis.record else self.title
        lines += wrapped(f"{who} {verdict} with qgf_ref on {self.on} ({', '.join(self.calls)})", "")
        lines += [line for note in self.notes for line in wrapped(f"note: {note}", "  ")]
        if self.first is not None:
            call, step, quantity = self.first
            where = f", in the call '{call}'" if call and len(self.calls) > 1 else ""
            at = place(step, quantity, self.diagnosis.places)
            lines += wrapped(f"first: {at}{where}", "  ")
        if self.worst is not None:
            lines += wrapped(f"worst element {self.worst}", "  ")
        lines += diagnosis_lines(self.diagnosis)
        if self.right and len(self.calls) > 1:
            without = ": what comes without guidance is right" * (self.right == ("unguided",))
            lines += wrapped(f"These calls agree: {', '.join(self.right)}{without}.", "  ")
        if self.separate is not None:
            lines += wrapped(f"To tell them apart, run it with {self.separate.why}.", "")
        if self.hidden:
            lines += wrapped(f"Not shown by these inputs: {', '.join(self.hidden)}.", "")
        return "\n".join(lines)


def disagreement(
    setting: Setting,
    diagnosis: Diagnosis,
    on: str,
    calls: tuple[str, ...],
    networks: Compared | None,
    cases: Sequence[RecordedCase],
    title: str = "sampler",
) -> SamplerReport:
    """The report of a disagreement. networks: to look for separating inputs on, if a sampler's."""
    separate = None
    if diagnosis.ambiguous and networks is not None:
        several = [e.mistakes for e in diagnosis.explanations[:4]]
        separate = separating(setting, several, probes(networks, seed=1))
    places = [(case, located(setting, case)) for case in cases]
    wrong = [(case, where.first, where.worst) for case, where in places if where.first is not None]
    # a call with its steps says more than final actions, and earlier quantities more than later
    wrong.sort(key=lambda x: (not x[0].forced, causal_order(*x[1])))
    first = worst = None
    if wrong:
        case, (step, quantity), worst = wrong[0]
        first = (case.label, step, quantity)
    right: tuple[str, ...] = ()
    if diagnosis.unknown is not None:
        right = tuple(case.label for case, where in places if where.first is None)
        shown = [case for case, *_ in wrong if diagnosis.unknown in case.theirs]
        diagnosis = described(setting, diagnosis, shown)
    return SamplerReport(
        diagnosis, on, calls, separate=separate, title=title, first=first, worst=worst, right=right,
        notes=tuple({note: None for case in cases for note in case.notes}),
    )  # fmt: skip
