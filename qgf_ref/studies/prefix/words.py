"""The prefix study in words: its tables, and what each kind of guidance estimates."""

from __future__ import annotations

from qgf_ref.studies.base import Rows, distinct, fill, select
from qgf_ref.tables import text_table

COLUMNS = [(m, T) for m in ("prefix", "mean", "spread") for T in (5, 10)]
COLUMNS += [("w2", T) for T in (5, 10, 100)]
"""What the tables show: measure and T."""
MEANING = (
    "Exact, with C = ((1−t)²/t)·J₀ the covariance of a_1 given a_t and P the executed part: "
    "((1−t)/t)·J₀ᵀPᵀ(PCPᵀ)⁻¹(y − Pâ₁). The paper has r² = (1−t)²/(t² + (1−t)²) in the place of "
    "PCPᵀ, which it is for independent actions of variance 1 and no others: J, not cut, is then "
    "exact. I leaves out J₀ as well: of those actions it pulls (t² + (1−t)²)/t times as hard, "
    "infinitely so at t = 0, hence the cut; of correlated ones it moves the executed part alone, "
    "and the rest follows through v."
)


def report(rows: Rows, horizon: int, executed: int) -> str:
    """The tables to quote, and what they say."""
    blocks, run = [], distinct(rows, "T")
    columns = [(m, T) for m, T in COLUMNS if T in run]
    for law in distinct(rows, "law"):
        body = []
        for label in distinct(rows, "estimator"):
            by_steps = {r["T"]: r for r in select(rows, law=law, estimator=label)}
            body.append([label, *(_cell(by_steps[T][m]) for m, T in columns)])
        heads = [f"{m} {T}" if T == 5 else str(T) for m, T in columns]
        blocks.append(text_table([law, *heads], body, left=(0,)))
    note = (
        f"Chunks of {horizon} Gaussian actions, the first {executed} given as y, W = 1 on them and "
        "0 elsewhere, T steps; nothing is drawn. prefix: root mean square of executed action − y; "
        "mean: of the mean of the rest − the exact one; spread: standard deviation of the rest "
        "over the exact one; w2: 2-Wasserstein distance to the exact law of the chunks that begin "
        "with y. Lengths in the data's standard deviation. J: with the denoiser's Jacobian, as "
        "the paper and its code; I: without, as lerobot's code. What all rows of a table share at "
        "T = 5 and 10 (spread < 1, none) is Euler's error."
    )
    return "\n\n".join([*blocks, fill(note), fill(MEANING)])


def _cell(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0e}"
