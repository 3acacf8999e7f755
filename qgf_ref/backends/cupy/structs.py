"""The structures that kernels take by value, as NumPy types: members as in the sources."""

from __future__ import annotations

from typing import Any

import numpy as np


def _struct(**fields: str) -> np.dtype[Any]:
    """Fields in order, each a name and the members of that type; all of 8 bytes, but ints."""
    kinds = {"pointers": "i8", "indices": "i8", "doubles": "f8", "ints": "i4"}
    return np.dtype(
        [
            (name, kinds[kind.split("_")[0]])
            for kind, names in fields.items()
            for name in names.split()
        ]
    )


BLOCK = _struct(
    indices="rows capacity columns stride parameter_stride members norm fast activation",
    doubles="eps",
    pointers="bias scale offset",
)
VALUES = _struct(pointers="base offsets kinds", indices="rows", ints="D E")
SEED = _struct(pointers="numbers head")
LEAF = _struct(indices="start size", pointers="theta bar mean square")
DATASET = _struct(
    pointers="observations next_observations actions rewards masks terminals",
    indices="steps obs_dim action_dim",
)
CALL = _struct(
    pointers="table kinds offsets results layers networks numbers eps frequencies flat times obs "
    "noise weight scratch own answers status arrived",
    indices="instructions result_count rows draws D E obs_dim half precise members pre_kernel "
    "pre_columns time_stride own_size hidden_stride high pre z z_size edge edge_size tangents sums "
    "embedding ints own_shared",
    doubles="time_scale",
)


def struct(kind: np.dtype[Any], **values: Any) -> Any:
    """One structure; every member must be given."""
    assert set(values) == set(kind.names or ()), sorted(set(values) ^ set(kind.names or ()))
    made = np.zeros((), kind)
    for name, value in values.items():
        made[name] = value
    return made


def arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As kernels take them: integers and addresses of 8 bytes, doubles, structures."""
    kinds = {int: np.int64, float: np.float64}
    return tuple(kinds[type(a)](a) if type(a) in kinds else a for a in args)
