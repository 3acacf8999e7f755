"""What a diagnosis has computed before is not computed again, and is the same to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest

from qgf_ref.agents import memory
from qgf_ref.agents.memory import Memory, Recent
from qgf_ref.crosscheck.sampler.diagnosis import diagnose
from qgf_ref.crosscheck.sampler.mistakes.bank import Made, first_quantity, order
from qgf_ref.crosscheck.sampler.port import Substituted
from qgf_ref.crosscheck.sampler.search import Search
from qgf_ref.ops.activations import activation, activation_vjp
from tests.crosscheck.ports import case, inputs, lively, port_run, setting

CHECKPOINT = lively()
CRITIC = CHECKPOINT.network("target_critic")


def products(critic: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    obs, action, along = (rng.standard_normal((5, width)) for width in (6, 4, 4))
    q, cache = critic.forward(obs, action)
    q_bar = rng.standard_normal(q.shape)
    return [
        q, critic.vjp(q_bar, cache), critic.jvp(along, cache), critic.hvp(along, q_bar, cache)
    ]  # fmt: skip


def test_remembered_products_are_the_same_bits_and_the_callers_own() -> None:
    kept = Memory()
    watched = replace(CRITIC, kernels=kept)
    expected = products(CRITIC)
    for _ in range(2):
        for mine, theirs in zip(products(watched), expected, strict=True):
            assert np.array_equal(mine, theirs)
            mine[:] = np.nan
    assert kept.runs == 4


def test_equal_parameters_are_the_same_network_and_others_are_not() -> None:
    kept = Memory()
    copied = replace(CRITIC, kernels=kept, params=CRITIC.params.map(np.copy))
    products(replace(CRITIC, kernels=kept))
    products(copied)
    assert kept.runs == 4
    other = replace(CRITIC.options, activation="relu")
    off = CRITIC.params.map(lambda x: x + 2.0**-40)
    for changed in (replace(copied, params=off), replace(copied, options=other)):
        bare = products(replace(changed, kernels=CRITIC.kernels))
        pairs = zip(products(changed), bare, strict=True)
        assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_what_is_substituted_inside_of_a_network_is_told_apart() -> None:
    def doubled(x: np.ndarray, name: str) -> Any:
        y, cache = activation(x, name)
        return 2 * y, cache

    kept, by = Memory(), {activation: doubled}
    products(replace(CRITIC, kernels=kept))
    found = products(replace(CRITIC, kernels=Substituted(kept, by)))
    expected = products(replace(CRITIC, kernels=Substituted(CRITIC.kernels, by)))
    assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))
    nested = Substituted(Substituted(kept, by), {activation_vjp: activation_vjp})
    assert nested.inside == {(activation, doubled), (activation_vjp, activation_vjp)}


def test_what_is_forgotten_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ANSWERS", 0)
    monkeypatch.setattr(memory, "CACHES", 0)
    kept = Memory()
    for _ in range(2):
        found = products(replace(CRITIC, kernels=kept))
        assert all(np.array_equal(x, y) for x, y in zip(found, products(CRITIC), strict=True))
    assert kept.runs == 2 * (1 + 3 * 2)  # each product has its forward again


def test_the_least_recently_used_goes_first() -> None:
    recent, made = Recent(2), list[str]()
    for key in "abacba":
        recent.once(key, partial(made.append, key), lambda _: 1)
    assert "".join(made) == "abcba"


def test_what_another_thread_computes_is_waited_for() -> None:
    recent, made, begun = Recent(9), list[str](), Event()

    def slow() -> str:
        begun.set()
        Event().wait(0.2)  # for the other, which comes to the same key
        made.append("slow")
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(recent.once, "key", slow, len)
        begun.wait()
        assert recent.once("key", lambda: made.append("again"), len) == "slow"
        assert first.result() == "slow" and made == ["slow"]


def test_a_diagnosis_computes_little_of_what_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown mistake, its gradient halved in some rows: every mistake, and pairs."""
    asked = 0
    whole = Memory.whole

    def counted(self: Memory, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return whole(self, *args, **kwargs)

    given, fresh = inputs(CHECKPOINT), setting(CHECKPOINT)
    found = port_run(setting(CHECKPOINT), (), given)
    found["g"] = np.where(found["g"][..., :1] > 0, found["g"] / 2, found["g"])
    monkeypatch.setattr(Memory, "whole", counted)
    diagnosis = diagnose(fresh, [case(given, found)])[2]
    assert diagnosis.unknown == "g" and diagnosis.pairs > 50
    assert 3 * fresh.memory.runs < asked


def test_v_rules_out_what_changes_it_and_nothing_else() -> None:
    """Of mistakes that arise up to v, where v is right: those that leave it may explain more."""
    chosen, given = setting(CHECKPOINT), inputs(CHECKPOINT)
    one = case(given, port_run(chosen, (Made("gradient-sign", ""),), given))
    screen = Search(chosen, [one]).screen((), "g")
    right, ruled = one.theirs["v"], 0
    for made in screen.additions(set()):
        if first_quantity(made) > order("v") or made.mistake.coarse or made.mistake.coupled:
            continue
        port = chosen.port((made,))
        v = one.simulate(port, screen.rows, "v")["v"]
        far = np.abs(v - right[:, screen.rows]).max() / np.abs(right).max()
        if screen._ruled_out_by_v(port, (made,)):
            ruled += 1
            assert far > 1e-7, made
        elif made.mistake.family is None:
            assert far < 1e-3, made
    assert ruled > 5


def test_one_step_rules_out_what_the_whole_run_does() -> None:
    chosen, given = setting(CHECKPOINT), inputs(CHECKPOINT)
    found = port_run(chosen, (Made("gradient-sign", ""), Made("ensemble-mean", "")), given)
    search = Search(chosen, [case(given, found)])
    screen = search.screen((), "g")
    search._singles(screen, "g", False)
    pairs = search._pairs(screen)[:40]
    passed = [pair for pair in pairs if screen.passes(pair)]
    whole = [
        pair
        for pair in pairs
        if screen._near("g", screen.theirs, screen._cut(search.cases[0].simulate(
            chosen.port(pair))["g"], "g"))
    ]  # fmt: skip
    assert passed and passed == whole
