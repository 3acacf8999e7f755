"""The kernels' CUDA C++ sources, with the constants that they share with Python."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from qgf_ref.arrays import real_dtype
from qgf_ref.backends.cupy.layout import LAYER, NETWORK
from qgf_ref.backends.program.program import LAST_CHECKED, NOISE, WEIGHT, Kind, Op
from qgf_ref.backends.program.registers import COLUMNS, NAMES
from qgf_ref.ops.activations import ACTIVATIONS, GELU_CUBIC, QUICK_GELU, SQRT_2_OVER_PI
from qgf_ref.ops.dense import NO_NORM, NORM_AFTER, NORM_FIRST

FOLDER = Path(__file__).parent / "source"
FILES = ("common", "layers", "rows", "columns", "product", "learning", "glue", "persistent")
"""In the order in which they are compiled."""
ONE_LAUNCH = ("common", "layers", "glue", "persistent")
MANY_LAUNCHES = tuple(name for name in FILES if name != "persistent")
"""What is compiled together. The interpreter for few rows takes the compiler three times as long as
all other kernels, and who trains does not need it."""
SEVERAL = "several"
"""Stands for an activation where networks have more than one: kernels are told which."""
REALS = {"float32": "float", "float64": "double"}
OPTIONS = ("--std=c++17", "--fmad=true")
"""Of the compiler NVRTC, without the architecture."""


def constants() -> str:
    """Declarations: codes of instructions, kinds, activations; columns of the tables."""
    numbers = {
        **{f"OP_{op.name}": op.value for op in Op},
        **{f"KIND_{kind.name}": kind.value for kind in Kind},
        **{name: n for n, name in enumerate(NAMES)},
        "TABLE_COLUMNS": COLUMNS,
        "LAST_CHECKED": LAST_CHECKED,
        "VALUE_NOISE": NOISE,
        "VALUE_WEIGHT": WEIGHT,
        "NO_NORM": NO_NORM,
        "NORM_FIRST": NORM_FIRST,
        "NORM_AFTER": NORM_AFTER,
        **{f"LAYER_{name}": n for n, name in enumerate(LAYER)},
        "LAYER_COLUMNS": len(LAYER),
        **{f"NET_{name}": n for n, name in enumerate(NETWORK)},
        "NETWORK_COLUMNS": len(NETWORK),
    }
    codes = ", ".join(f"{name} = {int(value)}" for name, value in numbers.items())
    reals = {"SQRT_2_OVER_PI": SQRT_2_OVER_PI, "GELU_CUBIC": GELU_CUBIC, "QUICK_GELU": QUICK_GELU}
    lines = [f"constexpr double {name} = {value!r};" for name, value in reals.items()]
    return "\n".join([f"enum : int {{ {codes} }};", *lines]) + "\n"


@cache
def source(dtype: str, activation: str, files: tuple[str, ...]) -> str:
    """The kernels as one text, for "float32" or "float64" and hidden layers' activation, or
    `SEVERAL`.
    """
    real = REALS[real_dtype(np.dtype(dtype)).name]
    code = -1 if activation == SEVERAL else ACTIVATIONS.index(activation)
    texts = [f"#define REAL {real}\n#define ACTIVATION {code}\n", constants()]
    texts += [(FOLDER / f"{name}.cu").read_text(encoding="utf-8") for name in files]
    return "\n".join(texts)
