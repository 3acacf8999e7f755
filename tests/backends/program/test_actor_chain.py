"""Samplers of one network as programs: what the reference chain gives, whichever way it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qgf_ref.agents.actor import clipped_end
from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.agents.diffusion import step_noise
from qgf_ref.agents.registry import agent_with
from qgf_ref.arrays import Array
from qgf_ref.backends.cupy.backend import executor as device_executor
from qgf_ref.backends.engine import Engine, backend_named
from qgf_ref.backends.numba.sampler import compiled_sampler
from qgf_ref.backends.program.executor import execute
from qgf_ref.backends.program.program import Op
from qgf_ref.backends.program.record import Actor, NotRecordable, record
from qgf_ref.errors import InputError
from qgf_ref.flow.chain import Chain, chain_end
from qgf_ref.flow.diffusion import DDPM, SamplerClips
from qgf_ref.ops.clip import clip
from tests.helpers.compiled_sampler import teams_on_small_networks

O, D, T = 5, 3, 6
AGENTS: dict[str, dict[str, Any]] = {
    "fql": {},
    "dac": {"alpha": 10.0},
    "dac official": {"alpha": 10.0, "clip_sampler_before": False},
    "qsm": {"inv_temp": 0.1, "clip_sampler_before": False, "clip_sampler_after": True},
}
ROUNDING = {"float64": 3e-14, "float32": 1e-5}
"""Eight times the largest measured (QSM): of the largest value, which without clips is 4,000."""


def case(name: str, dtype: str, rows: int = 7) -> tuple[Checkpoint, Array, Array]:
    rng, agent = np.random.default_rng(3), agent_with(name.split()[0], AGENTS[name])
    options = Options("gelu", "mean", T, 1, False, 0.99, 0.9)
    params = agent.initial(rng, O, D, (16, 24), 2)
    checkpoint = Checkpoint(options, params=params, agent=agent).astype(dtype)
    obs, noise = (rng.standard_normal((rows, n)).astype(dtype) for n in (O, D))
    return checkpoint, obs, noise


def actor_of(checkpoint: Checkpoint, noise: Array) -> Actor:
    agent: Any = checkpoint.agent
    return Actor(agent.acting(checkpoint, agent.actor, Acting()), agent.drawn(noise, T))


def ended(chain: Chain) -> Any:
    """The chain's last state, not clipped, as programs are recorded."""

    def run(actor: Actor, obs: Array, noise: Array, weight: Any) -> tuple[Array, ...]:
        return (chain_end(chain, actor.net, obs, noise, actor.z, T),)

    return run


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", AGENTS)
def test_the_program_is_the_chain(name: str, dtype: str) -> None:
    """The same bits."""
    checkpoint, obs, noise = case(name, dtype)
    actor, chain = actor_of(checkpoint, noise), checkpoint.agent.chain  # type: ignore[attr-defined]

    def run(actor: Actor, obs: Array, noise: Array, weight: Any) -> tuple[Array, ...]:
        end = chain_end(chain, actor.net, obs, noise, actor.z, T)
        return (end, actor.net.kernels(clip, end)[0])

    program = record(actor, run)
    for got, expected in zip(
        execute(program, actor, obs, noise), run(actor, obs, noise, 0.0), strict=True
    ):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    drawn = [step.numbers[0] for step in program.instructions if step.op == Op.DRAW]
    assert drawn == ([] if name == "fql" else list(range(T - 1))), "the last noise is not used"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", AGENTS)
def test_compiled_ends(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's, and the same bits for any batch and any number of threads."""
    checkpoint, obs, noise = case(name, dtype, rows=150)
    chain = checkpoint.agent.chain  # type: ignore[attr-defined]

    def end(rows: int, threads: int = 1, backend: str = "numba") -> Array:
        engine = Engine(backend_named(backend), threads if backend == "numba" else None)
        actor = actor_of(checkpoint, noise[:rows])
        return engine.run_actor(actor, ended(chain), (name, "end"), obs[:rows], noise[:rows])[0]

    expected, got = end(150, backend="numpy"), end(150)
    scale = max(1, abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING[dtype] * scale)
    for rows, threads in ((150, 2), (1, 1), (9, 2)):
        np.testing.assert_array_equal(end(rows, threads), got[:rows])
    teams_on_small_networks(monkeypatch)
    np.testing.assert_array_equal(end(5, 2), got[:5])
    action = checkpoint.agent.act(checkpoint, obs, noise, Acting(backend="numba"))
    np.testing.assert_array_equal(action, np.clip(got, -1, 1))


def test_a_program_is_kept_and_knows_its_chain() -> None:
    checkpoint, obs, noise = case("dac", "float32")
    actor, engine = actor_of(checkpoint, noise), Engine(backend_named("numba"), 1)
    kept = len(compiled_sampler.samplers)
    before, after = (DDPM.of(SamplerClips(before=on, after=not on)) for on in (True, False))
    first = clipped_end(before, actor, obs, noise, T, engine)
    assert len(compiled_sampler.samplers) == kept + 1
    clipped_end(before, actor_of(checkpoint, noise + 1), obs, noise, T, engine)
    assert len(compiled_sampler.samplers) == kept + 1, "other noise is the same program"
    other = clipped_end(after, actor, obs, noise, T, engine)
    assert len(compiled_sampler.samplers) == kept + 2
    assert abs(first - other).max() > 0.1


class OneRowAtATime(Chain):
    """What a program cannot say: it looks at its rows."""

    def steps(self, T: int) -> int:
        return 1

    def output(self, net: Any, obs: Array, x: Array, n: int, T: int) -> Array:
        return np.concatenate([net.forward(obs[i : i + 1], x[i : i + 1])[0] for i in range(len(x))])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_is_no_program_runs_layer_by_layer(backend: str) -> None:
    checkpoint, obs, noise = case("fql", "float64")
    chain, actor = OneRowAtATime(), actor_of(checkpoint, noise)
    got = clipped_end(chain, actor, obs, noise, T, Engine.of(backend))
    expected = checkpoint.agent.act(checkpoint, obs, noise, Acting())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_samples_that_leave_the_finite_numbers(backend: str) -> None:
    """As the reference has them, on every backend: an overflow is clipped, or not a number."""
    checkpoint, obs, noise = case("dac official", "float32")
    with np.errstate(all="ignore"):
        expected = checkpoint.agent.act(checkpoint, obs, noise * 1e37, Acting())
        got = checkpoint.agent.act(checkpoint, obs, noise * 1e37, Acting(backend=backend))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["fql", "dac"])
def test_what_does_not_fit_is_refused(name: str, backend: str) -> None:
    """Compiled code would read past the end of what is too short."""
    checkpoint, obs, noise = case(name, "float32")
    agent: Any = checkpoint.agent
    for rows, others in ((3, 7), (7, 3), (1, 7)):
        with pytest.raises(InputError, match=f"a row for each of {rows}, got {others}"):
            agent.act(checkpoint, obs[:rows], noise[:others], Acting(backend=backend))
    if name == "fql":
        return
    actor = actor_of(checkpoint, noise)
    for z in (None, actor.z[: T - 1], actor.z[:, :4], actor.z[:, :, :1]):
        with pytest.raises(InputError, match=r"z must have shape \(6, 7, 3\), got"):
            clipped_end(agent.chain, Actor(actor.net, z), obs, noise, T, Engine.of(backend))


def test_the_gpu_runs_actors_layer_by_layer() -> None:
    checkpoint, _, noise = case("fql", "float32")
    with pytest.raises(NotRecordable, match="an actor's chain"):
        device_executor(actor_of(checkpoint, noise), lambda *arrays: (), "key")


def test_a_rows_steps_are_seeded_by_its_noise_as_one_integer() -> None:
    """Of each row alone, in any dtype; words of zeros at the high end are no part of a number."""
    wide = 7  # NumPy fills up to four words with zeros itself
    noise = np.random.default_rng(0).standard_normal((4, wide)).astype(np.float32)
    noise[1, -1], noise[2, 1:], noise[3] = 0, 0, 0
    z = step_noise(noise, T)
    assert z.shape == (T, 4, wide) and z.dtype == np.float32
    for row, drawn in zip(noise, z.swapaxes(0, 1), strict=True):
        rng = np.random.default_rng(int.from_bytes(row.astype("<f4").tobytes(), "little"))
        np.testing.assert_array_equal(drawn, rng.standard_normal((T, wide)).astype(np.float32))
    np.testing.assert_array_equal(step_noise(noise[1:2], T), z[:, 1:2])
    assert step_noise(noise.astype(np.float64), T).dtype == np.float64
    assert step_noise(noise[:0], T).shape == (T, 0, wide)
