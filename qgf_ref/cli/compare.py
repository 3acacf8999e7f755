"""qgf-ref compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from qgf_ref.cli.arguments import add_checkpoint_arguments, load_checkpoint, results_directory
from qgf_ref.cli.flow_arguments import (
    add_flow_arguments,
    flow_of,
    require_flow_for_budget,
    settings_of,
)
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError
from qgf_ref.files import write_atomically, write_json, write_npz
from qgf_ref.interop.trace_file import PRECISIONS, read_trace
from qgf_ref.plotting import can_draw
from qgf_ref.provenance import provenance

FILES = ("compare.html", "compare.json", "compare.png", "compare.txt")
PROBE = "separating_input.npz"
EXAMPLE = """example:
  qgf-ref compare --checkpoint exp/params_500000.pkl --trace theirs.npz --estimator qgf \\
      --weight 0.1 --out compare
  qgf-ref compare --flow my_policy:build --trace theirs.npz --convention openpi
theirs.npz holds obs (B, O), noise (B, D) and action (B, D), and if you can, per step, a, v, a1_hat,
q, g with a leading axis T: the more it holds, the closer the answer. Of dac and qsm it must hold
z (T, B, D), too: the noise that your sampler added in its steps, unscaled.
Exit code: 0 agrees to rounding, 1 disagrees, 2 bad input. Ctrl-C ends a diagnosis with what is
known by then; 130.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "compare",
        help="compare another implementation's trace, and name the line that is wrong",
        description="Recompute another implementation's sampling run step by step, say what is the "
        "first quantity\nthat rounding does not explain, and simulate a bank of mistakes to find "
        "the ones that reproduce\nit.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser)
    add_flow_arguments(parser)
    parser.add_argument(
        "--convention",
        metavar="C",
        help="in which the trace was recorded (default: what it says, else the flow's adapter's)",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        help="in which its networks compute, if that is less than float32 (default: the trace's)",
    )
    parser.add_argument("--trace", type=Path, required=True, metavar="THEIRS.npz")
    parser.add_argument(
        "--estimator", metavar="E", help="what it means to be (default: the trace's)"
    )
    parser.add_argument("--weight", type=float, metavar="W", help="default: the trace's")
    parser.add_argument(
        "--gradient-steps",
        nargs=2,
        metavar=("L", "SIZE"),
        help="it means to be GradStep: L steps of SIZE after the flow (default: the trace's)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help=f"write {', '.join(FILES)} there, and {PROBE} where candidates remain (default: "
        "nothing is written)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    parser.set_defaults(run=run)


def _climb(given: list[str] | None) -> GradientSteps | None:
    if given is None:
        return None
    try:
        return GradientSteps(int(given[0]), float(given[1]))
    except ValueError:
        raise InputError(
            f"--gradient-steps takes a whole number and a size, got {' '.join(given)}"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Compare, print, write; 1 when rounding does not explain the difference."""
    from qgf_ref.crosscheck.compare import as_dict, compare
    from qgf_ref.crosscheck.sampler.report import heat_map, html, text

    require_flow_for_budget(args)
    theirs = read_trace(args.trace)
    flow = None if args.flow is None else flow_of(args)
    checkpoint = load_checkpoint(args) if flow is None else flow
    out = None if args.out is None else results_directory(args, "", (*FILES, PROBE))
    result = compare(
        checkpoint,
        theirs,
        estimator=args.estimator,
        weight=args.weight,
        denoise_steps=args.denoise_steps,
        progress=True,
        gradient_steps=_climb(args.gradient_steps),
        **settings_of(args, "convention", "budget", "precision"),
    )
    words, args.result = text(result), as_dict(result)
    if out is not None:
        write_json(out / "compare.json", {**args.result, **provenance()})
        write_atomically(out / "compare.txt", (words + "\n").encode())
        picture = heat_map(result) if can_draw() else None
        if picture is not None:
            write_atomically(out / "compare.png", picture)
        write_atomically(out / "compare.html", html(result, provenance(), picture))
    print(words)
    if out is not None:
        written = [str(out / name) for name in FILES if can_draw() or not name.endswith(".png")]
        print(f"\nwrote {', '.join(written)}")
        if result.separate is not None:
            probe = result.separate
            z = {} if probe.z is None else {"z": probe.z}
            write_npz(out / PROBE, {"obs": probe.obs, "noise": probe.noise, **z})
            weight = "" if probe.chained else f" with weight {probe.weight:g}"
            print(f"run your sampler on {out / PROBE}{weight} and compare again")
    if result.diagnosis.interrupted:
        raise KeyboardInterrupt
    return 0 if result.agrees else 1
