"""The paper's agent: a flow policy, an ensemble of critics with its average, and IQL's value."""

from __future__ import annotations

from qgf_ref.agents.part import Part

PARTS = (
    Part("policy", ("obs", "action", "time"), "action", acting=True),
    Part("critic", ("obs", "action"), "scalar", ensemble=True),
    Part("target_critic", ("obs", "action"), "scalar", True, target_of="critic", acting=True),
    Part("value", ("obs",), "scalar"),
)
"""In the order in which files and reports list them."""
