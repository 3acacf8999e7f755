"""The stage that clones behaviour, for agents whose critic trains another network.

Source: baselines.md, sections 5 and 6.
"""

from __future__ import annotations

from functools import partial

from qgf_ref.agents.stage import NOISE, UNIFORM_TIMES, Loss, Stage, StageInputs
from qgf_ref.losses.actor import weighted_flow_matching


def cloning_stage(part: str) -> Stage:
    """Flow matching of the flow `part` to the batch's actions, by uniform times."""
    return Stage(part, (part,), partial(_cloning_loss, part), (NOISE, UNIFORM_TIMES))


def _cloning_loss(part: str, inputs: StageInputs) -> Loss:
    """`qgf_ref.losses.actor.weighted_flow_matching`."""
    batch, drawn = inputs.batch, inputs.drawn
    loss, bar = weighted_flow_matching(
        inputs.nets[part], batch.obs, drawn["x0"], batch.action, drawn["t"], batch.valid
    )
    return loss, {part: bar}
