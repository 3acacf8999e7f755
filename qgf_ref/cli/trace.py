"""qgf-ref trace."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from qgf_ref.arrays import REAL_DTYPES
from qgf_ref.backends.engine import Engine, backend_names
from qgf_ref.cli.arguments import add_checkpoint_arguments, load_checkpoint, output_file
from qgf_ref.files import read_npz, write_npz
from qgf_ref.guidance.registry import estimator
from qgf_ref.interop.trace_file import VERSION
from qgf_ref.provenance import provenance
from qgf_ref.sampling import trace

EXAMPLE = """example:
  qgf-ref trace --checkpoint exp/params_500000.pkl --input in.npz --estimator qgf --weight 0.1 \\
      --out out.npz
in.npz holds obs (B, O) and noise (B, D). out.npz holds, with a leading axis over the T steps,
a, v, a1_hat, q, g; and action, obs, noise, and metadata (JSON).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "trace",
        help="write every intermediate quantity of a sampling run",
        description="Sample with given noise and write every quantity of every denoising step, to "
        "be compared with another implementation's.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser)
    parser.add_argument("--input", type=Path, required=True, metavar="IN.npz")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz")
    parser.add_argument("--estimator", default="qgf", metavar="E", help="default: qgf")
    parser.add_argument("--weight", type=float, required=True, metavar="W")
    parser.add_argument("--dtype", choices=REAL_DTYPES, default="float64")
    parser.add_argument(
        "--time-embedding",
        choices=("exact", "float32"),
        default="exact",
        help="float32: rounded as the official float32 code does, whatever --dtype is",
    )
    parser.add_argument(
        "--backend", default="numpy", metavar="B", help=f"{', '.join(backend_names())}"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of a compiled backend")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trace and write."""
    chosen, engine = estimator(args.estimator), Engine.of(args.backend, args.threads)
    given = read_npz(args.input, ("obs", "noise"))
    out = output_file(args.out, (args.input, args.checkpoint))
    checkpoint = load_checkpoint(args, args.dtype)
    flow = checkpoint.guided_flow(embedding=args.time_embedding)
    result = trace(
        flow,
        given["obs"],
        estimator=chosen,
        weight=args.weight,
        noise=given["noise"],
        backend=engine,
    )
    metadata = {
        "version": VERSION,
        "estimator": args.estimator,
        "weight": args.weight,
        "denoise_steps": flow.denoise_steps,
        "dtype": args.dtype,
        "time_embedding": args.time_embedding,
        **({} if args.backend == "numpy" else {"backend": args.backend}),
        "checkpoint": checkpoint.source,
        **provenance(),
    }
    write_npz(out, {**result.arrays(), "metadata": np.array(json.dumps(metadata))})
    shape_of = {name: list(array.shape) for name, array in result.arrays().items()}
    args.result = {"file": out, "shapes": shape_of, "metadata": metadata}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in result.arrays().items())
    print(f"wrote {out}: {shapes}")
    return 0
