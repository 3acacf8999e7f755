"""The networks that some estimators need beside the agent's own, each trained for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from numpy.typing import DTypeLike

from qgf_ref.nets.critic import NoisyActionCritic, RobustCritic
from qgf_ref.nets.mlp import MLPOptions, MLPParams
from qgf_ref.nets.velocity import ConditionalVelocity, MLPVelocity, VelocityField
from qgf_ref.ops.kernels import Kernels, reference_kernels
from qgf_ref.ops.time_embedding import Precision


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary networks of a flow, ready to be evaluated; None where there is none.

    robust_q  Q_rob(s, a_t, t), a critic of noisy actions
    cfgrl     v₀ and v₁, CFGRL's velocity field at o = 0 and o = 1
    distill   f_η(s, a_t, t), which predicts the endpoint of the flow from a_t
    """

    robust_q: NoisyActionCritic | None = None
    cfgrl: tuple[VelocityField, VelocityField] | None = None
    distill: VelocityField | None = None

    def map(
        self,
        field: Callable[[VelocityField], VelocityField],
        critic: Callable[[NoisyActionCritic], NoisyActionCritic],
    ) -> Auxiliary:
        """The same with every network wrapped or replaced."""
        return Auxiliary(
            None if self.robust_q is None else critic(self.robust_q),
            None if self.cfgrl is None else (field(self.cfgrl[0]), field(self.cfgrl[1])),
            None if self.distill is None else field(self.distill),
        )


@dataclass(frozen=True)
class AuxiliaryParams:
    """The auxiliary networks' parameters, as a checkpoint has them."""

    robust_q: MLPParams | None = None
    cfgrl: MLPParams | None = None
    distill: MLPParams | None = None

    def present(self) -> dict[str, MLPParams]:
        """Those that there are, by name."""
        by_name = {name: getattr(self, name) for name in AUXILIARY}
        return {name: params for name, params in by_name.items() if params is not None}

    def astype(self, dtype: DTypeLike) -> AuxiliaryParams:
        """Every array in another dtype."""
        return AuxiliaryParams(**{n: p.astype(dtype) for n, p in self.present().items()})

    def networks(
        self,
        options: MLPOptions,
        embedding: Precision = "exact",
        kernels: Kernels = reference_kernels,
    ) -> Auxiliary:
        """The networks, with the base's activation and time embedding."""
        robust_q = cfgrl = distill = None
        if self.robust_q is not None:
            robust_q = RobustCritic(self.robust_q, options, embedding, kernels)
        if self.cfgrl is not None:
            given = ConditionalVelocity(self.cfgrl, options, embedding, kernels).given
            cfgrl = given(0), given(1)
        if self.distill is not None:
            distill = MLPVelocity(self.distill, options, embedding, kernels)
        return Auxiliary(robust_q, cfgrl, distill)


NO_AUXILIARY, NO_AUXILIARY_PARAMS = Auxiliary(), AuxiliaryParams()

AUXILIARY = tuple(f.name for f in fields(AuxiliaryParams))
"""Their names."""
