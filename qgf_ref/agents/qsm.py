"""QSM+BC: a diffusion policy whose noise is matched to the critic's gradient, and to the data's.

Source: baselines.md, section 7; Psenka et al., Q-Score Matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qgf_ref.agents.diffusion import DiffusionAgent, DiffusionSettings, diffusion
from qgf_ref.agents.settings import setting


@dataclass(frozen=True)
class QSMSettings(DiffusionSettings):
    """DAC's, and a temperature."""

    inv_temp: float = setting(0.1, "κ: the noise is matched to −κ times the critic's gradient")

    @property
    def temperature(self) -> float:
        """κ."""
        return self.inv_temp


class QSMAgent(DiffusionAgent):
    """L_own = mean m·(e + κg)², e the predicted noise."""

    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"q_aggregation": "mean"},
        **{
            domain: {"inv_temp": 0.1, "alpha": 10.0, "clip_sampler_before": False}
            for domain in ("cube-triple", "cube-quadruple", "puzzle-4x4", "scene")
        },
    }


QSM = diffusion(QSMAgent, "qsm", QSMSettings())
