"""qgf-ref bench."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from qgf_ref.backends.engine import backend_names
from qgf_ref.cli.arguments import (
    add_out,
    natural,
    next_command,
    results_directory,
)
from qgf_ref.cli.checkpoint_options import (
    add_option_arguments,
    flag_of,
    given_options,
    path_or_name,
)
from qgf_ref.errors import InputError

FLOW_BATCHES = (1, 8)
"""Of a flow, whose networks may take seconds a call."""
EXAMPLE = """examples:
  qgf-ref bench --smoke                             half a minute, to see what it prints
  qgf-ref bench --network 4x512 --batch 1 256 --estimator qgf bptt
  qgf-ref bench --checkpoint exp/params_500000.pkl --peer my_port:sampler
  qgf-ref bench --flow my_policy:build --peer my_policy:sampler
  qgf-ref bench --batch 1 --against qgf_bench/bench.json --out now

A peer is a function of yours,
  def sampler(checkpoint, *, estimator, weight, denoise_steps):
      ...
      return lambda obs, noise: actions             (B, O), (B, D) -> (B, D), finished numbers
and raises NotImplementedError for what it lacks. With --flow it is given the flow.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bench",
        help="time the sampler, and yours, beside what this machine can do",
        description="Throughput and latency of the sampler: our backends and your own samplers, "
        "each first compared with the float64 reference, then timed in turns together with a "
        "matrix product and a read of memory. The machine should be idle. Exit code: 0, 1 when "
        "slower than --against, 2 on bad input or when a sampler computes something else.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--network",
        nargs="+",
        metavar="LxW",
        help="fresh networks, hidden layers x width (default 3x256 4x512 4x1024)",
    )
    parser.add_argument(
        "--checkpoint", type=path_or_name, metavar="P", help="these networks instead"
    )
    parser.add_argument(
        "--flow",
        metavar="M:BUILD",
        help="package.module:function that returns a qgf_ref.GuidedFlow of networks of your own, "
        "or (flow, obs): these instead, in their dtype, by our loop in NumPy and by your peers",
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=int,
        metavar="B",
        help="rows (default 1 16 64 256 1024; with --flow 1 8)",
    )
    parser.add_argument("--estimator", nargs="+", metavar="E", help="default: qgf")
    parser.add_argument("--backend", nargs="+", metavar="B", help="of ours (default: numba numpy)")
    parser.add_argument(
        "--dtype", nargs="+", metavar="K", help="float32, float64 (default float32)"
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        metavar="N",
        help="cores and threads for all (default: QGF_REF_THREADS, or all cores)",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="another sampler; may be given several times",
    )
    parser.add_argument("--weight", type=float, default=0.1, help="guidance weight (default 0.1)")
    parser.add_argument("--rounds", type=int, help="turns of each, where time allows (default 11)")
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure peak memory, in processes of their own",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OLD.json",
        help="an earlier run's bench.json: ratio, interval and verdict for each cell of both",
    )
    parser.add_argument("--smoke", action="store_true", help="small and short: under 30 s")
    add_out(parser, "qgf_bench", "bench.json, bench.md and bench.png")
    parser.add_argument("--seed", type=natural, default=0)
    add_option_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from qgf_ref.bench.against import against, earlier
    from qgf_ref.bench.against import text as against_text
    from qgf_ref.bench.report import FILES, text, write_report
    from qgf_ref.bench.run import benchmark

    settings = settings_of(args)
    old = None if args.against is None else earlier(args.against)
    out = results_directory(args, "qgf_bench", FILES)
    content = benchmark(settings)
    slower = False
    if old is not None:
        content["against"] = against(content, old)
        slower = any(row["verdict"] == "slower" for row in content["against"])
    write_report(content, out)
    args.result = content
    print(text(content))
    if old is not None:
        print("\n" + against_text(content["against"], content, old))
    for message in content["refused"].values():
        print(f"qgf-ref bench: left out: {message}", file=sys.stderr)
    figure = "roofline: bench.png, " if (out / "bench.png").exists() else ""
    print(f"\nReport: {out / 'bench.md'} ({figure}numbers: bench.json)")
    if args.smoke:
        whole = next_command(args, "bench", smoke=False, out=None)
        print(f"Next: {whole}  (on an idle machine)")
    elif not args.peer:
        peer = next_command(args, "bench", peer=["my_module:my_sampler"], out=None)
        print(f"Next: {peer}  (yours in the same table)")
    else:
        other = next_command(args, "bench", estimator=["bptt"], out=None)
        print(f"Next: {other}  (another estimator)")
    return 2 if content["refused"] else int(slower)


def settings_of(args: argparse.Namespace) -> Any:
    """The `BenchSettings` that the arguments describe."""
    from qgf_ref.bench.settings import BenchSettings, Peer

    options = given_options(args)
    steps = options.pop("denoise_steps", None)
    if args.checkpoint is not None and args.network is not None:
        raise InputError("give --network or --checkpoint, not both")
    if args.checkpoint is None and options:
        flags = ", ".join(map(flag_of, options))
        raise InputError(f"{flags} describes a checkpoint: give --checkpoint P with it")
    of_flow = {} if args.flow is None else _flow_settings(args)
    names = [spec.rpartition(":")[2] for spec in args.peer]
    if len({*backend_names(), *names}) < len(backend_names()) + len(names):
        names = list(args.peer)
    chosen: dict[str, Any] = {
        "networks": args.network,
        "batches": args.batch,
        "estimators": args.estimator,
        "dtypes": args.dtype,
        "backends": args.backend,
        "threads": args.threads,
        "peers": [Peer(name, spec) for name, spec in zip(names, args.peer, strict=True)],
    }
    found: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) for name, value in chosen.items() if value
    }
    found |= {"rounds": args.rounds} if args.rounds is not None else {}
    if args.smoke:
        short = {"networks": ("3x256",), "batches": (1, 64), "rounds": 3, "cell": 2.0}
        found = {**short, **found}
    found = {**found, **of_flow}
    return BenchSettings(
        **found,
        checkpoint=args.checkpoint,
        options=options,
        denoise_steps=steps,
        weight=args.weight,
        memory=args.memory,
        seed=args.seed,
    )


def _flow_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What --flow decides. Raises InputError on what is not for it, and unless there is a flow."""
    from qgf_ref.bench.timed_flow import TimedFlow

    typed = {"--checkpoint": args.checkpoint, "--network": args.network, "--dtype": args.dtype,
             "--denoise-steps": args.denoise_steps, "--backend": args.backend}  # fmt: skip
    if wrong := [flag for flag, value in typed.items() if value is not None]:
        raise InputError(
            f"--flow brings its own networks, dtype and steps, and runs on numpy: leave out "
            f"{', '.join(wrong)}"
        )
    timed = TimedFlow.named(args.flow)
    chosen: dict[str, Any] = {
        "flow": args.flow, "dtypes": (timed.flow.field.dtype.name,), "backends": ("numpy",),
    }  # fmt: skip
    return chosen if args.batch else {**chosen, "batches": FLOW_BATCHES}
