"""The ground truth for Q-Guided Flow: every Jacobian-vector product explicit and auditable.

>>> import qgf_ref
>>> checkpoint = qgf_ref.load()                       # or a path: params_500000.pkl, …
>>> obs = qgf_ref.embedded_observations()[:4]
>>> qgf_ref.sample(checkpoint.flow, obs, estimator="qgf", weight=0.03, rng=0).shape
(4, 25)
"""

from qgf_ref import adapters as adapters
from qgf_ref.agents.checkpoint import Checkpoint, Options
from qgf_ref.checks import Check, DerivativeMismatch, check_adjoint, check_jvp, check_vjp
from qgf_ref.denoising import GradientSteps, denoising_step
from qgf_ref.errors import InputError, NonFiniteError, QGFError
from qgf_ref.flow.closed_form_critics import BumpCritic, DistanceCritic, QuadraticCritic
from qgf_ref.flow.convention import Convention, convention
from qgf_ref.flow.gaussian_mixture import GaussianMixture, MixtureFlow
from qgf_ref.guidance.base import DenoisingStep, Estimator, Guidance, GuidedFlow, Products
from qgf_ref.guidance.prefix import prefix_flow, prefix_weights
from qgf_ref.guidance.registry import estimator, estimator_names, register
from qgf_ref.interop.load import embedded_observations, load
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.nets.critic import Critic
from qgf_ref.nets.velocity import VelocityField
from qgf_ref.sampling import Trace, sample, trace

__version__ = "0.1.0"

__all__ = [
    "BumpCritic",
    "Check",
    "Checkpoint",
    "Convention",
    "Critic",
    "DenoisingStep",
    "DerivativeMismatch",
    "DistanceCritic",
    "Estimator",
    "GaussianMixture",
    "GradientSteps",
    "Guidance",
    "GuidedFlow",
    "InputError",
    "MixtureFlow",
    "NonFiniteError",
    "Options",
    "Products",
    "QGFError",
    "QuadraticCritic",
    "Trace",
    "VelocityField",
    "check_adjoint",
    "check_jvp",
    "check_vjp",
    "convention",
    "denoising_step",
    "embedded_observations",
    "estimator",
    "estimator_names",
    "load",
    "prefix_flow",
    "prefix_weights",
    "register",
    "sample",
    "save_checkpoint",
    "trace",
]
