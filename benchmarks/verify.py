"""How exact is it? Every number of the page's verification table, measured.

    python benchmarks/verify.py

writes benchmarks/results/verification.json and .md: the golden files (needs ../shared, and says
so without it), the closed form's order of convergence, and rounding against 50 digits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import mpmath_oracle  # noqa: E402
from benchmarks.golden import GOLDEN, golden_batch, nested, official_times  # noqa: E402
from qgf_ref import (  # noqa: E402
    BumpCritic,
    Checkpoint,
    DistanceCritic,
    GaussianMixture,
    GradientSteps,
    GuidedFlow,
    MixtureFlow,
    Options,
    QuadraticCritic,
    denoising_step,
    estimator,
    load,
    sample,
    trace,
)
from qgf_ref.agents.iql import RECIPE  # noqa: E402
from qgf_ref.agents.step import Losses, TrainState, losses, update  # noqa: E402
from qgf_ref.files import write_atomically, write_json  # noqa: E402
from qgf_ref.flow.quadrature import TiltedLaw  # noqa: E402
from qgf_ref.interop.official import params_from_flax  # noqa: E402
from qgf_ref.interop.trace_file import STEPWISE  # noqa: E402
from qgf_ref.nets.initialisers import init_value, init_velocity  # noqa: E402
from qgf_ref.provenance import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
METHODS = ("bc", "ood", "qgf", "qgf_jacobian", "qgf_chain", "bptt")


def golden_traces(case: str) -> float:
    """Largest absolute error over all methods, weights, steps and quantities, float64."""
    official, z = (
        np.load(GOLDEN / case / f"{n}.npz") for n in ("official_float32", "trace_float64")
    )
    flow = load(GOLDEN / case / "params_0.pkl").flow
    worst = 0.0
    for weight in official["weights"]:
        for method in METHODS:
            run = trace(
                flow, official["obs"], estimator=method, weight=float(weight),
                noise=official["noise"],
            )  # fmt: skip
            for name in (*STEPWISE, "action"):
                error = abs(getattr(run, name) - z[f"{method}/w{weight:g}/{name}"]).max()
                worst = max(worst, float(error))
    for key, sign in (("grad_step/0.05x3", False), ("grad_step/0.05x3/sign", True)):
        action = sample(
            flow, official["obs"], noise=official["noise"], estimator="none",
            gradient_steps=GradientSteps(3, 0.05, sign),
        )  # fmt: skip
        worst = max(worst, float(abs(action - z[key]).max()))
    return worst


def official_actions(
    case: str, embedding: Any, dtype: str = "float32", backend: Any = "numpy"
) -> float:
    """Largest absolute error against the official float32 actions of every method and weight."""
    official = np.load(GOLDEN / case / "official_float32.npz")
    flow = load(GOLDEN / case / "params_0.pkl", dtype=dtype).guided_flow(embedding=embedding)
    worst = 0.0
    for key in official.files:
        if not key.startswith("official/"):
            continue
        _, method, setting = key.split("/")
        how: dict[str, Any] = {"noise": official["noise"], "estimator": method, "backend": backend}
        if method == "grad_step":
            how |= {"estimator": "none", "gradient_steps": GradientSteps(3, 0.05)}
        else:
            how["weight"] = float(np.float32(setting.removeprefix("w")))
        if method == "qgf_bfn4":
            how |= {"estimator": "qgf", "noise": official["bfn_noise"], "best_of": 4}
        worst = max(worst, float(abs(sample(flow, official["obs"], **how) - official[key]).max()))
    return worst


def training_steps(case: str, dtype: str = "float32") -> dict[str, float]:
    """Against the official training steps: relative error of the losses, absolute error of the
    parameters after 1 and 5 updates, and the loss error with the times exactly as stored.
    """
    with np.load(GOLDEN / case / "train_step_float32.npz") as file:
        z = dict(file)
    ck = load(GOLDEN / case / "params_0.pkl", dtype=dtype)
    hyper, batch = ck.hyperparameters(), golden_batch(z, ck, dtype)
    state = TrainState.create(RECIPE, ck.networks(embedding="float32"))
    measured: dict[str, float] = {}

    def loss_error(result: Losses) -> float:
        official = {"policy": "bc", "critic": "critic", "value": "value"}
        return max(
            abs(float(result.values[name] / z[f"official/info/{key}_loss"]) - 1)
            for name, key in official.items()
        )

    drawn = {name: z[name].astype(dtype) for name in ("x0", "t")}
    stored = losses(RECIPE, state.networks, batch, drawn, hyper)
    measured["loss_with_stored_times"] = loss_error(stored)
    noise, times = [z["x0"], *z["more/x0"]], [z["t"], *z["more/t"]]
    for n, (x0, t) in enumerate(zip(noise, times, strict=True), start=1):
        t = official_times(t, ck.options.denoise_steps, dtype)
        drawn = {"x0": x0.astype(dtype), "t": t}
        state, result = update(RECIPE, state, batch, drawn, hyper)
        if n == 1:
            measured["loss"] = loss_error(result)
        if n in (1, 5):
            measured[f"parameters_{n}"] = max(
                float(abs(mine - theirs).max())
                for name in ("policy", "critic", "target_critic", "value")
                for mine, theirs in zip(
                    getattr(state.networks, name).params.arrays(),
                    params_from_flax(nested(z, f"official/after{n}/{name}/"), name).arrays(),
                    strict=True,
                )
            )
    return measured


def guidance_by_quadrature() -> float:
    """Largest difference between the closed-form and the quadrature guidance of the same Q."""
    mixture = GaussianMixture.isotropic([0.4, 0.3, 0.3], [[-2.0], [0.0], [1.0]], 0.15)
    flow, x = MixtureFlow(mixture), np.linspace(-3, 3, 61)[:, None]
    quadratic = QuadraticCritic(np.array([1.0]), np.eye(1))
    general = BumpCritic(quadratic, np.zeros(1), 0.0, 1.0)
    return max(
        float(abs(a - flow.guided_velocity(x, t, quadratic, w)).max())
        for w in (0.1, 0.5, 2.0, 8.0)
        for t in (0.0, 0.1, 0.5, 0.9, 0.99)
        for a in [flow.guided_velocity(x, t, general, w)]
    )


def convergence(name: str, critic: Any, weight: float) -> dict[str, Any]:
    """Mean error of the sampler's quantiles against the exact law, over T, and its slope."""
    mixture = GaussianMixture.isotropic(np.array([0.6, 0.4]), np.array([[-0.6], [0.7]]), 0.5)
    p = np.linspace(0.01, 0.99, 99)
    law = TiltedLaw.of(mixture.log_density, critic, weight if name == "oracle" else 0.0, -6, 6)
    steps = [10, 20, 50, 100, 200, 400, 800]
    errors = []
    for T in steps:
        flow = GuidedFlow(MixtureFlow(mixture), critic, T, action_bound=None)
        noise = norm.ppf(p)[:, None]
        a = sample(flow, np.zeros((len(p), 0)), noise=noise, estimator=name, weight=weight)
        errors.append(float(abs(a[:, 0] - law.quantile(p)).mean()))
    slope = float(np.polyfit(np.log(steps[-4:]), np.log(errors[-4:]), 1)[0])
    return {"steps": steps, "errors": errors, "slope": slope}


def tiny_checkpoint(seed: int) -> Checkpoint:
    """3 hidden layers of 8, with float32-exact parameters that are not at their initial values."""
    rng = np.random.default_rng(seed)
    options = Options("gelu", "min", 4, 1, True, 0.99, 0.9)

    def perturbed(a: Any) -> Any:
        return (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32)

    hidden = (8, 8, 8)
    critic = init_value(rng, 5, hidden, ensemble=2).map(perturbed)
    return Checkpoint(
        options,
        init_velocity(rng, 3, 2, hidden).map(perturbed),
        critic,
        critic,
        init_value(rng, 3, hidden),
    )


def rounding(rows: int = 6) -> dict[str, dict[str, dict[str, float]]]:
    """Error of float64 and float32 against 50 digits: ulps (median, max) and norm-relative."""
    collected: dict[str, dict[str, list[Any]]] = {}
    for seed in tqdm(range(rows), desc="50 digits", unit="row"):
        single = tiny_checkpoint(seed)
        rng = np.random.default_rng(seed + 100)
        obs, action = (rng.standard_normal((1, n)).astype(np.float32) for n in (3, 2))
        k, T = 1, single.options.denoise_steps
        exact = mpmath_oracle.quantities(single, obs[0], action[0], k, T)
        for dtype in ("float64", "float32"):
            flow = single.astype(dtype).flow
            step = denoising_step(flow, obs.astype(dtype), action.astype(dtype), k)
            for name, truth in exact.items():
                if name == "v":
                    actual = step.velocity
                elif name == "q":
                    q = estimator("qgf")(flow, step).q
                    assert q is not None
                    actual = q.min(axis=0)
                else:
                    actual = estimator(name)(flow, step).gradient
                cell = collected.setdefault(dtype, {}).setdefault(name, [])
                cell.append(
                    (mpmath_oracle.ulps(actual, truth), mpmath_oracle.relative(actual, truth))
                )
    return {
        dtype: {
            name: {
                "median_ulps": float(np.median(np.concatenate([u for u, _ in cell]))),
                "max_ulps": float(np.concatenate([u for u, _ in cell]).max()),
                "max_relative": max(r for _, r in cell),
            }
            for name, cell in by_name.items()
        }
        for dtype, by_name in collected.items()
    }


def markdown(results: dict[str, Any]) -> str:
    """The page's tables."""
    lines = ["| against | quantity | error |", "|---|---|---|"]
    for case, error in results["golden_traces"].items():
        lines.append(f"| golden `{case}`, float64 | all six methods, every step | {error:.1e} |")
    for case, errors in results["official_actions"].items():
        lines.append(
            f"| official float32 actions, `{case}` | float32 embedding / exact embedding | "
            f"{errors['float32']:.1e} / {errors['exact']:.1e} |"
        )
    for case, m in results["training_steps"].items():
        lines.append(
            f"| official training steps, `{case}` | losses (relative), parameters after 1 / 5 "
            f"updates | {m['loss']:.1e}, {m['parameters_1']:.1e} / {m['parameters_5']:.1e} |"
        )
    lines.append(
        "| closed form, exact guidance | by formula against quadrature | "
        f"{results['guidance_by_quadrature']:.1e} |"
    )
    for name, fit in results["convergence"].items():
        lines.append(
            f"| closed form, {name} | error at T = 10 / 100 / 800, slope | "
            f"{fit['errors'][0]:.1e} / {fit['errors'][3]:.1e} / {fit['errors'][-1]:.1e}, "
            f"T^{fit['slope']:.2f} |"
        )
    lines += ["", "| quantity | float64: ulps median (max), relative | float32 |", "|---|---|---|"]
    for name in results["rounding"]["float64"]:
        cells = [
            f"{c['median_ulps']:.1f} ({c['max_ulps']:.0f}), {c['max_relative']:.0e}"
            for c in (results["rounding"][d][name] for d in ("float64", "float32"))
        ]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are written")
    place = parser.parse_args().results
    origin = provenance()
    results: dict[str, Any] = {"golden_traces": {}, "official_actions": {}, "training_steps": {}}
    if GOLDEN.is_dir():
        for case in ("tiny", "chunked", "relu_mean"):
            results["golden_traces"][case] = golden_traces(case)
            results["training_steps"][case] = training_steps(case)
        for case in ("tiny", "chunked", "relu_mean", "pinned_jax"):
            results["official_actions"][case] = {
                e: official_actions(case, e) for e in ("float32", "exact")
            }
    else:
        print(f"no {GOLDEN}: the golden files are left out", file=sys.stderr)
    results["guidance_by_quadrature"] = guidance_by_quadrature()
    quadratic = QuadraticCritic(np.array([1.0]), np.eye(1))
    results["convergence"] = {
        "BC to the mixture": convergence("none", quadratic, 0.0),
        "oracle, quadratic Q": convergence("oracle", quadratic, 1.5),
        "oracle, Q = −abs(a − 0.4)": convergence("oracle", DistanceCritic(0.4), 1.5),
    }
    results["rounding"] = rounding()
    place.mkdir(exist_ok=True)
    write_json(place / "verification.json", {**results, **origin})
    table = markdown(results)
    write_atomically(place / "verification.md", table.encode())
    print(table)


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
