"""Estimators by name, and the place to add your own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.errors import BudgetSpent, InputError, unknown_name
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow
from qgf_ref.guidance.bptt import BPTT
from qgf_ref.guidance.cfgrl import CFGRL
from qgf_ref.guidance.none import NoGuidance
from qgf_ref.guidance.ood import OOD
from qgf_ref.guidance.options.grammar import with_options
from qgf_ref.guidance.oracle import Oracle
from qgf_ref.guidance.qgf import QGF
from qgf_ref.guidance.qgf_chain import QGFChain
from qgf_ref.guidance.qgf_covariance import QGFCovariance
from qgf_ref.guidance.qgf_distill import QGFDistill, QGFJacobianDistill
from qgf_ref.guidance.qgf_jacobian import QGFJacobian, QGFJacobianUnmasked
from qgf_ref.guidance.qgf_jacobian_ortho import QGFJacobianOrtho
from qgf_ref.guidance.qgf_jacobian_regularized import QGFJacobianRegularized
from qgf_ref.guidance.qgf_jacobian_scheduled import QGFJacobianScheduled
from qgf_ref.guidance.qgf_jacobian_smooth import QGFJacobianSmooth
from qgf_ref.guidance.qgf_masked import QGFMasked
from qgf_ref.guidance.qgf_shifted import QGFShifted, QGFShiftedTaylor
from qgf_ref.guidance.robust_q import RobustQ
from qgf_ref.nets.products import MissingProduct
from qgf_ref.user_code import error_summary, import_named

GuidanceFunction = Callable[[GuidedFlow, DenoisingStep], Any]
"""An estimator as a plain function: returns a `Guidance`, or just G (B, D)."""


EstimatorLike = str | Estimator | GuidanceFunction
"""What `estimator` takes: a name, an estimator that is built, or a plain function."""


@dataclass(frozen=True)
class FunctionEstimator(Estimator):
    """An estimator made from a plain function."""

    function: GuidanceFunction
    title: str

    name = "function"
    summary = "a function of the user's"
    analytic = False

    @property
    def label(self) -> str:
        """The name it was registered under, or package.module:function."""
        return self.title

    def __call__(self, flow: GuidedFlow, step: DenoisingStep) -> Guidance:
        """What the function returns, in the dtype of a_t.

        Raises InputError when the function raises, and unless it returns real numbers shaped like
        a_t, as gradient and as acceleration if there is one.
        """
        try:
            answer = self.function(flow, step)
        except (BudgetSpent, MissingProduct):
            raise  # said of the networks, and for whoever asked
        except Exception as error:
            raise InputError(f"estimator {self.title} raised {error_summary(error)}") from error
        guidance = answer if isinstance(answer, Guidance) else Guidance(answer)
        gradient, bent = self._like(step.action, guidance.gradient), guidance.acceleration
        acceleration = None if bent is None else self._like(step.action, bent)
        return replace(guidance, gradient=gradient, acceleration=acceleration)

    def _like(self, action: Array, answer: Any) -> Array:
        found = np.array(answer)  # a copy: the next answer may come in the same array
        if found.dtype.kind not in "fiu" or found.shape != action.shape:
            raise InputError(
                f"estimator {self.title} returned {found.dtype} of shape {found.shape}, "
                f"expected real numbers of a_t's shape, {action.shape}"
            )
        return found.astype(action.dtype, copy=False)


_REGISTRY: dict[str, Callable[..., Estimator]] = {
    cls.name: cls
    for cls in (
        NoGuidance,
        OOD,
        QGF,
        QGFJacobian,
        BPTT,
        QGFChain,
        QGFJacobianRegularized,
        QGFJacobianOrtho,
        QGFJacobianSmooth,
        QGFMasked,
        QGFJacobianUnmasked,
        QGFJacobianScheduled,
        Oracle,
        QGFCovariance,
        QGFShifted,
        QGFShiftedTaylor,
        RobustQ,
        QGFDistill,
        QGFJacobianDistill,
        CFGRL,
    )
}

_BUILT_IN = frozenset(_REGISTRY)
ALIASES = {"bc": "none", "qfql": "ood"}


def estimator_names() -> tuple[str, ...]:
    """The registered names, in order of registration."""
    return tuple(_REGISTRY)


def learned_estimator_names() -> tuple[str, ...]:
    """The names that work on learned networks: all but `oracle`.

    Those with an `auxiliary` network run on checkpoints that have it.
    """
    return tuple(name for name in _REGISTRY if name != Oracle.name)


def known_everywhere(spec: str) -> bool:
    """Whether other processes know this estimator: not if `register` added it in this one."""
    name, *_ = spec.split("+")
    return ":" in name or ALIASES.get(name, name) in _BUILT_IN


def register(name: str, factory: Callable[..., Estimator] | GuidanceFunction) -> None:
    """Add an estimator under `name`: an `Estimator` subclass, or a plain function (flow, step) → G.

    Raises InputError when the name is taken or has no letters, or the factory is neither.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InputError(f"an estimator's name is a word of letters and digits, got {name!r}")
    if name in _REGISTRY or name in ALIASES:
        raise InputError(f"the estimator name {name!r} is taken")
    _REGISTRY[name] = _factory(name, factory)


def estimator(spec: EstimatorLike, **options: Any) -> Estimator:
    """The estimator of this name, or of this `package.module:function`, with its options.

    An `Estimator`, or a plain function (flow, step) → G, is taken as it is. What deployment does
    to any of them follows behind a +, as often as wanted (`qgf_ref.guidance.options.grammar`).

    >>> estimator("qgf_jacobian_regularized", lam=0.2).lam
    0.2
    >>> estimator("qgf+interval=0.2,0.8+norm=1").label
    'qgf+interval=0.2,0.8+norm=1'

    Raises InputError on an unknown name or option (listing the valid ones) and on a module or
    function that cannot be imported.
    """
    if isinstance(spec, Estimator):
        if options:
            raise InputError(f"options {sorted(options)} given with an estimator that is built")
        return spec
    if callable(spec) and not isinstance(spec, type):
        return FunctionEstimator(spec, getattr(spec, "__name__", "function"))
    if not isinstance(spec, str):
        raise unknown_name("estimator", spec, _REGISTRY)
    if "+" in spec:
        name, *written = spec.split("+")
        return with_options(estimator(name, **options), written)
    if ":" in spec:
        factory = _factory(spec, import_named(spec, "estimator"))
    else:
        name = ALIASES.get(spec, spec)
        if name not in _REGISTRY:
            raise unknown_name("estimator", spec, (*_REGISTRY, "your.module:function"))
        factory = _REGISTRY[name]
    if not options:
        return factory()
    known: list[str] = [f.name for f in fields(factory)] if is_dataclass(factory) else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            f"estimator {spec!r} has no option {', '.join(unknown)}; "
            f"its options are: {', '.join(known) or 'none'}"
        )
    return factory(**options)


def _factory(name: str, given: Any) -> Callable[..., Estimator]:
    if isinstance(given, type) and issubclass(given, Estimator):
        return given
    if isinstance(given, Estimator):
        return lambda: given
    if not callable(given):
        raise InputError(f"{name} is neither a function nor an Estimator, but {given!r}")
    return lambda: FunctionEstimator(given, name)
