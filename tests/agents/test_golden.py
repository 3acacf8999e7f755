"""The methods that train their actor with the critic, against the official code's numbers.

Oracles: shared/golden/METHOD (README there): the official float32 training step and samples, and an
independent float64 autodiff's losses and gradients.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgf_ref
from benchmarks.golden import GOLDEN, golden_batch, nested
from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.step import TrainState, losses, update
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import backend_named
from qgf_ref.cli.main import main
from qgf_ref.flow.diffusion import CORRECTED, OFFICIAL, SamplerClips, ddpm
from qgf_ref.interop.official import params_from_flax
from qgf_ref.losses.batch import Batch
from qgf_ref.nets.mlp import MLPParams

CASES = (
    "edp/iql", "edp/mean_relu_nstep", "fql/iql", "fql/ddpg", "qam/iql", "qam/ddpg", "dac/iql",
    "dac/ddpg_clip_before", "qsm/iql", "qsm/ddpg_clip_after",
)  # fmt: skip
LOSS_32, LOSS_64 = 1e-6, 2e-14
"""Relative. Measured: 8e-7 in float32; 2e-15 in float64."""
GRADIENT_64 = 1e-11
"""Of each array's norm. Measured 6e-14 (edp, whose times are embedded), 1e-15 elsewhere."""
RECEIVED = 2e-6
"""Of a network's norm, float32. Measured 7e-7."""
AFTER = 1e-5
"""Of parameters. Measured 3e-6 (qsm/iql, one entry), 7e-7 elsewhere."""
SAMPLES, SAMPLES_AFTER = 2e-6, 6e-5
"""Of the largest action, if that is beyond 1. Measured 1e-6 (dac, unclipped), 6e-7 elsewhere; the
sampler that clips only after its steps multiplies rounding by up to 12 in each: 6e-6."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Path:
    path = GOLDEN / request.param
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    return path


def arrays(case: Path, name: str) -> dict[str, Array]:
    with np.load(case / f"{name}.npz") as file:
        return dict(file)


def training(case: Path, dtype: str) -> tuple[Checkpoint, Batch, list[dict[str, Array]]]:
    """The checkpoint, its batch, and the random numbers of five updates."""
    ck = qgf_ref.load(case / "params_0.pkl", dtype=dtype)
    z = arrays(case, "train_step_float32")
    names = [draw.name for draw in ck.agent.require_recipe().draws]
    first = {name: z[name] for name in names}
    more = [{name: z[f"more/{name}"][i] for name in names} for i in range(4)]

    def cast(a: Array) -> Array:
        return a.astype(dtype) if a.dtype.kind == "f" else a

    every = [{name: cast(a) for name, a in drawn.items()} for drawn in (first, *more)]
    return ck, golden_batch(z, ck, dtype), every


def parts_of(values: dict[str, float]) -> dict[str, float]:
    """Losses as the golden files group them: actor, critic, value."""
    grouped: dict[str, float] = {}
    for name, value in values.items():
        group = name if name in ("critic", "value") else "actor"
        grouped[group] = grouped.get(group, 0.0) + float(value)
    return grouped


def official_losses(case: Path) -> dict[str, float]:
    """What the official code logged, under the names of `parts_of`."""
    z = arrays(case, "train_step_float32")
    info = {k.removeprefix("official/info/"): float(v) for k, v in z.items() if "/info/" in k}
    own = qgf_ref.load(case / "params_0.pkl").agent.stated
    actor = {
        "edp": lambda: info["q_loss"] + own["bc_weight"] * info["bc_loss"],
        "fql": lambda: info["actor/actor_loss"],
        "qam": lambda: info["actor/adj_loss"] + info["actor/flow_loss"],
        "dac": lambda: info["actor/actor_loss"] + own["alpha"] * info["actor/bc_loss"],
        "qsm": lambda: info["actor/actor_loss"] + own["alpha"] * info["actor/bc_loss"],
    }[case.parent.name]()
    found = {"actor": actor}
    for name in ("critic", "value"):
        for key in (f"{name}_loss", f"{name}/{name}_loss"):
            found |= {name: info[key]} if key in info else {}
    return found


def golden_params(z: dict[str, Array], prefix: str, part: str) -> MLPParams:
    return params_from_flax(nested(z, f"{prefix}/{part}/"), part)


def test_losses_and_gradients_in_float64(case: Path) -> None:
    ck, batch, (drawn, *_) = training(case, "float64")
    expected = arrays(case, "train_step_float64")
    recipe = ck.agent.require_recipe()
    result = losses(recipe, ck.networks(), batch, drawn, ck.hyperparameters())
    for name, value in parts_of(result.values).items():
        assert abs(value / expected[f"loss/{name}"] - 1) < LOSS_64, name
    assert set(result.gradients) == set(recipe.trained)
    for part, bar in result.gradients.items():
        theirs = golden_params(expected, "grad", part)
        for a, e in zip(bar.arrays(), theirs.arrays(), strict=True):
            assert np.linalg.norm(a - e) <= GRADIENT_64 * np.linalg.norm(e), part


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_five_updates(case: Path, dtype: str) -> None:
    ck, batch, every = training(case, dtype)
    z, recipe = arrays(case, "train_step_float32"), ck.agent.require_recipe()
    state = TrainState.create(recipe, ck.networks(embedding="float32"))
    for n, drawn in enumerate(every, 1):
        state, result = update(recipe, state, batch, drawn, ck.hyperparameters())
        if n == 1:
            found, expected = parts_of(result.values), official_losses(case)
            assert set(found) == set(expected)
            for name, value in found.items():
                assert abs(value / expected[name] - 1) < LOSS_32, name
        if n in (1, 5):
            for part in ck.agent.part_names:
                theirs = golden_params(z, f"official/after{n}", part)
                ours = state.networks[part].params
                for a, e in zip(ours.arrays(), theirs.arrays(), strict=True):
                    assert a.dtype == dtype and np.abs(a - e).max() < AFTER, (part, n)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_samples(case: Path, backend: str) -> None:
    ck = qgf_ref.load(case / "params_0.pkl", dtype="float32")
    z = arrays(case, "samples_float32")
    if "z" in z:  # our agent draws its own
        own: Any = ck.agent.settings
        net = ck.network("actor", ck.network_settings(kernels=backend_named(backend).kernels()))
        samplers = {
            "actions": own.clips,
            "unclipped/actions": OFFICIAL,
            "clip_before/actions": CORRECTED,
            "clip_after/actions": SamplerClips(after=True),
        }
        for name, clips in samplers.items():
            gap = np.abs(ddpm(net, z["obs"], z["noise"], z["z"], clips) - z[name])
            assert gap.dtype == np.float32
            gap /= max(1, np.abs(z[name]).max())
            assert gap.max() < (SAMPLES_AFTER if clips.after else SAMPLES), name
            assert np.quantile(gap, 0.9) < SAMPLES, name
        return
    noise = z["noise"].reshape(-1, ck.flat_action_dim)
    chunks = ck.agent.act(ck, z["obs"], noise, Acting(backend=backend))
    assert np.abs(chunks - z["actions"]).max() < SAMPLES


def test_what_adam_receives(case: Path) -> None:
    """After the clip by norm, which a first step of Adam hides: the first moment over 0.1."""
    ck, batch, (drawn, *_) = training(case, "float32")
    z, recipe = arrays(case, "train_step_float32"), ck.agent.require_recipe()
    state = TrainState.create(recipe, ck.networks(embedding="float32"))
    after, _ = update(recipe, state, batch, drawn, ck.hyperparameters())
    for part in recipe.trained:
        theirs = golden_params(z, "official/clipped_grad", part)
        pairs = zip(after.moments[part].mean.arrays(), theirs.arrays(), strict=True)
        gaps = [(np.linalg.norm(10 * a - e), np.linalg.norm(e)) for a, e in pairs]
        gap, size = (np.linalg.norm(of) for of in zip(*gaps, strict=True))
        assert gap < RECEIVED * size, part


def test_best_of_four(case: Path) -> None:
    z = arrays(case, "samples_float32")
    if "best_of_4/noise" not in z:
        return  # the official code ignores what it is asked for
    ck = qgf_ref.load(case / "params_0.pkl", dtype="float32")
    noise = z["best_of_4/noise"].reshape(-1, ck.flat_action_dim)
    chunks = ck.agent.act(ck, z["obs"], noise, Acting(best_of=4))
    assert np.abs(chunks - z["best_of_4/actions"]).max() < SAMPLES


@pytest.mark.parametrize(("inv_temp", "flow"), [(0.0, "slow_flow"), (1.0, "fast_flow")])
@pytest.mark.parametrize("variant", ["iql", "ddpg"])
def test_both_flows_of_qam(variant: str, inv_temp: float, flow: str) -> None:
    path = GOLDEN / "qam" / variant
    if not path.is_dir():
        pytest.skip(f"needs {path}, which a bare clone does not have")
    ck, z = qgf_ref.load(path / "params_0.pkl", dtype="float32"), arrays(path, "samples_float32")
    ck = replace(ck, agent=ck.agent.having({"inv_temp": inv_temp}))
    chunks = ck.agent.act(ck, z["obs"], z["noise"][:, 0], Acting())
    assert np.abs(chunks - z[f"{flow}/actions"]).max() < SAMPLES


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_read_converted_and_read_again(case: Path, suffix: str, tmp_path: Path) -> None:
    """The official pickle, under our names, with its own settings."""
    ck = qgf_ref.load(case / "params_0.pkl", dtype="float32")
    path = tmp_path / f"copy{suffix}"
    assert main(["convert", str(case / "params_0.pkl"), str(path)]) == 0
    copy = qgf_ref.load(path, dtype="float32")
    assert copy.agent.name == case.parent.name and copy.agent.stated == ck.agent.stated
    assert copy.options == ck.options and copy.agent.part_names == ck.agent.part_names
    pairs: Any = ((copy.params[name], ck.params[name]) for name in ck.params)
    for ours, theirs in pairs:
        for a, b in zip(ours.arrays(), theirs.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)
