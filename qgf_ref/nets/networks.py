"""The networks of an agent, together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from qgf_ref.nets.mlp import MLPParams


def forward_only(network: Any) -> Any:
    """The network for forwards of which nobody asks a product: kernels that can save nothing then.

    Its caches are worth nothing. A network without kernels of ours is given back as it is.
    """
    alone = getattr(getattr(network, "kernels", None), "forwards_alone", None)
    return network if alone is None else replace(network, kernels=alone)


class Networks(SimpleNamespace):
    """Networks by part, ready to be evaluated: `nets.critic` is `nets["critic"]`."""

    def __getitem__(self, part: str) -> Any:
        return vars(self)[part]

    def having(self, params: Mapping[str, MLPParams]) -> Networks:
        """The same networks, some of them with other parameters."""
        changed = {part: replace(self[part], params=new) for part, new in params.items()}
        return Networks(**{**vars(self), **changed})
