"""What can be evaluated: an estimator, best-of-N, gradient steps, and the grammar of their names.

bc | none            behaviour cloning
gradstep             behaviour cloning, then gradient steps on the critic
E                    any estimator of `qgf-ref estimators`, with its options (qgf+norm=1), or
                     your.module:function
bfn-N                behaviour cloning, best of N
X+bfn-N              any of the above, best of N
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from qgf_ref.agents.agent import Acting
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.backends.engine import EngineLike
from qgf_ref.denoising import GradientSteps
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.flow.path import check_steps
from qgf_ref.guidance.registry import ALIASES, estimator, learned_estimator_names

OFFICIAL_GRADIENT_STEPS = GradientSteps(steps=3, size=0.01)
"""GradStep as the official scripts run it. Source: official.md, section 7."""

DEFAULT_METHODS = (
    "bc",
    "bfn-4",
    "bfn-16",
    "gradstep",
    "ood",
    "bptt",
    "qgf_jacobian",
    "qgf",
    "qgf+bfn-4",
)
"""What `qgf-ref evaluate` compares unless told otherwise."""

_BFN = re.compile(r"bfn-(?P<draws>[0-9]{1,6})")
_UNGUIDED = "none"
_GRADSTEP = "gradstep"


@dataclass(frozen=True)
class Method:
    """A way to draw actions.

    estimator       a registered name, or package.module:function (worker processes import it)
    best_of         N candidates, ranked by the target critic
    gradient_steps  GradStep after the flow
    denoise_steps   T, instead of the checkpoint's
    Raises InputError on an estimator that is unknown or needs a closed-form flow, on N < 1, and on
    a T out of range.
    """

    estimator: str = _UNGUIDED
    best_of: int = 1
    gradient_steps: GradientSteps | None = None
    denoise_steps: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.denoise_steps is not None:
            check_steps(self.denoise_steps)
        name, *options = self.estimator.split("+")
        name = ALIASES.get(name, name)
        object.__setattr__(self, "estimator", "+".join([name, *options]))
        if ":" not in name and name not in learned_estimator_names():
            raise unknown_name(
                "method",
                self.estimator,
                ("bc", _GRADSTEP, "bfn-N", "E+bfn-N", *learned_estimator_names()),
            )
        estimator(self.estimator)
        if self.best_of < 1:
            raise InputError(f"best-of-N needs N ≥ 1, got {self.best_of}")

    @property
    def weighted(self) -> bool:
        """Whether the method takes a guidance weight."""
        return self.estimator != _UNGUIDED

    def acting(self, weight: float | None = None, engine: EngineLike = "numpy") -> Acting:
        """What an agent needs to know to act so."""
        return Acting(
            self.estimator, weight, self.best_of, self.gradient_steps, self.denoise_steps, engine
        )

    @property
    def own_weights(self) -> tuple[float, ...] | None:
        """The weights that the estimator brings, in place of an evaluation's."""
        return estimator(self.estimator).default_weights

    @property
    def auxiliary(self) -> str | None:
        """The auxiliary network that the estimator needs."""
        return estimator(self.estimator).auxiliary

    @property
    def base(self) -> str:
        """The label without best-of-N: what gives the method its colour in every figure."""
        if self.gradient_steps is not None:
            own = "" if self.estimator == _UNGUIDED else f"{self.estimator}+"
            return own + _GRADSTEP
        return "bc" if self.estimator == _UNGUIDED else self.estimator

    @property
    def label(self) -> str:
        """The name that tables and files use, in the grammar of `parse_method`."""
        if self.best_of == 1:
            return self.base
        return f"bfn-{self.best_of}" if self.base == "bc" else f"{self.base}+bfn-{self.best_of}"

    @property
    def identity(self) -> str:
        """The label and whatever else decides the method's actions: the key of its records."""
        own = "" if self.denoise_steps is None else f" T={self.denoise_steps}"
        if self.gradient_steps is None:
            return self.label + own
        steps = self.gradient_steps
        sign = " sign" if steps.sign else ""
        return f"{self.label} {steps.steps}×{steps.size!r}{sign}{own}"


def parse_method(text: str, gradient_steps: GradientSteps = OFFICIAL_GRADIENT_STEPS) -> Method:
    """The method that `text` names; `gradient_steps` is what gradstep does.

    >>> parse_method("qgf+bfn-4")
    Method(estimator='qgf', best_of=4, gradient_steps=None)

    Raises InputError, listing the grammar, on any other text.
    """
    base, plus, suffix = text.rpartition("+")
    if "=" in suffix:  # an option of the estimator
        return Method(text)
    if not plus:
        base, suffix = (_UNGUIDED, text) if _BFN.fullmatch(text) else (text, "bfn-1")
    found = _BFN.fullmatch(suffix)
    if found is None:
        raise InputError(
            f"unknown method {text!r}: after a + only bfn-N may follow, e.g. qgf+bfn-4 or bfn-16, "
            "or an estimator's option, e.g. qgf+norm=1"
        )
    draws = int(found["draws"])
    if base == _GRADSTEP:
        return Method(_UNGUIDED, draws, gradient_steps)
    return Method(base, draws)


def parse_methods(
    texts: Sequence[str], gradient_steps: GradientSteps = OFFICIAL_GRADIENT_STEPS
) -> tuple[Method, ...]:
    """One method for each text; raises InputError when none is given or one comes twice."""
    methods = tuple(parse_method(text, gradient_steps) for text in texts)
    if not methods:
        raise InputError("no method to evaluate: give at least one, e.g. qgf")
    for i, each in enumerate(methods):
        if each in methods[:i]:
            raise InputError(f"the method {each.label} is given twice")
    return methods


def require_networks(checkpoint: Checkpoint, methods: Sequence[Method]) -> None:
    """Raise InputError unless the checkpoint has the networks that the methods need."""
    for method in methods:
        try:
            checkpoint.agent.require(checkpoint, method.acting())
        except InputError as error:
            raise InputError(f"{checkpoint.source}: {error}") from error
