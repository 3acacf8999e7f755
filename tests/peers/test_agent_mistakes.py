"""The other agents' training steps in JAX: right ones pass, mistakes planted there are named.

All mistakes and ten architectures each: `python benchmarks/crosscheck_training.py`. Run with
`pytest -m peers` after `pip install -e ".[test,peers]"`.
"""

from __future__ import annotations

import pytest

from qgf_ref.crosscheck.sampler.mistakes.bank import candidates
from tests.helpers.agents import VARIANTS, variant

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation")]
pytest.importorskip("jax")

from benchmarks import crosscheck_samplers as samplers  # noqa: E402
from benchmarks.crosscheck_training import alarmed, checked, judged, mistakes  # noqa: E402
from benchmarks.peers.jax_agent_mistakes import broken  # noqa: E402
from benchmarks.peers.jax_agents import PEERS  # noqa: E402
from benchmarks.peers.jax_dqc_mistakes import HELD_OUT  # noqa: E402


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mistake_of_the_bank_is_planted(name: str) -> None:
    for mistake in mistakes(name):
        assert broken(name.split()[0], mistake).__name__ == "Wrong"


@pytest.mark.parametrize(
    "name",
    ["fql ddpg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dac", "dqc"))],
)
def test_the_right_peer_passes(name: str) -> None:
    """Measured over ten architectures of each: see the table of the page."""
    outcome = alarmed(name, 0)
    assert outcome.named and outcome.excess < 0.8


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("fql ddpg", "endpoint-differentiated"),
        ("dqc", "teacher-differentiated"),
        pytest.param("dqc distilling quantiles", "backup-strict", marks=pytest.mark.slow),
        pytest.param("dqc n-step", "distillation-bound-float32", marks=pytest.mark.slow),
        pytest.param("edp", "actor-clip-mask-dropped", marks=pytest.mark.slow),
        pytest.param("qam", "last-step-by-fast-flow", marks=pytest.mark.slow),
    ],
)
def test_a_planted_mistake_is_named_and_nothing_else(name: str, mistake: str) -> None:
    assert judged(name, mistake, mistakes(name)[mistake]).named


@pytest.mark.parametrize(
    "name",
    [n if i < 1 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(HELD_OUT)],
)
def test_a_mistake_of_no_bank_is_unknown_where_it_is(name: str) -> None:
    methods, first = HELD_OUT[name]
    peer = type("Wrong", (PEERS["dqc"],), methods)
    outcome = checked("dqc", name, variant("dqc"), 0, peer)
    assert (outcome.said, outcome.first) == (("unknown",), first)


def test_every_mistake_of_the_diffusion_is_planted() -> None:
    """But for those of this sampler's own flags."""
    for name in ("dac, clipped before", "dac, clipped after", "qsm, not clipped"):
        ck = samplers.networks(name)
        bank = {m.name for m in candidates(samplers.setting(ck).port())} - {"chunk-action-major"}
        assert bank == set(samplers.made(name))


@pytest.mark.parametrize(
    "name", ["fql", pytest.param("dac, clipped before", marks=pytest.mark.slow)]
)
def test_the_right_sampler_passes(name: str) -> None:
    outcome = samplers.alarmed(name, 0)
    assert outcome.named and outcome.excess is not None and outcome.excess < 0.8


@pytest.mark.parametrize(
    ("name", "mistake", "traced"),
    [
        ("qsm, not clipped", "posterior-mean-unclipped", False),
        pytest.param("dac, clipped before", "ddim-mean", True, marks=pytest.mark.slow),
        pytest.param("qam", "best-of-min", False, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_sampler_is_named_and_nothing_else(name: str, mistake: str, traced: bool) -> None:
    assert samplers.judged(name, mistake, traced).named
