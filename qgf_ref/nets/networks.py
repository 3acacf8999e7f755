"""The networks of an agent, together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from qgf_ref.nets.mlp import MLPParams


class Networks(SimpleNamespace):
    """Networks by part, ready to be evaluated: `nets.critic` is `nets["critic"]`."""

    def __getitem__(self, part: str) -> Any:
        return vars(self)[part]

    def having(self, params: Mapping[str, MLPParams]) -> Networks:
        """The same networks, some of them with other parameters."""
        changed = {part: replace(self[part], params=new) for part, new in params.items()}
        return Networks(**{**vars(self), **changed})
