"""`explain`: how one gradient of one row at one step came about, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import numpy as np

from qgf_ref.adapters.examination import REPEATS, relative_distance
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array, matrix
from qgf_ref.audit.definitions import defined_gradient, has_definition
from qgf_ref.audit.whole_networks import RecordingCounter
from qgf_ref.denoising import denoising_step
from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator, GuidedFlow, Products
from qgf_ref.guidance.counting import ProductCounter, counted
from qgf_ref.ledger import Constant, Leaf, Ledger, LedgerEntry, Output
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.oracles import Remark, remarks
from qgf_ref.quotients import AGREEMENT
from qgf_ref.sampling import trace
from qgf_ref.threads import one_blas_thread

CONTRADICTION = {"float64": 1e-10, "float32": 1e-4}
"""Relative difference from the definition that rounding does not explain (measured ≤ 1e-14, and in
float32 6e-7)."""
MARK = {"forward": "", "jvp": "jvp", "vjp": "vjp", "vjp_jvp": "vjp's jvp"}


@dataclass(frozen=True)
class GradientExplanation:
    """A gradient and its record.

    gradient (D,); rederived (D,): replayed from the ledger; defined (D,) or None: from the
    estimator's definition by complex step, or by differences where `remarks` say so. repeats: the
    relative difference that two equal calls of somebody's networks may have, 0 of ours.
    """

    estimator: Estimator
    row: int
    index: int
    time: float
    ledger: Ledger
    products: Products
    gradient: Array
    rederived: Array
    defined: Array | None
    remarks: tuple[Remark, ...] = ()
    repeats: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every operation is on the record and the replay ends in the same numbers."""
        return not self.ledger.undeclared and self._replayed

    @property
    def _replayed(self) -> bool:
        """In the same bits, or as nearly as a call repeats."""
        if not self.repeats or not self.recorded:
            return np.array_equal(self.gradient, self.rederived)
        return relative_distance(self.rederived, self.gradient) <= self.repeats

    @property
    def recorded(self) -> bool:
        """Whether the gradient is a recorded operation's outcome; users' code often is not."""
        return bool(np.isfinite(self.rederived).all())

    @property
    def contradicted(self) -> bool:
        """Whether the replay or the definition says otherwise than the estimator."""
        replayed = self.recorded and not self._replayed
        by_steps = has_definition(self.estimator) or self.estimator.analytic
        least = CONTRADICTION[self.gradient.dtype.name] if by_steps else AGREEMENT
        allowed = max([least, *(r.accuracy for r in self.remarks)])
        return replayed or (self.error is not None and self.error > allowed)

    @property
    def error(self) -> float | None:
        """‖gradient − defined‖/‖defined‖, or None without a definition."""
        if self.defined is None:
            return None
        norm = float(np.linalg.norm(self.defined))
        distance = float(np.linalg.norm(self.gradient - self.defined))
        return distance / norm if norm else distance

    def text(self, brief: bool = False) -> str:
        """The whole story, at most 100 columns wide. brief: one line for each network pass."""
        entries = self.ledger.entries
        lines = [
            f"estimator {self.estimator.label}: G = {self.estimator.summary}",
            fill(
                f"row {self.row}, denoising step {self.index} (t = {self.time:g}), "
                f"{len(entries)} operations, products: {self.products}",
                98,
            ),
            "",
            f"{'#':>4}  {'operation':<20} {'layer':<9} {'from':<12} {'in → out':<21} "
            f"{'‖in‖':>8} {'‖out‖':>8} {'gain':>8}",
        ]
        groups = _passes(entries) if brief else [[entry] for entry in entries]
        lines += [_line(group) for group in groups]
        lines += ["", "from: #n the result of operation n, @n linearised where operation n ran"]
        lines += ["", *_vector("G", self.gradient)]
        if self.complete:
            bits = np.array_equal(self.gradient, self.rederived)
            same = "the same bits" if bits else f"the same to {self.repeats:.0e}, as calls repeat"
            lines.append(f"re-derived from the ledger alone: {same}")
        elif not self.recorded:
            lines.append(
                "not re-derived: the gradient itself was not made by flow.kernels(…), so the "
                "ledger holds only part of it"
            )
        else:
            difference = float(np.abs(self.gradient - self.rederived).max(initial=0))
            lines.append(
                f"re-derived from the ledger: differs by {difference:.1e}; "
                f"{len(self.ledger.undeclared)} of the arrays used were made outside the ledger"
            )
        if self.error is not None:
            how = "differences" if self.remarks else "complex step"
            lines.append(f"from the definition, by {how}: relative difference {self.error:.1e}")
            lines += [fill(f"  {remark.text}", 98) for remark in self.remarks]
        return "\n".join(lines)


@one_blas_thread()
def explain(
    checkpoint: Checkpoint | GuidedFlow,
    obs: Array,
    *,
    estimator: Estimator,
    row: int = 0,
    index: int = 0,
    weight: float = 0.0,
    noise: Array | None = None,
    seed: int = 0,
    embedding: Precision = "exact",
) -> GradientExplanation:
    """Follow the guided chain of obs[row] (obs (B, O)) to step `index` and record G there.

    noise (B, D), or drawn from `seed` for the whole batch, so that `row` means the same in both.
    Of a flow of anybody's networks a call of one is one operation: nothing inside is on the record.
    embedding: of a checkpoint's times.

    Raises InputError when row or index is out of range.
    """
    ledger = Ledger()
    whole, recording, counter = _recording(checkpoint, embedding, ledger)
    flow = estimator.on(whole)
    wide, D = whole.field.obs_dim, whole.field.action_dim
    obs = matrix(obs, "obs", columns=np.shape(obs)[-1] if wide is None else wide)
    for name, value, size in (("row", row, len(obs)), ("step", index, flow.denoise_steps)):
        if not 0 <= value < size:
            raise InputError(f"{name} must be one of the {size}, 0 to {size - 1}, got {value}")
    if noise is None:
        noise = np.random.default_rng(seed).standard_normal((len(obs), D))
    noise = matrix(noise, "noise", columns=D)
    if len(noise) != len(obs):
        raise InputError(f"noise must have a row for each of the {len(obs)}, got {len(noise)}")
    one = slice(row, row + 1)
    chain = trace(flow, obs[one], estimator=estimator, weight=weight, noise=noise[one])

    action, state = chain.a[index], chain.obs
    ledger.declare("s", state)
    ledger.declare("a_t", action)
    counting = estimator.on(recording)
    step = denoising_step(counting, state, action, index, weight)
    gradient = estimator(counting, step).gradient
    products = counter.take()
    with remarks() as said:
        defined = defined_gradient(
            estimator, flow, denoising_step(flow, state, action, index, weight)
        )
    return GradientExplanation(
        estimator=estimator,
        row=row,
        index=index,
        time=step.time,
        ledger=ledger,
        products=products,
        gradient=gradient[0],
        rederived=_replay(ledger, gradient)[0],
        defined=None if defined is None else defined[0],
        remarks=tuple(said),
        repeats=REPEATS[gradient.dtype.name] if isinstance(checkpoint, GuidedFlow) else 0.0,
    )


def _recording(
    checkpoint: Checkpoint | GuidedFlow, embedding: Precision, ledger: Ledger
) -> tuple[GuidedFlow, GuidedFlow, ProductCounter]:
    """The flow; the same, what it does written into the ledger; and the count of its products."""
    if isinstance(checkpoint, GuidedFlow):
        recorder = RecordingCounter(ledger)
        recording, counter = counted(replace(checkpoint, kernels=ledger), recorder)
        return checkpoint, recording, counter
    whole: Any = checkpoint.guided_flow(embedding=embedding)
    ledger.declare_params("policy", whole.field.params)
    ledger.declare_params("critic", whole.critic.params)
    for name, params in checkpoint.auxiliary.present().items():
        ledger.declare_params(name, params)
    recording, counter = counted(checkpoint.guided_flow(embedding=embedding, kernels=ledger))
    return whole, recording, counter


def _replay(ledger: Ledger, gradient: Array) -> Array:
    try:
        return ledger.replay(gradient)
    except KeyError:
        return np.full_like(gradient, np.nan)


def _passes(entries: list[LedgerEntry]) -> list[list[LedgerEntry]]:
    """Consecutive entries of the same network and kind of product, together."""
    groups: list[list[LedgerEntry]] = []
    for entry in entries:
        network = entry.where.split(" ")[0]
        last = groups[-1][-1] if groups else None
        if (
            last
            and network
            and (last.where.split(" ")[0], _sweep(last)) == (network, _sweep(entry))
        ):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _sweep(entry: LedgerEntry) -> str:
    # a sweep that carries a cotangent and its tangent has the plain vjps of both in it
    return "vjp" if entry.product == "vjp_jvp" else entry.product


def _line(group: list[LedgerEntry]) -> str:
    first, last = group[0], group[-1]
    name = f"{first.operation} {MARK[first.product]}".rstrip()
    where = first.where
    if len(group) > 1:
        network = where.split(" ")[0]
        product = next((e.product for e in group if e.product == "vjp_jvp"), first.product)
        name, where = f"{network} {MARK[product] or 'forward'}", f"{len(group)} ops"
    operand, result = first.operand, last.result
    shapes = " → ".join("–" if x is None else _shape(x) for x in (operand, result))
    norms = [None if x is None else float(np.linalg.norm(x)) for x in (operand, result)]
    norm_cells = [f"{'–':>8}" if n is None else f"{n:>8.3g}" for n in norms]
    gain = f"{norms[1] / norms[0]:>8.3g}" if norms[0] and norms[1] is not None else f"{'–':>8}"
    return (
        f"{first.index:>4}  {name:<20} {where:<9} {_sources(first):<12} {shapes:<21} "
        f"{norm_cells[0]} {norm_cells[1]} {gain}"
    )


def _sources(entry: LedgerEntry) -> str:
    names = []
    for reference in entry.inputs:
        match reference:
            case Output(index, part):
                names.append(f"{'@' if part == 1 and entry.product != 'forward' else '#'}{index}")
            case Leaf(name) if ".layers." not in name:
                names.append(name)
            case Constant(float(value)) if entry.operation in ("axpy", "scaled", "per_row"):
                names.append(f"{value:.3g}")
    text = " ".join(dict.fromkeys(names))  # several results of one operation have one number
    return text if len(text) <= 12 else text[:11] + "…"


def _shape(x: Array) -> str:
    return "×".join(map(str, x.shape)) or "scalar"


def _vector(name: str, x: Array) -> list[str]:
    per_line = 8
    lines = []
    for start in range(0, len(x), per_line):
        label = f"{name} =" if start == 0 else " " * (len(name) + 2)
        lines.append(f"{label} " + " ".join(f"{v:>10.3e}" for v in x[start : start + per_line]))
    return lines
