"""Whether an answer is decided by the inputs: asked again before any number of it is explained."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError

SAME, MOVED, MATTERS = 1e-4, 1e-6, 1e-3
"""Relative differences: that the order of a GPU's sums may make between two equal calls; below
which an answer did not move at all; by which the reference must move for an input to matter.
"""

Arrays = Mapping[str, Array]


def broken_premise(
    whose: str,
    call: Callable[[Arrays], Arrays],
    inputs: Arrays,
    answers: Arrays,
    others: Arrays | None = None,
    depends: Callable[[str], Any] = lambda name: True,
) -> str | None:
    """What makes every comparison vain: another answer to the same call, or an input ignored.

    whose    "your sampler"
    call     inputs → answers, by name; answers  what it gave for `inputs` before
    others   other values of some inputs, each tried alone
    depends  whether the reference's answers change with that input's other value
    """
    again = call(inputs)
    for name, answer in answers.items():
        apart = difference(again[name], answer)
        if apart > SAME:
            return (
                f"{whose} gives another answer to the same call (Dropout? own noise? state?): "
                f"{name} differs by {apart:.1g} of its size. Make it a function of its inputs, "
                "then compare"
            )
    for name, other in (others or {}).items():
        if np.array_equal(other, inputs.get(name, ())) or not depends(name):
            continue
        moved = call({**inputs, name: other})
        if all(difference(moved[n], answer) < MOVED for n, answer in answers.items()):
            return f"{whose} does not depend on the {name} given: with another it answers the same"
    return None


def require(*asked: Any) -> None:
    """Raise CrossCheckError on a broken premise. Arguments as those of `broken_premise`."""
    broken = broken_premise(*asked)
    if broken is not None:
        raise CrossCheckError(broken)


def another(inputs: Arrays, fixed: Container[str] = ()) -> Arrays:
    """Other values for every input, of the same kind.

    Rows change places, too: a statistic over the batch would undo what all rows share.
    fixed: inputs whose values say something else, as row numbers do: their rows change places alone
    """
    turned = {name: np.roll(x, 1, axis=0) for name, x in inputs.items()}
    return {
        name: x if name in fixed else (0.5 * x + 0.25).astype(x.dtype) for name, x in turned.items()
    }


def difference(a: Array, b: Array) -> float:
    """‖a − b‖ over the larger norm; 1 for arrays of other shapes."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return 1.0
    scale = float(max(np.linalg.norm(a), np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / scale if scale else 0.0
