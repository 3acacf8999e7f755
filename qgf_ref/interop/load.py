"""`load`: a checkpoint of any supported kind from a path."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from qgf_ref.arrays import Array
from qgf_ref.errors import InputError
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
    reader = load_official if path.suffix in (".pkl", ".pickle") else load_native
    return reader(path, options).astype(dtype)


def embedded_observations() -> Array:
    """Real observations (256, 28) of cube-single-play-v0's validation episodes, float32."""
    return read_npz(_ASSETS / f"{EMBEDDED}-observations.npz", ("obs",))["obs"]


def _resolve(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"no checkpoint at {path}")
    if not path.is_dir():
        return path
    if (path / MODEL).exists():
        return path / MODEL
    found = sorted(path.glob("params_*.pkl")) + sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        listing = ", ".join(p.name for p in found) or "none"
        raise InputError(
            f"{path} must hold {MODEL}, or just one params_*.pkl or *.safetensors; found: {listing}"
        )
    return found[0]
