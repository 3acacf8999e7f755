"""qgf-ref convert."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.options import SOME_NETWORKS, Options, option_names
from qgf_ref.cli.arguments import output_file
from qgf_ref.cli.checkpoint_options import add_option_arguments, path_or_name, settings_of
from qgf_ref.errors import InputError
from qgf_ref.interop.changed import with_settings
from qgf_ref.interop.export import export, tensors_in
from qgf_ref.interop.format import Format, Written
from qgf_ref.interop.formats import recognised, suffixes, to_write, written_formats
from qgf_ref.interop.load import load_as_stored
from qgf_ref.interop.mapping.mapping import NameMapping
from qgf_ref.interop.native import MODEL

_NAME = 36
_WIDE = 100
EXAMPLE = """examples:
  qgf-ref convert agent.pt agent.safetensors --activation gelu --denoise-steps 10 …
  qgf-ref convert params_500000.pkl policy.pt      for torch.load(…, weights_only=True)
  qgf-ref convert agent.npz agent.msgpack --rules rules.json

Names: the networks are found by the words policy or actor, critic or q, target_critic (target_q, …)
and value or v in the names; layers by order and shapes; weight is (out, in), kernel (in, out).
Where that leaves two readings, or tensors over, a rule file says more: {"ignore": ["encoder.*"]},
{"take": ["ema_model.*"]}, {"rename": {"0": "policy", "1": "critic"}}, {"gaps": "as ours"} (modules
without parameters for which the numbering leaves room do nothing); or all of it:

  {"rules": [
     {"from": "actor.net.{i*3}.weight",   "to": "policy.layers.{i}.kernel", "transpose": true},
     {"from": "actor.net.{i*3}.bias",     "to": "policy.layers.{i}.bias"},
     {"from": "actor.net.{i*3+1}.weight", "to": "policy.layers.{i}.scale"},
     {"from": "q{e+1}.fc.{i}.weight",     "to": "critic.layers.{i}.kernel",
      "member": "{e}", "transpose": true}],
   "ignore": ["optimizer.*"]}

{i*3+1} stands for a number that is 3 i + 1. Networks: policy, critic, target_critic, value; parts:
kernel, bias, scale, offset (LayerNorm's).

A written .pt is a flat state dict: policy.layers.0.weight, .bias, policy.norms.0.weight, .bias,
critic.0.layers.0.weight (member 0), …; a .msgpack has the official trees, policy/MLP_0/Dense_0/…
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    forms = written_formats()
    parser = commands.add_parser(
        "convert",
        help="weights of PyTorch, flax or NumPy files to our format and back, bit for bit",
        description="Convert a checkpoint between our format and those of other frameworks, none "
        "of which need be installed; nothing in a file is executed. Exit code: 0 when done, 2 on "
        "bad input.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=path_or_name, metavar="SRC", help=f"{', '.join(suffixes())}")
    parser.add_argument(
        "destination",
        type=Path,
        metavar="DST",
        help=f"a directory, {', '.join(s for f in forms.values() for s in f.suffixes)}",
    )
    parser.add_argument("--to", choices=sorted(forms), help="default: by the suffix of DST")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the model in a directory DST"
    )
    add_option_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, write, and show which name became which."""
    form = to_write(args.destination, args.to)
    options = {name: getattr(args, name) for name in option_names()}
    checkpoint, mapping = load_as_stored(args.source, options, args.rules, args.target_critic_from)
    checkpoint = with_settings(checkpoint, settings_of(args))
    if args.destination.suffix or form.name != "qgf":
        inputs = [args.source, checkpoint.source, *([args.rules] if args.rules else [])]
        output_file(args.destination, inputs)
    elif args.destination.exists() and Path(args.source).resolve().is_relative_to(
        args.destination.resolve()
    ):
        raise InputError(f"cannot write {args.destination}: it holds the source {args.source}")
    elif (args.destination / MODEL).exists() and not args.overwrite:
        raise InputError(
            f"{args.destination} holds a run's {MODEL}: give --overwrite to replace it, or another "
            "directory"
        )
    written = export(checkpoint, args.destination, form.name)
    lines, sources = table(checkpoint, mapping, written), names_of(checkpoint, mapping)
    args.result = {
        "file": args.destination,
        "dtype": checkpoint.dtype,
        "tensors": [
            {"from": sources[w.target], "to": w.name, "shape": list(w.array.shape)} for w in written
        ],
        "notes": list(mapping.notes) if mapping else [],
    }
    for line in lines:
        print(line)
    for note in mapping.notes if mapping else ():
        print(f"note: {note}")
    print(f"wrote {args.destination}: {len(written)} tensors of {checkpoint.dtype}")
    for name in checkpoint.auxiliary.present():
        print(f"note: its auxiliary network {name} is not in the file: load {args.source} for it")
    for line in advice(args.destination, form, mapping is not None, checkpoint.options):
        print(line)
    return 0


def table(
    checkpoint: Checkpoint, mapping: NameMapping | None, written: Sequence[Written]
) -> list[str]:
    """Names in the source, names in the file written, shapes there; at most 100 columns."""
    sources = names_of(checkpoint, mapping)
    lines = [f"{'from':{_NAME}}  {'to':{_NAME}}  shape"]
    for tensor in written:
        shape = " × ".join(map(str, tensor.array.shape))
        source, name = _short(sources[tensor.target]), _short(tensor.name)
        lines.append(f"{source:{_NAME}}  {name:{_NAME}}  {shape}"[:_WIDE])
    return lines


def names_of(checkpoint: Checkpoint, mapping: NameMapping | None) -> dict[str, str]:
    """Our names of the parameters, and those that the source has for them."""
    if mapping is not None:
        return mapping.sources()
    form = recognised(Path(checkpoint.source))
    return {w.target: w.name for w in tensors_in(checkpoint, form)}


def _short(text: str) -> str:
    """The text with its middle left out, where the parts of a name differ least."""
    text = text if text.isprintable() else ascii(text)
    keep = _NAME // 2
    return text if len(text) <= _NAME else f"{text[: keep - 1]}…{text[-keep:]}"


def advice(destination: Path, form: Format, mapped: bool, options: Options) -> list[str]:
    """What to do with the file, and what its names cannot tell."""
    eps = f"{options.mlp.layer_norm_eps:g}".replace("e-0", "e-")
    lines = form.next_step.format(path=str(destination), eps=eps).splitlines()
    own = {name: getattr(options, name) for name in ("policy_inputs", *SOME_NETWORKS)}
    if told := [f"{name} {value}" for name, value in own.items() if value is not None]:
        lines.append(f"its networks are not the official ones: {'; '.join(told)}")
    elif mapped and len(lines) == 1:
        lines += [
            "Weights do not tell all. Here inputs are [observation, action, time embedding],",
            f"LayerNorm (eps {eps}) comes before the activation; gelu is the tanh approximation",
            "(PyTorch's: gelu_erf, --layer-norm-eps 1e-5). Others: --policy-inputs,",
            "--norm-after-activation, --residual. Compare some outputs with the original.",
        ]
    return lines
