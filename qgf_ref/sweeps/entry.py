"""One agent of a sweep: how its runs are trained, and what of them is played."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qgf_ref.agents.registry import agent_named
from qgf_ref.evaluation.methods import Method, parse_methods

Value = bool | int | float | str


@dataclass(frozen=True)
class SpecEntry:
    """One agent of a sweep: how it is trained, and by which methods its runs are played.

    name        what directories and tables call it
    agent       the agent's name
    train       settings of its runs that differ from the sweep's, the agent's own among them
    tried       one setting and its values, of which the selection episodes choose one; or empty
    try_seeds   training seeds on which the values are tried; empty: all of the sweep's
    try_by      the method by whose success a value is chosen; "": the first that is weighted, or
                the first
    methods     by which it is evaluated, in the grammar of `qgf-ref evaluate`
    weights     guidance weights to choose from, of this entry; empty: the sweep's
    extra       auxiliary networks that are trained beside its runs
    acting      the agent's own settings that are others in the evaluation than in the run
    policy      another entry, whose runs of the same task and seed give the flow, this one's the
                critic (`qgf_ref.agents.combination`); "": its own runs give both
    """

    name: str
    agent: str
    train: dict[str, Any] = field(default_factory=dict)
    tried: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    try_seeds: tuple[int, ...] = ()
    try_by: str = ""
    methods: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    extra: tuple[str, ...] = ()
    acting: dict[str, Any] = field(default_factory=dict)
    policy: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        """The tried values as directories name them, "bc_weight=30"; none if nothing is tried."""
        return tuple(f"{k}={_plain(v)}" for k, values in self.tried.items() for v in values)

    def setting(self, value: str) -> dict[str, Any]:
        """{setting: its value} of a tried value's name; empty for ""."""
        for name, values in self.tried.items():
            for each in values:
                if f"{name}={_plain(each)}" == value:
                    return {name: each}
        return {}

    @property
    def deciding(self) -> Method:
        """The method whose success on the selection episodes chooses a value."""
        methods = parse_methods(self.methods)
        if self.try_by:
            return parse_methods([self.try_by])[0]
        return next((m for m in methods if m.weighted), methods[0])

    @property
    def own_name(self) -> bool:
        """Whether tables call its methods by their names alone, and not by the entry's: so for the
        agents that a guided flow is made of, under their own names.
        """
        return self.name == self.agent and agent_named(self.agent).usual == "qgf"

    def label(self, method: Method) -> str:
        """What tables call a method: "qgf"; of another entry its name, "edp" or "edp bfn-4"."""
        if self.own_name:
            return method.label
        return self.name if method == Method() else f"{self.name} {method.label}"


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
