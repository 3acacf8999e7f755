"""What an audit shares and does at once is what it would find one by one."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from qgf_ref import DenoisingStep, Estimator, Guidance, GuidedFlow, estimator, sample
from qgf_ref.arrays import Array
from qgf_ref.audit import run as audit_run
from qgf_ref.audit.chain import ChainGradients
from qgf_ref.audit.final_values import FinalValues
from qgf_ref.audit.on_engine import (
    LEAST_ROWS,
    WORTH_THREADS,
    for_each,
    gradient_at,
    gradients_at,
    gradients_of,
    one_batch,
    ours,
    program_of,
    reference_threads,
    remembering,
)
from qgf_ref.backends.engine import Engine
from qgf_ref.bench.settings import fresh_checkpoint
from qgf_ref.denoising import denoising_step
from qgf_ref.guidance.queries import critic_value
from qgf_ref.guidance.registry import learned_estimator_names
from qgf_ref.imaginary import what_drops_imaginary_parts
from qgf_ref.threads import thread_count
from tests.conftest import small_checkpoint, states

NUMBA = Engine.of("numba", 2)


class Theirs(Estimator):
    """A user's, which notes where it is called."""

    name, summary, analytic = "theirs", "∇Q(s, a_t)", False

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        self.threads.add(threading.get_ident())
        return estimator("ood")(flow, step)


def test_an_audit_in_threads_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whatever comes first; a user's estimator is asked in the main thread alone."""
    ck, theirs, found = small_checkpoint(), Theirs(), []
    obs = states(ck, 6)[0]
    names = ("none", "ood", "qgf_jacobian", "qgf_covariance", "qgf_shifted", "cfgrl")
    for threads in (1, 3):
        monkeypatch.setattr(audit_run, "reference_threads", lambda _, n=threads: n)
        asked = [*map(estimator, names), theirs]
        found.append(audit_run.audit(ck, obs, asked, show_progress=False).as_json())
    for report in found:
        for moment in ("seconds", "time"):
            report.pop(moment)
        report["profile"].pop("milliseconds")
    assert found[0] == found[1]
    assert theirs.threads == {threading.get_ident()}


def test_what_networks_remember_is_what_they_compute() -> None:
    """To the bit, at real a_t and at complex ones, whichever estimator asks first; and where
    imaginary parts are dropped is seen though the answer is known.
    """
    ck = small_checkpoint()
    obs, a = states(ck, 6)
    known, asked = remembering(ck.flow), [estimator(n) for n in learned_estimator_names()]
    memory: Any = known.field.kernels  # type: ignore[attr-defined]
    for x in (a, a + 1e-30j * np.cos(a)):
        bare, kept = (denoising_step(flow, obs, x, 2, 0.1) for flow in (ck.flow, known))
        for e in [e for e in asked if e.on(ck.flow) is ck.flow and (e.analytic or x is a)]:
            assert np.array_equal(e(known, kept).gradient, e(ck.flow, bare).gradient), e.label
    computed = memory.runs
    denoising_step(known, obs, a, 2)
    assert memory.runs == computed

    def dropping(flow: GuidedFlow, x: Any) -> Any:
        return np.abs(flow.critic.forward(obs, x)[0])

    flows = (ck.flow, known, known)
    dropped = [what_drops_imaginary_parts(partial(dropping, flow), x) for flow in flows]
    assert "np.absolute at test_at_once.py" in dropped[0] and len(set(dropped)) == 1


def test_threads_are_for_large_networks_of_ours() -> None:
    small, large = small_checkpoint(), fresh_checkpoint((512, 512), 0)
    assert reference_threads(small) == 1
    assert large.params["critic"].count >= WORTH_THREADS
    assert reference_threads(large) == thread_count()


def test_what_is_ours() -> None:
    def guide(flow: GuidedFlow, step: DenoisingStep) -> Array:
        return np.zeros_like(step.action)

    for spec, known in (("qgf", True), (guide, False), (Theirs(), False)):
        e = estimator(spec)
        assert ours(e) == known
        assert one_batch(e, NUMBA) == known and not one_batch(e, Engine.of("numpy"))
    assert ours(estimator("qgf+norm=1"))
    order: list[str] = []
    asked = [Theirs(), estimator("qgf"), estimator("ood")]
    found = for_each(asked, lambda e: order.append(e.label), 1)
    assert list(found) == ["theirs", "qgf", "ood"] and order == ["qgf", "ood", "theirs"]


@pytest.mark.parametrize("engine", [Engine.of("numpy"), NUMBA], ids=["numpy", "numba"])
def test_values_of_final_actions_are_those_of_chains_of_their_own(engine: Engine) -> None:
    """Also at w = 0, where most chains are the unguided one and are not run: not those of another
    flow (cfgrl), of an acceleration (qgf_shifted_taylor), of a user's, or of a G that is no number.
    """
    ck = small_checkpoint()
    flow, obs = ck.flow, states(ck, 5)[0]
    asked: list[Estimator] = [estimator(n) for n in learned_estimator_names() if n != "none"]
    asked.append(Theirs())
    chain = ChainGradients.of(flow, obs, asked, 0)
    final = FinalValues(flow, chain, engine, 2)
    for e in asked:
        expected = []
        for w in (0.0, 0.3, 2.0):
            action = sample(flow, obs, estimator=e, weight=w, noise=chain.noise)
            expected.append(critic_value(flow, obs, action))
        # measured 3e-15
        np.testing.assert_allclose(final.of(e, (0.0, 0.3)), expected[:2], rtol=1e-12)
        # beside what is known
        np.testing.assert_allclose(final.of(e, (2.0, 0.3)), expected[:0:-1], rtol=1e-12)
    plain = {label for label, straight in chain.plain.items() if straight}
    assert {e.label for e in asked} - plain == {"qgf_shifted_taylor"}


def test_one_program_gives_the_gradients_of_all() -> None:
    """But of those that have none, are sampled on another flow, or are a user's."""
    ck = small_checkpoint()
    obs, a = states(ck, 7)
    step = denoising_step(ck.flow, obs, a, 2, 0.1)
    asked = [*map(estimator, learned_estimator_names()), Theirs()]
    shared = program_of(asked, ck.flow, NUMBA)
    alone = {"qgf_jacobian_ortho", "qgf_jacobian_smooth", "cfgrl", "theirs"}
    assert {e.label for e in asked} - {e.label for e in shared} == alone
    assert not program_of(asked, ck.flow, Engine.of("numpy"))
    near: list[Any] = [a, a + 0.1]
    for e, G in zip(shared, gradients_of(shared, ck.flow, step, near, NUMBA), strict=True):
        expected = gradients_at(e, ck.flow, step, near, NUMBA)
        # measured 3e-15: the two may have been compiled with other instructions beside
        np.testing.assert_allclose(G, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["qgf", "qgf_shifted", "qgf_jacobian_ortho"])
def test_rows_of_several_actions_do_not_depend_on_the_call(name: str) -> None:
    """In one call, and in parts of it, a thread each, the compiled rows have the same bits."""
    ck, e = small_checkpoint(), estimator(name)
    obs, a, *_ = states(ck, LEAST_ROWS + 3)
    step = denoising_step(ck.flow, obs, a, 2, 0.1)
    near: list[Any] = [step.action + 0.01 * n for n in range(3)]
    whole = gradients_at(e, ck.flow, step, near, NUMBA)
    for actions, G in zip(near, whole, strict=True):
        alone = gradient_at(e, ck.flow, 2, obs, actions, 0.1, NUMBA.single)
        assert np.array_equal(alone, G)
