"""How much the bias-variance study computes."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SweepSize:
    """How much is computed. rows: states of each time; draws: of the errors."""

    dims: tuple[int, ...] = (1, 2, 10, 25)
    shown_dims: tuple[int, ...] = (2, 10)
    weights: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    boundary_weights: tuple[float, ...] = (0.1, 0.5, 2.0)
    weight: float = 0.5
    strains: tuple[float, ...] = (0.0, 0.03, 0.1, 0.2, 0.4, 1.0)
    rhos: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)
    separations: tuple[float, ...] = (0.5, 1.0, 2.0)
    sds: tuple[float, ...] = (0.15, 0.3, 0.6)
    exact_rows: int = 256
    rows: int = 24
    draws: int = 12
    curl_rows: int = 12
    sample_rows: int = 600
    sample_draws: int = 4
    coarse: bool = False


QUICK = replace(
    SweepSize(),
    dims=(1, 2, 10),
    shown_dims=(2,),
    weights=(0.03, 0.3, 3.0),
    boundary_weights=(0.5,),
    strains=(0.0, 0.1, 0.3, 1.0),
    rhos=(0.0, 0.3, 3.0),
    separations=(0.5, 2.0),
    sds=(0.15, 0.6),
    exact_rows=64,
    rows=16,
    draws=6,
    curl_rows=8,
    sample_rows=300,
    sample_draws=3,
    coarse=True,
)
