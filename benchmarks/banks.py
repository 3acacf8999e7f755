"""The tables of mistakes on the pages, from the banks that the cross-check simulates."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks import sentences
from qgf_ref.crosscheck.batches.literal import MISTAKES as BATCHES
from qgf_ref.crosscheck.sampler.mistakes.actors import ACTORS, FLOWS
from qgf_ref.crosscheck.sampler.mistakes.bank import BANK
from qgf_ref.crosscheck.sampler.mistakes.base import AREAS, Mistake
from qgf_ref.crosscheck.sampler.mistakes.convention import CLAMPS, CONVENTION
from qgf_ref.crosscheck.sampler.mistakes.goals import GOALS
from qgf_ref.crosscheck.sampler.mistakes.methods import METHODS
from qgf_ref.crosscheck.sampler.mistakes.network_options import NETWORK_OPTIONS
from qgf_ref.crosscheck.sampler.mistakes.options import OPTIONS
from qgf_ref.crosscheck.update.banks import bank_of
from qgf_ref.crosscheck.update.mistakes import MISTAKES
from tests.helpers.agents import VARIANTS, variant

WIDTH = 116


def bank() -> str:
    """The sampler's mistakes."""
    return _table_of(BANK)


def other_bank() -> str:
    """Those of the other methods and conventions, which are none of the bank."""
    return _table_of((*METHODS, *CONVENTION, *CLAMPS, *OPTIONS))


def network_options() -> str:
    """Those of networks that are otherwise than the options say."""
    return _table_of(NETWORK_OPTIONS)


def _table_of(mistakes: Sequence[Mistake]) -> str:
    rows = [[f"`{m.name}`", f"`{m.first}`", m.says] for m in mistakes]
    return sentences.page_table(["mistake", "first seen in", "what is wrong"], rows)


def training_bank() -> str:
    """The training update's mistakes."""
    rows = [[f"`{m.name}`", f"`{m.first}`", m.says] for m in MISTAKES]
    return sentences.page_table(["mistake", "first seen in", "what is wrong"], rows)


def agent_banks() -> str:
    """The mistakes that other agents' updates have beside the paper's agent's."""
    shared = {m.says for m in MISTAKES}
    agents: dict[tuple[str, ...], dict[str, None]] = {}
    for name in VARIANTS:
        for m in bank_of(variant(name).agent).mistakes:
            if m.says not in shared and not name.startswith("dqc"):
                key = f"`{m.name}`", f"`{m.first}`", m.says
                agents.setdefault(key, {})[name.split()[0]] = None
    rows = [[name, ", ".join(of), first, says] for (name, first, says), of in agents.items()]
    return sentences.page_table(["mistake", "agents", "first seen in", "what is wrong"], rows)


def dqc_bank() -> str:
    """The mistakes that DQC's update has beside the paper's agent's, whatever its settings."""
    shared = {m.says for m in MISTAKES}
    first: dict[tuple[str, str], dict[str, None]] = {}
    for name in VARIANTS:
        for m in bank_of(variant(name).agent).mistakes if name.startswith("dqc") else ():
            if m.says not in shared or m.first in variant(name).params:
                first.setdefault((f"`{m.name}`", m.says), {})[f"`{m.first}`"] = None
    rows = [[name, " or ".join(where), says] for (name, says), where in first.items()]
    return sentences.page_table(["mistake", "first seen in", "what is wrong"], rows)


def batch_bank() -> str:
    """The mistakes in drawing batches with goals."""
    return sentences.page_table(
        ["mistake", "what is wrong"], [[f"`{name}`", says] for name, says in BATCHES.items()]
    )


def sampler_banks() -> str:
    """The mistakes of the other agents' samplers."""
    return _table_of((*ACTORS, *FLOWS))


def goal_sampler_bank() -> str:
    """Those of samplers that a critic of goals guides."""
    return _table_of(GOALS)


def size() -> str:
    """How large the banks are, in a sentence."""
    return (
        textwrap.fill(
            f"{len(BANK)} mistakes of a sampler, in {len(AREAS)} areas ({', '.join(AREAS)}), and "
            f"{len(MISTAKES)} of a training update.",
            WIDTH,
        )
        + "\n"
    )
