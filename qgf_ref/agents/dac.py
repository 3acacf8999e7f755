"""DAC: a diffusion policy whose noise leans along the critic's gradient.

Source: baselines.md, section 7; Fang et al., Diffusion Actor-Critic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from qgf_ref.agents.diffusion import DiffusionAgent, DiffusionSettings, diffusion


class DACAgent(DiffusionAgent):
    """L_own = mean m·ς·g·e, linear in the predicted noise e; α·L_BC bounds it."""

    official: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"q_aggregation": "mean"},
        "cube-triple": {"alpha": 100.0, "clip_sampler_before": False},
        "cube-quadruple": {"alpha": 100.0, "clip_sampler_before": False},
        "puzzle-4x4": {"alpha": 300.0, "clip_sampler_before": False},
        "scene": {"alpha": 100.0, "clip_sampler_before": False},
    }


DAC = diffusion(DACAgent, "dac", DiffusionSettings())
