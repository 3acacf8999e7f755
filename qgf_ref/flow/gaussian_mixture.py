"""Gaussian mixtures on the linear path: exact velocity, exact tilted law, exact guidance.

For π̂ = Σ_i ω_i N(μ_i, Σ_i) and x_t = (1 − t)x0 + t x1, x0 ~ N(0, I), x1 ~ π̂:

    p_t    = Σ_i ω_i N(tμ_i, S_i),  S_i = (1 − t)²I + t²Σ_i
    v(x,t) = E[x1 − x0 | x_t = x] = Σ_i r_i(x)·(μ_i + A_i(x − tμ_i)),  A_i = (tΣ_i − (1 − t)I)S_i⁻¹

with responsibilities r_i. Source: method.md, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qgf_ref.arrays import Array, require_finite
from qgf_ref.errors import InputError
from qgf_ref.flow.closed_form_critics import AnalyticCritic, QuadraticCritic
from qgf_ref.flow.quadrature import gaussian_expectations
from qgf_ref.nets.critic import Critic


def softmax(log_weights: Array) -> Array:
    """exp/Σexp over the last axis; a complex input is shifted by its real maximum."""
    shift = log_weights.real.max(axis=-1, keepdims=True)
    e = np.exp(log_weights - shift)
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_i ω_i N(μ_i, Σ_i). weights ω (M,), means μ (M, D), covariances Σ (M, D, D).

    Raises InputError on shapes that do not fit, weights that are not a distribution, or
    covariances that are not positive definite.
    """

    weights: Array
    means: Array
    covariances: Array

    def __post_init__(self) -> None:
        for name in ("weights", "means", "covariances"):
            array = np.asarray(getattr(self, name), dtype=np.float64)
            require_finite(array, f"the mixture's {name}", InputError)
            object.__setattr__(self, name, array)
        M, D = np.shape(self.means) if np.ndim(self.means) == 2 else (0, 0)
        fits = np.shape(self.weights) == (M,) and np.shape(self.covariances) == (M, D, D)
        if not fits or not M or not D:
            raise InputError(
                "a mixture needs weights (M,), means (M, D) and covariances (M, D, D); got "
                f"{np.shape(self.weights)}, {np.shape(self.means)}, {np.shape(self.covariances)}"
            )
        if np.any(self.weights < 0) or abs(self.weights.sum() - 1) > 1e-9:
            raise InputError(f"mixture weights must be ≥ 0 and sum to 1, got {self.weights}")
        symmetric = np.allclose(self.covariances, np.swapaxes(self.covariances, 1, 2))
        if not symmetric or np.linalg.eigvalsh(self.covariances).min() <= 0:
            raise InputError("every covariance of a mixture must be symmetric positive definite")

    @classmethod
    def isotropic(cls, weights: ArrayLike, means: ArrayLike, sd: ArrayLike) -> GaussianMixture:
        """Components N(μ_i, sd_i²I). sd () or (M,)."""
        means = np.asarray(means, dtype=float)
        if means.ndim != 2 or np.any(np.asarray(sd) <= 0):
            raise InputError(
                f"isotropic needs means (M, D) and sd > 0, got {means.shape} and {sd!r}"
            )
        variances = np.broadcast_to(np.square(sd), (len(means),))
        return cls(
            np.asarray(weights, dtype=float),
            means,
            variances[:, None, None] * np.eye(means.shape[1]),
        )

    @property
    def dim(self) -> int:
        """D."""
        return int(self.means.shape[1])

    def at_time(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t: means tμ_i, covariances (1 − t)²I + t²Σ_i."""
        spread = (1 - t) ** 2 * np.eye(self.dim) + t**2 * self.covariances
        return GaussianMixture(self.weights, t * self.means, spread)

    def log_components(self, x: Array) -> Array:
        """log ω_i N(x; μ_i, Σ_i), (B, M). x (B, D), real or complex."""
        offset = x[:, None, :] - self.means
        return _log_components(self.weights, offset, self.covariances)[0]

    def log_density(self, x: Array) -> Array:
        """log p(x), (B,)."""
        terms = self.log_components(x)
        shift = terms.real.max(axis=1)
        return shift + np.log(np.exp(terms - shift[:, None]).sum(axis=1))

    def moments(self) -> tuple[Array, Array]:
        """Mean (D,) and covariance (D, D)."""
        mean = self.weights @ self.means
        offset = self.means - mean
        within = np.einsum("m,mij->ij", self.weights, self.covariances)
        return mean, within + np.einsum("m,mi,mj->ij", self.weights, offset, offset)

    def sample(self, rng: np.random.Generator, rows: int) -> Array:
        """Independent draws (rows, D)."""
        which = rng.choice(len(self.weights), size=rows, p=self.weights)
        factor = np.linalg.cholesky(self.covariances)[which]
        draws = rng.standard_normal((rows, self.dim))
        return self.means[which] + np.einsum("bij,bj->bi", factor, draws)

    def tilted(self, critic: QuadraticCritic, weight: float) -> GaussianMixture:
        """π ∝ this·exp(w·Q) for Q = −½(a − a*)ᵀM(a − a*): again a Gaussian mixture.

        Σ'_i = (Σ_i⁻¹ + wM)⁻¹,  μ'_i = Σ'_i(Σ_i⁻¹μ_i + wM a*),
        ω'_i ∝ ω_i |I + wΣ_iM|^(−½) exp(−½(μ_i − a*)ᵀ wM(I + wΣ_iM)⁻¹ (μ_i − a*)).
        Raises InputError when some Σ_i⁻¹ + wM is not positive definite (the tilt diverges).
        """
        pull = weight * critic.curvature
        precision = np.linalg.inv(self.covariances)
        tilted_precision = precision + pull
        if np.linalg.eigvalsh(tilted_precision).min() <= 0:
            raise InputError("exp(w·Q) outgrows the mixture: Σ⁻¹ + wM is not positive definite")
        covariances = np.linalg.inv(tilted_precision)
        covariances = 0.5 * (covariances + np.swapaxes(covariances, 1, 2))
        information = np.einsum("mij,mj->mi", precision, self.means) + pull @ critic.optimum
        means = np.einsum("mij,mj->mi", covariances, information)
        spread = np.eye(self.dim) + self.covariances @ pull
        offset = self.means - critic.optimum
        stiffness = pull @ np.linalg.inv(spread)
        energy = np.einsum("mi,mij,mj->m", offset, stiffness, offset)
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights) - 0.5 * (np.linalg.slogdet(spread)[1] + energy)
        return GaussianMixture(softmax(log_weights), means, covariances)


def _log_components(weights: Array, offset: Array, covariances: Array) -> tuple[Array, Array]:
    """log ω_i N(offset; 0, Σ_i) (B, M), and −Σ_i⁻¹·offset (B, M, D).

    weights (M,), offset (B, M, D), covariances (M, D, D), or (B, M, D, D) for each row its own.
    """
    score = -np.einsum("...mij,...mj->...mi", np.linalg.inv(covariances), offset)
    squared = -(offset * score).sum(axis=-1)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariances)
    with np.errstate(divide="ignore"):  # a component of weight 0 has log weight −∞
        return np.log(weights) - 0.5 * (squared + log_det), score


class MixtureVelocityCache(NamedTuple):
    """∂v/∂a of every row, (B, D, D)."""

    jacobian: Array


@dataclass(frozen=True)
class MixtureFlow:
    """The exact velocity field of a `GaussianMixture`; observations are not used."""

    mixture: GaussianMixture

    @property
    def action_dim(self) -> int:
        """D."""
        return self.mixture.dim

    @property
    def obs_dim(self) -> None:
        """Observations are not used: any width, 0 included."""
        return

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64."""
        return np.dtype(np.float64)

    def forward(
        self, obs: Array, action: Array, time: float | Array
    ) -> tuple[Array, MixtureVelocityCache]:
        """v (B, D). action (B, D), real or complex; time () or (B,), each row its own.

        ∂v/∂a = Σ_i r_i A_i + Σ_i u_i (∇r_i)ᵀ with u_i the component's velocity and
        ∇r_i = r_i(s_i − Σ_j r_j s_j), s_i = −S_i⁻¹(x − tμ_i).
        """
        mix = self.mixture
        t = np.asarray(time, dtype=np.float64)
        t = t.reshape((-1, 1, 1, 1) if t.size > 1 else ())
        eye = np.eye(self.action_dim)
        spread = (1 - t) ** 2 * eye + t**2 * mix.covariances
        offset = action[:, None, :] - t.reshape(t.shape[:3]) * mix.means
        log_components, score = _log_components(mix.weights, offset, spread)
        r = softmax(log_components)
        gain = (t * mix.covariances - (1 - t) * eye) @ np.linalg.inv(spread)
        component = mix.means + np.einsum("...mij,...mj->...mi", gain, offset)
        r_slope = r[..., None] * (score - np.einsum("bm,bmi->bi", r, score)[:, None])
        velocity = np.einsum("bm,bmi->bi", r, component)
        jacobian = np.einsum("...m,...mij->...ij", r, gain)
        jacobian = jacobian + np.einsum("bmi,bmj->bij", component, r_slope)
        return velocity, MixtureVelocityCache(jacobian)

    def jvp(self, action_dot: Array, cache: MixtureVelocityCache) -> Array:
        """(∂v/∂a) action_dot, (B, D)."""
        return np.asarray(np.einsum("bij,bj->bi", cache.jacobian, action_dot))

    def vjp(self, velocity_bar: Array, cache: MixtureVelocityCache) -> Array:
        """(∂v/∂a)ᵀ velocity_bar, (B, D)."""
        return np.asarray(np.einsum("bij,bi->bj", cache.jacobian, velocity_bar))

    def guided_velocity(self, action: Array, time: float, critic: Critic, weight: float) -> Array:
        """The velocity (B, D) of the flow that ends in π ∝ π̂·exp(w·Q).

        Quadratic Q: the velocity of the tilted mixture. Any other Q in one dimension:
        v + (E_tilted[x1|x_t] − E[x1|x_t])/(1 − t), both means by quadrature.
        Raises InputError for any other critic.
        """
        if isinstance(critic, QuadraticCritic):
            tilted = MixtureFlow(self.mixture.tilted(critic, weight))
            return tilted.forward(action, action, time)[0]
        if self.action_dim != 1 or not isinstance(critic, AnalyticCritic):
            raise InputError(
                "exact guidance is known for a QuadraticCritic, or for any critic of "
                "qgf_ref.flow.closed_form_critics in one dimension"
            )
        return self._guided_by_quadrature(action, time, critic, weight)

    def conditional(self, action: Array, t: float) -> tuple[Array, Array, Array]:
        """x1 | x_t = action, as a mixture for each row: weights (B, M), means (B, M, D),
        covariances (M, D, D) = (1 − t)²Σ_i S_i⁻¹.
        """
        marginal = self.mixture.at_time(t)
        r = softmax(marginal.log_components(action))
        towards = self.mixture.covariances @ np.linalg.inv(marginal.covariances)
        offset = action[:, None, :] - marginal.means
        means = self.mixture.means + t * np.einsum("mij,bmj->bmi", towards, offset)
        return r, means, (1 - t) ** 2 * towards

    def _guided_by_quadrature(
        self, action: Array, t: float, critic: AnalyticCritic, weight: float
    ) -> Array:
        r, means, covariances = self.conditional(action, t)
        sd = np.sqrt(covariances[:, 0, 0])
        # rows × components, flattened: each is one Gaussian N(mean, sd²)
        centre = means[..., 0].ravel()
        log_mass, tilted_mean = gaussian_expectations(
            centre, np.tile(sd, len(action)), critic, weight
        )
        shape = r.shape
        with np.errstate(divide="ignore"):
            tilted_r = softmax(np.log(r) + log_mass.reshape(shape))
        expected = (tilted_r * tilted_mean.reshape(shape)).sum(axis=1)
        untilted = (r * means[..., 0]).sum(axis=1)
        base, _ = self.forward(action, action, t)
        return base + ((expected - untilted) / (1 - t))[:, None]
