"""`load`: a checkpoint of any supported kind from a path."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, listing
from qgf_ref.files import read_npz
from qgf_ref.interop.checkpoint import Checkpoint, option_names
from qgf_ref.interop.native import MODEL, load_native
from qgf_ref.interop.official import load_official

EMBEDDED = "cube-single-play"
"""Name of the checkpoint inside the package."""

_ASSETS = Path(str(files("qgf_ref") / "assets"))


def load(
    path: str | Path = EMBEDDED, *, dtype: DTypeLike = "float64", **options: Any
) -> Checkpoint:
    """The checkpoint at `path`, in `dtype` (float64 by default: the reference's precision).

    path     "cube-single-play" (inside the package); an official `params_N.pkl`, read without JAX
             and without trusting the pickle, with its `flags.json` beside it; a `.safetensors`
             file of ours; or a directory that holds one of them
    options  activation, q_aggregation, denoise_steps, horizon_length, action_chunking, discount,
             expectile: they override what is stored

    Raises InputError when the file is missing, refused, corrupt, or lacks an option.
    """
    unknown = set(options) - set(option_names())
    if unknown:
        raise InputError(
            f"unknown option {', '.join(sorted(unknown))}; the valid ones are: "
            f"{', '.join(option_names())}"
        )
    if str(path) == EMBEDDED:
        path = _ASSETS / f"{EMBEDDED}.safetensors"
    path = _resolve(Path(path))
    reader = load_official if _is_pickle(path) else load_native
    return reader(path, options).astype(dtype)


def embedded_observations() -> Array:
    """Real observations (256, 28) of cube-single-play-v0's validation episodes, float32."""
    return read_npz(_ASSETS / f"{EMBEDDED}-observations.npz", ("obs",))["obs"]


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() in (".pkl", ".pickle"):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    # PROTO and a protocol number; a safetensors file starts with the length of its header
    return start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def is_embedded(checkpoint: Checkpoint) -> bool:
    """Whether this is the checkpoint inside the package, whose observations fit it."""
    return Path(checkpoint.source) == _ASSETS / f"{EMBEDDED}.safetensors"


def _resolve(path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"no checkpoint at {path}: {error.strerror or error}") from error
    if not path.is_dir():
        return path
    if (path / MODEL).exists():
        return path / MODEL
    found = sorted(path.glob("params_*.pkl")) + sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = listing(p.name for p in found)
        raise InputError(
            f"{path} must hold {MODEL}, or just one params_*.pkl or *.safetensors; found: {names}"
        )
    return found[0]
