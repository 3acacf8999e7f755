"""qgf-ref trace."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.actor import ActorAgent
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import REAL_DTYPES, Array
from qgf_ref.backends.engine import Engine, backend_names
from qgf_ref.cli.arguments import add_checkpoint_arguments, load_checkpoint, output_file
from qgf_ref.cli.flow_arguments import add_flow_argument, flow_of
from qgf_ref.cli.output import listed
from qgf_ref.errors import InputError
from qgf_ref.files import read_npz, write_npz
from qgf_ref.flow.convention import CORE, convention, own_convention
from qgf_ref.guidance.base import GuidedFlow
from qgf_ref.guidance.registry import estimator
from qgf_ref.interop.trace_file import VERSION
from qgf_ref.ops.time_embedding import Precision
from qgf_ref.provenance import provenance
from qgf_ref.sampling import trace

EXAMPLE = """example:
  qgf-ref trace --checkpoint exp/params_500000.pkl --input in.npz --estimator qgf --weight 0.1 \\
      --out out.npz
  qgf-ref trace --flow my_policy:build --input in.npz --weight 0.1 --out out.npz
in.npz holds obs (B, O) and noise (B, D). out.npz holds, with a leading axis over the T steps,
a, v, a1_hat, q, g; and action, obs, noise, and metadata (JSON). Of an agent without a flow (dac,
qsm, fql), which takes no weight: a, v and a1_hat (what its network says, and the clean estimate),
and z (T, B, D), the noise of its steps, which in.npz may hold. With --flow, obs are the numbers
of rows (B, 1) of the observations that its adapter was given, if it was.
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
    add_flow_argument(parser)
    parser.add_argument(
        "--convention",
        metavar="C",
        help="in which v is written (default: that of the flow's adapter; of a checkpoint: qgf)",
    )
    parser.add_argument("--input", type=Path, required=True, metavar="IN.npz")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz")
    parser.add_argument(
        "--estimator",
        metavar="E",
        help="default: qgf; without a weight that with which the agent acts",
    )
    parser.add_argument(
        "--weight", type=float, metavar="W", help="of the guidance; an estimator needs it"
    )
    parser.add_argument(
        "--dtype", choices=REAL_DTYPES, help="default: float64, with --flow that of its networks"
    )
    parser.add_argument(
        "--time-embedding",
        choices=("exact", "float32"),
        help="float32: rounded as the official float32 code does, whatever --dtype is (default: "
        "exact, with --flow as its convention says)",
    )
    parser.add_argument(
        "--backend", default="numpy", metavar="B", help=f"{', '.join(backend_names())}, cupy:tf32"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of a compiled backend")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trace and write."""
    if args.estimator is not None:
        estimator(args.estimator)
    engine = Engine.of(args.backend, args.threads)
    given = read_npz(args.input, ("obs", "noise"))
    out = output_file(args.out, (args.input, args.checkpoint))
    checkpoint = None if args.flow is not None else load_checkpoint(args, args.dtype or "float64")
    if checkpoint is not None and isinstance(checkpoint.agent, ActorAgent):
        return _written(args, out, *_of_actor(args, checkpoint, checkpoint.agent, given, engine))
    flow, source, about = _subject(args, checkpoint)
    name = args.estimator or "qgf"
    if checkpoint is not None and args.estimator is None and args.weight is None:
        name = checkpoint.agent.usual
    chosen = estimator(name)
    if args.weight is None and chosen.name != "none":
        raise InputError(f"the estimator {name} needs a guidance weight: give --weight")
    result = trace(
        flow,
        given["obs"],
        estimator=chosen,
        weight=args.weight,
        noise=given["noise"],
        backend=engine,
    )
    told = own_convention(flow.field) if args.convention is None else convention(args.convention)
    metadata = {
        "version": VERSION,
        "estimator": name,
        "weight": args.weight or 0.0,
        "denoise_steps": flow.denoise_steps,
        **about,
        **({} if args.flow is None and told.name == CORE else {"convention": told.name}),
        **({} if args.backend == "numpy" else {"backend": args.backend}),
        "checkpoint": source,
        **provenance(),
    }
    return _written(args, out, told.trace_from_core(result.arrays()), metadata)


def _of_actor(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    agent: ActorAgent,
    given: dict[str, Array],
    engine: Engine,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The trace of an agent without a flow, and its metadata."""
    for flag in ("estimator", "weight", "convention", "time_embedding"):
        if getattr(args, flag) not in (None, "none"):
            raise InputError(
                f"--{flag.replace('_', '-')}: {checkpoint.source} is of the agent {agent.name}, "
                f"which acts without a flow ({agent.acts})"
            )
    arrays = agent.trace(checkpoint, given["obs"], given["noise"], given.get("z"), engine)
    metadata = {
        "version": VERSION,
        "estimator": "none",
        "weight": 0.0,
        "denoise_steps": checkpoint.options.denoise_steps,
        "agent": agent.name,
        "dtype": checkpoint.dtype,
        **({} if args.backend == "numpy" else {"backend": args.backend}),
        "checkpoint": checkpoint.source,
        **provenance(),
    }
    return arrays, metadata


def _written(
    args: argparse.Namespace, out: Path, arrays: dict[str, Array], metadata: dict[str, Any]
) -> int:
    """Write, and say so."""
    write_npz(out, {**arrays, "metadata": np.array(json.dumps(metadata))})
    shape_of = {name: list(array.shape) for name, array in arrays.items()}
    args.result = {"file": out, "shapes": shape_of, "metadata": metadata}
    shapes = [f"{name} {array.shape}" for name, array in arrays.items()]
    print(listed(f"wrote {out}:", shapes, ","))
    return 0


def _subject(
    args: argparse.Namespace, checkpoint: Checkpoint | None
) -> tuple[GuidedFlow, str, dict[str, Any]]:
    """The flow to sample from, its name, and what else the metadata say of it."""
    if checkpoint is not None:
        dtype = checkpoint.dtype
        embedding: Precision = args.time_embedding or "exact"
        flow = checkpoint.guided_flow(embedding=embedding)
        return flow, checkpoint.source, {"dtype": dtype, "time_embedding": embedding}
    flow = flow_of(args)
    own = flow.field.dtype.name
    for flag, typed in (("--dtype", args.dtype), ("--time-embedding", args.time_embedding)):
        if typed is not None:
            raise InputError(
                f"{flag} is of a checkpoint: the networks of {args.flow} compute in {own}, at the "
                "times of its convention"
            )
    return flow, args.flow, {"dtype": own}
