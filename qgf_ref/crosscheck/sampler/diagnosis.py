"""Diagnosis by simulation: which mistakes reproduce a recorded run, and how it was written.

First no mistake, under every setting in which a right port may have run; then another way of
writing a right run; then mistakes (`search`); then one mistake together with a way of writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.hints import hints
from qgf_ref.crosscheck.sampler.mistakes.bank import order
from qgf_ref.crosscheck.sampler.outcome import Diagnosis, Explanation
from qgf_ref.crosscheck.sampler.record import misrecorded
from qgf_ref.crosscheck.sampler.search import Search
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.simulations import ended_like, settings_for
from qgf_ref.crosscheck.sampler.subject import FlowNetworks
from qgf_ref.errors import BudgetSpent
from qgf_ref.interop.trace_file import CAUSAL


def diagnose(
    setting: Setting,
    cases: list[RecordedCase],
    progress: bool = False,
    premises: Callable[[], None] = lambda: None,
    interruptible: bool = False,
) -> tuple[Setting, Search, Diagnosis]:
    """The diagnosis under the first setting that explains everything, else under the first.

    All cases must be of one precision. premises is called before any mistake is simulated.
    interruptible: Ctrl-C ends the search with what is known by then.
    """
    chosen, search, diagnosis = _diagnosed(setting, cases, progress, premises, interruptible)
    ranked = any(case.best_of > 1 for case in cases)
    told = {
        name: line
        for explanation in diagnosis.explanations
        for name, line in hints(chosen, explanation.mistakes, ranked).items()
    }
    return chosen, search, replace(diagnosis, places=chosen.places, hints=told)


Tried = tuple[Setting, Search, Diagnosis]


def _diagnosed(
    setting: Setting,
    cases: list[RecordedCase],
    progress: bool,
    premises: Callable[[], None],
    interruptible: bool,
) -> tuple[Setting, Search, Diagnosis]:
    tried: list[Tried] = []
    choices = settings_for(ended_like(setting, cases), cases[0])
    observed = [n for n in CAUSAL if any(n in case.theirs for case in cases)]
    searches: list[Search] = []
    for choice in choices:
        search = Search(choice, cases)
        try:
            excess = max(search.excess((), name) for name in observed)
        except BudgetSpent:
            if not searches:
                raise
            break
        if excess <= 1:
            return choice, search, Diagnosis((Explanation((), excess),))
        searches.append(search)
    if setting.opaque:  # one grid is searched, whose v is right if any is: a call may take seconds
        right = [s for s in searches if "v" in observed and s.excess((), "v") <= 1]
        searches = (right or searches)[:1]
    try:
        for search in searches:
            written = misrecorded(search.setting, cases)
            if written:
                return search.setting, search, Diagnosis((), record=written)
        premises()
        for search in searches:
            diagnosis = search.diagnose(progress)
            tried.append((search.setting, search, diagnosis))
            if diagnosis.explanations:
                break
    except (BudgetSpent, KeyboardInterrupt) as end:
        if isinstance(end, KeyboardInterrupt) and not interruptible:
            raise
        return search.setting, search, _unfinished(search, observed, end)
    named = tried[-1] if tried[-1][2].explanations else None
    found = named or max(tried, key=lambda t: order(t[2].unknown or "action"))
    if named is not None and any(len(e.mistakes) == 1 for e in named[2].explanations):
        return found
    try:
        return _beside_its_record(searches, cases, progress, named) or found
    except (BudgetSpent, KeyboardInterrupt) as end:
        if isinstance(end, BudgetSpent):
            _lift_budget(found[0])
        elif not interruptible:
            raise
        else:
            found = (*found[:2], replace(found[2], interrupted=True))
        return found


def _beside_its_record(
    searches: list[Search], cases: list[RecordedCase], progress: bool, named: Tried | None
) -> Tried | None:
    """What one mistake and a record of something else explain together, beside what was named.

    A record that is not what its names say stands in the way of every simulation of it: the final
    actions alone name the mistake, and the rest must then be what that sampler may have written.
    Where one quantity at most is wrong given their inputs of it, the others follow from what was
    recorded of it, and the record is what its names say.
    """
    if all(_hangs_together(searches[0], index) for index in range(len(cases))):
        return None
    for search in searches:
        actions = Search(search.setting, [case.final() for case in cases])
        joint = []
        for explanation in actions.diagnose(progress, pairs=False).explanations:
            for made in (explanation.mistakes, *explanation.variants):
                written = misrecorded(search.setting, cases, made)
                if written:
                    joint.append(Explanation(made, explanation.excess, record=written))
                    break
        if joint:
            least = min(len(e.record) for e in joint)
            fewest = tuple(e for e in joint if len(e.record) == least)
            own = named[2].explanations if named and named[1] is search else ()
            return search.setting, search, Diagnosis((*fewest, *own), singles=actions.singles)
    return None


def _hangs_together(search: Search, index: int) -> bool:
    case = search.cases[index]
    if not case.forced:
        return case.observed == ("action",)
    forced = search.forced(index)
    return sum(not case.judge(name, forced).agrees for name in case.observed) < 2


def _unfinished(search: Search, observed: list[str], end: BaseException) -> Diagnosis:
    """What is known where somebody, or the calls of somebody's network, have come to their end."""
    _lift_budget(search.setting)
    interrupted = isinstance(end, KeyboardInterrupt)
    why = str(end) or "Ctrl-C came"
    known = (f"{why} before the diagnosis was done, after {search.singles} mistakes",)
    fitting = [made for made in search.fitting if search.agrees(made, observed[-1])]
    if fitting:
        return Diagnosis(
            search.explanations(fitting, observed), singles=search.singles, pairs=search.pairs,
            known=(f"{known[0]}: others may reproduce everything, too",), interrupted=interrupted,
        )  # fmt: skip
    first = next(name for name in observed if search.excess((), name) > 1)
    return Diagnosis((), first, ((),), singles=search.singles, known=known, interrupted=interrupted)


def _lift_budget(setting: Setting) -> None:
    if isinstance(setting.checkpoint, FlowNetworks):
        setting.checkpoint.meter.lift()
