"""How strong guidance is, and where there is nothing to say of its curl."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, estimator
from qgf_ref.audit.flow_audit import audit_flow
from qgf_ref.audit.flow_report import summary_lines
from qgf_ref.audit.profile import ChainGradients, profile
from qgf_ref.audit.strength import strength_lines, strength_rows, strengths
from qgf_ref.tables import text_table
from tests.conftest import small_checkpoint, states
from tests.helpers.compiled_sampler import without_layer_norm


class Across(Estimator):
    """Where ∇Q is turned off Q's ascent: as long, and of no use."""

    name, summary = "across", "∇Q without its part along ∇Q"

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        guidance = estimator("ood")(flow, step)
        g = guidance.gradient
        x = np.roll(g, 1, axis=1) - g * (np.roll(g, 1, axis=1) * g).sum(-1, keepdims=True) / (
            (g * g).sum(-1, keepdims=True)
        )
        return replace(guidance, gradient=x)


def test_guidance_that_does_nothing_is_said_to() -> None:
    """Too short for the velocity, or as good as a random direction."""
    ck = small_checkpoint()
    obs = states(ck, 12)[0]
    chain = ChainGradients.of(ck.flow, obs, [estimator("qgf"), Across()], 0)
    for weight, weak in ((0.5, False), (1e-4, True)):
        found = strengths(ck.flow, chain, [estimator("qgf"), Across()], weight, 0)
        assert found["qgf"].weak == weak
        lines = " ".join(strength_lines(found))
        assert ("qgf does next to nothing" in lines) == weak
        assert "The gain in Q of across is not told from that of random" in lines
    header, rows = strength_rows(found, ck.flow.times)
    assert max(map(len, text_table(header, rows).splitlines())) <= 100
    assert len(header) == 8


def test_a_piecewise_linear_critic_has_no_curl_rather_than_0() -> None:
    """Of ReLU networks without LayerNorm ∂G/∂a_t is 0 almost everywhere, by any oracle."""
    ck = small_checkpoint(activation="relu")
    bare = {name: without_layer_norm(ck.params[name]) for name in ck.params}
    flow, guided = replace(ck, params=bare).flow, [estimator("qgf"), estimator("qgf_shifted")]
    obs = states(ck, 6)[0]
    report = profile(flow, ChainGradients.of(flow, obs, guided, 0), guided)
    assert report.departure["qgf"] is None and not report.curled["qgf"]
    assert "G of qgf does not change around a_t at 6 of 6 rows" in report.remarks["qgf"][0]
    # its weights move with Q, which is not piecewise constant
    assert report.curled["qgf_shifted"] and (report.departure["qgf_shifted"] or 0) > 0.01
    found = audit_flow(flow, obs, guided[:1], show_progress=False)
    assert found.estimators["qgf"].curl is None
    assert any("G of qgf does not change around a_t at" in line for line in summary_lines(found))
