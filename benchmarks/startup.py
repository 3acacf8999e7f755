"""How long until the first action: import, first sample, with and without machine code on the disk?

    python benchmarks/startup.py            (about five minutes, on an otherwise idle machine)
    python benchmarks/startup.py --smoke    (under a minute, noisy, writes nothing)

Every number is of a fresh process, all kinds in turn: `import qgf_ref`; `qgf-ref --help`; the first
and the second `sample(backend="numba")` of a loaded checkpoint at batch 1, with an empty kernel
cache (cold) and a filled one (warm), Numba's import included; and the same of JAX's jit where JAX
is installed, its import, build and first call. Every action is compared with the reference's, and
a cold process must say on stderr that it compiles, a warm one must not. Writes
benchmarks/results/startup.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results"
NETWORKS = ("3x256", "4x1024")
TARGETS = {"import": 0.4, "warm": 1.0, "cold": 20.0}
"""Seconds, of the first call for warm and cold. Source: issue 5."""
ESTIMATOR, WEIGHT = "qgf", 0.1
CLOSE = 1e-5
"""Largest difference of an action in float32 from the float64 reference: measured up to 4e-7."""
COMPILING = "compiling"
IMPORT = "import time; t = time.perf_counter(); import qgf_ref; print(time.perf_counter() - t)"
HELP = (sys.executable, "-m", "qgf_ref", "--help")

Times = dict[str, float]


def child_numba(path: str) -> Times:
    """In a fresh process: first and second sample of the checkpoint at `path`."""
    import qgf_ref

    flow = qgf_ref.load(path, dtype="float32").flow
    obs, noise = inputs(flow.field.obs_dim or 0, flow.field.action_dim)
    found: Times = {}
    for name in ("first", "second"):
        started = time.perf_counter()
        action = qgf_ref.sample(
            flow, obs, estimator=ESTIMATOR, weight=WEIGHT, noise=noise, backend="numba"
        )
        found[name] = time.perf_counter() - started
    return {**found, "error": error(path, action)}


def child_jax(path: str) -> Times:
    """In a fresh process: import JAX, build the peer, call it twice."""
    import qgf_ref

    checkpoint = qgf_ref.load(path, dtype="float32")
    obs, noise = inputs(checkpoint.obs_dim, checkpoint.flat_action_dim)
    started = time.perf_counter()
    from benchmarks.peers.speed_jax import sampler

    steps = checkpoint.options.denoise_steps
    run = sampler(checkpoint, estimator=ESTIMATOR, weight=WEIGHT, denoise_steps=steps)
    found = {"before": time.perf_counter() - started}
    for name in ("first", "second"):
        started = time.perf_counter()
        action = run(obs, noise)
        found[name] = time.perf_counter() - started
    found["first"] += found.pop("before")
    return {**found, "error": error(path, action)}


def inputs(obs_dim: int, action_dim: int) -> tuple[Any, Any]:
    """One row of observations and of noise, float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    obs, noise = rng.standard_normal((1, obs_dim)), rng.standard_normal((1, action_dim))
    return obs.astype(np.float32), noise.astype(np.float32)


def error(path: str, action: Any) -> float:
    """Largest difference from the float64 reference."""
    import qgf_ref

    flow = qgf_ref.load(path, dtype="float64").flow
    obs, noise = inputs(flow.field.obs_dim or 0, flow.field.action_dim)
    exact = qgf_ref.sample(
        flow, obs.astype(float), estimator=ESTIMATOR, weight=WEIGHT, noise=noise.astype(float)
    )
    return float(abs(action - exact).max())


def ask(kind: str, path: Path, cache: Path) -> Times:
    """Run a child in a fresh process. Raises SystemExit when it fails or says the wrong thing."""
    command = [sys.executable, __file__, "--child", "jax" if kind == "jax" else "numba", str(path)]
    done = run(command, {"QGF_REF_CACHE_DIR": str(cache)})
    said = COMPILING in done.stderr
    if kind != "jax" and said != (kind == "cold"):
        wanted = "say" if kind == "cold" else "not say"
        raise SystemExit(f"a {kind} start must {wanted} that it is compiling:\n{done.stderr}")
    found: Times = json.loads(done.stdout.splitlines()[-1])
    if not found["error"] < CLOSE:
        raise SystemExit(f"{kind} start: the action is off by {found['error']:.2g}")
    return found


def run(command: list[str] | tuple[str, ...], variables: dict[str, str]) -> Any:
    """A finished process, started in the checkout."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done


def one_round(place: Path, networks: tuple[str, ...], number: int) -> dict[str, Times]:
    """Every kind once."""
    found: dict[str, Times] = {
        "import": {"first": float(run([sys.executable, "-c", IMPORT], {}).stdout)}
    }
    started = time.perf_counter()
    run(HELP, {})
    found["help"] = {"first": time.perf_counter() - started}
    for network in networks:
        path = place / f"{network}.safetensors"
        cache = place / f"cache-{number}-{network}"
        for kind in ("cold", "warm", *(["jax"] if find_spec("jax") else [])):
            found[f"{kind} {network}"] = ask(kind, path, cache)
    return found


def measure(networks: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Every kind in `rounds` rounds: seconds of each round, median, extremes."""
    from tqdm import tqdm

    from qgf_ref.bench.settings import fresh_checkpoint, hidden_of
    from qgf_ref.interop.native import save_checkpoint

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for network in networks:
            checkpoint = fresh_checkpoint(hidden_of(network), 0)
            save_checkpoint(checkpoint, place / f"{network}.safetensors")
        for command in ([sys.executable, "-c", IMPORT], HELP):
            run(command, {})  # so that the files are in memory
        each = [
            one_round(place, networks, n) for n in tqdm(range(rounds), unit="round", disable=None)
        ]
    found: dict[str, Any] = {}
    for kind, times in each[0].items():
        found[kind] = {
            part: spread([r[kind][part] for r in each]) for part in times if part != "error"
        }
        if "error" in times:
            found[kind]["error"] = max(r[kind]["error"] for r in each)
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Median, extremes, and all of them."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "of_each_round": values,
    }


def table(content: dict[str, Any]) -> str:
    """The page's table: medians with extremes, and the targets."""
    from qgf_ref.tables import markdown_table

    rows = []
    for kind, times in content["results"].items():
        name, _, network = kind.partition(" ")
        target, reached = TARGETS.get(name), times["first"]["median"]
        verdict = "" if target is None else f"< {target:g} s: "
        if target is not None:
            verdict += "reached" if reached < target else f"**missed, {reached:.3g} s**"
        second = _shown(times["second"], 1e3, "ms") if "second" in times else ""
        rows.append([LABELS[name].format(network), _shown(times["first"], 1, "s"), second, verdict])
    table = markdown_table(("fresh process", "first", "second call", "target"), rows, rule="|---")
    note = f"Medians (least–most) of {content['rounds']} rounds of fresh processes. {NOTE}"
    return f"{table}\n\n{note}\n"


LABELS = {
    "import": "`import qgf_ref`",
    "help": "`qgf-ref --help`, as a whole",
    "cold": "{} sample, empty cache",
    "warm": "{} sample, filled cache",
    "jax": "{} JAX: import, build, jit",
}
NOTE = (
    'Sample: `backend="numba"`, qgf, batch 1, from the call of a loaded checkpoint, with Numba\'s '
    "import; with an empty cache, a line on stderr says that it is compiling (checked). JAX keeps "
    "no machine code on the disk by default."
)


def _shown(times: dict[str, Any], unit: float, name: str) -> str:
    low, middle, high = (f"{times[k] * unit:.3g}" for k in ("min", "median", "max"))
    return f"{middle} {name} ({low}–{high})"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one round of one small network")
    parser.add_argument("--rounds", type=int, help="default 5; smoke 1")
    parser.add_argument("--networks", nargs="+", metavar="LxW", help=f"default {NETWORKS}")
    parser.add_argument("--out", type=Path, help=f"directory (default {RESULTS}; smoke: none)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        kind, path = args.child
        print(json.dumps(child_jax(path) if kind == "jax" else child_numba(path)))
        return

    from qgf_ref.bench.run import origin
    from qgf_ref.files import write_atomically, write_json

    found = origin()
    rounds = args.rounds or (1 if args.smoke else 5)
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    networks = tuple(args.networks or (NETWORKS[:1] if args.smoke else NETWORKS))
    results = measure(networks, rounds)
    content = {
        "rounds": rounds, "targets": TARGETS, "load_average_before": load,
        "results": results, **found,
    }  # fmt: skip
    page = table(content)
    print(page)
    if not find_spec("jax"):
        print("JAX is not installed here: pip install 'qgf_ref[peers]' to compare with it")
    out = args.out or (None if args.smoke else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "startup.json", content)
        write_atomically(out / "startup.md", page.encode())
        print(f"wrote {out / 'startup.json'} and .md")


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
