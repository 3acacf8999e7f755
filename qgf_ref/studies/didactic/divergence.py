"""Where BPTT diverges (the paper's Figure 14): the product of the flow's Jacobians, and its cause.

With Q = −|a − a*| the critic's gradient has length 1, so |G| of BPTT is |∏_{j≥k}(1 + δ ∂v/∂a_j)|
itself. In the continuous flow in one dimension that product is known: the map from a_0 to a_1
carries N(0, 1) to π̂, so

    ∂a_1/∂a_0 = φ(a_0)/π̂(a_1),

which at the boundary between two modes is as large as the density there is small: of the order of
exp(d²/8σ²) for modes a distance d apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from qgf_ref.arrays import Array
from qgf_ref.flow.distances import quantile_noise
from qgf_ref.flow.euler import RolloutCache, rollout, rollout_jvp
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.sampling import Trace
from qgf_ref.studies.didactic.runs import (
    Laboratory,
    LawCase,
    escaped,
    path,
    path_rows,
    rounded,
    target,
)
from qgf_ref.studies.shared.scenes import trimodal

COMPARED = ("bptt", "qgf_jacobian", "qgf", "ood")
FINE = 8
"""Noises of the products for each point of the study's laws: their peaks are narrow."""
BLOCK = 500
"""Noises rolled out at once: the network's caches of T = 50 steps take 150 MB."""


LIMIT = "exact, T → ∞"
DRAWN = (("exact", "bptt"), ("learned", "bptt"), ("learned", "qgf"))
"""Field and estimator of the paths drawn: PATHS at even quantiles of the noise, and all that end
beyond FAR."""
PATHS = 80
FAR = 4.0
STRETCHES = 400
"""Of the noise, in the table of products: more than a figure has pixels for."""


@dataclass(frozen=True)
class Product:
    """∂ODE(a_0)/∂a_0 along the unguided flow: noise a_0 (B,), product (B,), and the partial
    products ∂a_t/∂a_0 (T + 1,) from the noise with the largest.
    """

    noise: Array
    product: Array
    growth: Array

    @property
    def largest(self) -> float:
        """max |∂ODE(a_0)/∂a_0|."""
        return float(abs(self.product).max())


@dataclass(frozen=True)
class Divergence:
    """Figure 14's numbers.

    products  by "exact, T = 10" and the like; limit, a_0 and the continuous flow's product
    paths     a_t (T + 1, B) by field and estimator, None where the sampler diverged
    peaks     the largest product over separation, (separation, product), by T
    rows      one for each field and estimator, for the CSV
    """

    steps: int
    weight: float
    products: dict[str, Product]
    limit: tuple[Array, Array]
    paths: dict[tuple[str, str], Array | None]
    peaks: dict[str, list[tuple[float, float]]]
    rows: list[dict[str, Any]]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What the figure draws: the products by noise and along t, and the paths of DRAWN."""
        noise = next(iter(self.products.values())).noise
        finite = {name: abs(p.product) for name, p in self.products.items()}
        curves = ((noise, finite), (self.limit[0], {LIMIT: self.limit[1]}))
        products = [row for x, by_name in curves for row in thinned(x, by_name)]
        growth = [
            {"series": name, "t": k / (len(p.growth) - 1), "growth": float(abs(x))}
            for name, p in self.products.items()
            for k, x in enumerate(p.growth)
        ]
        paths = []
        for field, name in DRAWN:
            path = self.paths[field, name]
            if path is not None:
                even = np.linspace(0, path.shape[1] - 1, PATHS).astype(int)
                far = np.flatnonzero(abs(path[-1]) > FAR)
                head = {"field": field, "estimator": name}
                paths += path_rows(head, path[:, even], path[:, far])
        return {"products": products, "growth": growth, "escaping_paths": paths}

    @property
    def numbers(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "weight": self.weight,
            "T": self.steps,
            "largest_product": {name: p.largest for name, p in self.products.items()},
            "largest_product_of_the_continuous_flow": float(self.limit[1].max()),
            "largest_product_over_separation": self.peaks,
            "cases": self.rows,
        }


def divergence(
    lab: Laboratory, steps: int, weight: float, separations: Sequence[float]
) -> Divergence:
    """BPTT and others on Q = −|a − a*| at one weight, on both fields, with the products' growth.

    A sampler that leaves the finite numbers is reported as diverged.
    """
    inside = Laboratory.of(lab.learned, COMPARED, lab.points)
    products, rows = {}, []
    paths: dict[tuple[str, str], Array | None] = {}
    for field in ("exact", "learned"):
        for T in (steps, 5 * steps):
            flow = inside.flow(LawCase(field, "distance", "bptt", weight, T))
            products[f"{field}, T = {T}"] = product(flow, FINE * lab.points)
        for name in COMPARED:
            run = inside.trace(LawCase(field, "distance", name, weight, steps), 2 * lab.points)
            paths[field, name] = None if run is None else path(run)
            rows.append({"field": field, "estimator": name, "weight": weight, "T": steps,
                         **_summary(run)})  # fmt: skip
    peaks = {
        f"T = {T}": [(s, _peak(inside, T, s)) for s in separations] for T in (steps, 5 * steps)
    }
    peaks["T → ∞"] = [(s, float(limit(s)[1].max())) for s in separations]
    return Divergence(steps, weight, products, limit(1.0), paths, peaks, rows)


def product(flow: GuidedFlow, points: int) -> Product:
    """∂ODE/∂a_0 at `points` quantiles of the noise, and its growth along t at the largest."""
    noise = quantile_noise(points)
    totals = []
    for part in np.array_split(noise, -(-points // BLOCK)):
        _, cache = rollout(flow.field, part[:, :0], part, flow.times)
        totals.append(rollout_jvp(flow.field, np.ones_like(part), cache)[:, 0])
    total = np.concatenate(totals)
    worst = noise[[int(abs(total).argmax())]]
    _, cache = rollout(flow.field, worst[:, :0], worst, flow.times)
    T = len(flow.times)
    growth = [
        rollout_jvp(flow.field, np.ones_like(worst), RolloutCache(cache.steps[:k], T))
        for k in range(T + 1)
    ]
    return Product(noise[:, 0], total, np.concatenate(growth)[:, 0])


def limit(separation: float) -> tuple[Array, Array]:
    """a_0 (N,) and ∂a_1/∂a_0 = φ(a_0)/π̂(a_1) (N,) of the continuous exact flow, 99.8% of noises."""
    law = target("distance", 0.0, separation)
    below = np.cumsum(law.mass) - 0.5 * law.mass
    inside = (below > 1e-3) & (below < 1 - 1e-3)
    a0, a1 = ndtri(below[inside]), law.nodes[inside]
    log_density = trimodal(separation).log_density(a1[:, None])
    return a0, np.exp(norm.logpdf(a0) - log_density)


def _peak(lab: Laboratory, steps: int, separation: float) -> float:
    """The largest |∂ODE/∂a_0| of the exact field over the noise's quantiles."""
    flow = lab.flow(LawCase("exact", "distance", "bptt", 0.0, steps, separation))
    return product(flow, FINE * lab.points).largest


def thinned(noise: Array, curves: Mapping[str, Array]) -> list[dict[str, float]]:
    """Rows of the curves (N,) over the noise (N,): of each of STRETCHES parts of the noise those
    where a curve is least or largest, which is what a figure can show.
    """
    kept = {
        stretch[pick(curve[stretch])]
        for stretch in np.array_split(np.arange(len(noise)), min(STRETCHES, len(noise)))
        for curve in curves.values()
        for pick in (np.argmin, np.argmax)
    }
    columns = {"noise": noise, **curves}
    index = sorted(kept)
    values = zip(*(rounded(x[index]) for x in columns.values()), strict=True)
    return [dict(zip(columns, each, strict=True)) for each in values]


def _summary(run: Trace | None) -> dict[str, Any]:
    if run is None:
        return {"largest_g": None, "largest_a_t": None, "largest_action": None, "escaped": 1.0,
                "diverged": True}  # fmt: skip
    return {
        "largest_g": float(abs(run.g).max()),
        "largest_a_t": float(abs(path(run)).max()),
        "largest_action": float(abs(run.action).max()),
        "escaped": escaped(run.action[:, 0]),
        "diverged": False,
    }
