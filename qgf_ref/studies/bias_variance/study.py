"""Bias and variance of every estimator against the exact guidance, and the Jacobian's boundary.

States are drawn from the exact marginals of the tilted law, where the ideal sampler goes; g* there
is the exact guidance of exact v and Q (method.md, section 6). Errors of v and Q are Gaussian
processes of known size and length scale (`qgf_ref.flow.perturbed`). No action bound, so that the
clip's mask plays no part: `qgf_masked` is `qgf`, `qgf_jacobian_unmasked` is `qgf_jacobian`.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from tqdm import tqdm

from qgf_ref.errors import InputError
from qgf_ref.guidance.base import Estimator
from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.studies.base import Outcome, Rows, StudySettings
from qgf_ref.studies.bias_variance.figures import (
    curl_figure,
    error_figure,
    noise_figure,
    sample_figure,
)
from qgf_ref.studies.bias_variance.phase import PLANES, Map, field_errors, maps, phase_figure
from qgf_ref.studies.bias_variance.phase import critic_errors as errors_of_critic
from qgf_ref.studies.bias_variance.samples import Condition, sample_distances
from qgf_ref.studies.bias_variance.sweeps import (
    QUICK,
    Size,
    boundaries,
    boundary_cells,
    curls,
    exact_sweeps,
    noise_sweeps,
    one_step,
)
from qgf_ref.studies.bias_variance.words import report
from qgf_ref.studies.shared.problems import EXACT, Problem

DEFAULT = (
    "ood",
    "qgf",
    "qgf_chain",
    "bptt",
    "qgf_jacobian",
    "qgf_jacobian_scheduled",
    "qgf_covariance",
    "qgf_shifted",
)
STRONG = 3.0
"""A weight at which the tilted law is almost one mode."""


def study(settings: StudySettings) -> Outcome:
    """Run it. Raises InputError when `oracle`, which is the reference, is among the estimators."""
    size = QUICK if settings.quick else Size()
    chosen = _chosen(settings)
    compared = _compared(chosen)
    samplers = [e for e in one_step(chosen) if e.label != "none"]
    conditions = _conditions(size, settings.seed)
    cells = len(size.dims) * (1 + len(size.weights)) + len(size.separations) * len(size.sds)
    cells += len(size.shown_dims) * (len(size.rhos) + len(size.strains) + 2 * len(chosen))
    cells += 2 * len(boundary_cells(size))
    axis = len(PLANES[0].x[:: 2 if size.coarse else 1])
    cells += len(size.shown_dims) * len(PLANES) * axis**2 if len(compared) > 1 else 0
    sampled = sum(len(samplers) + 1 + c.errors.none for c in conditions) * size.sample_draws
    with tqdm(total=cells + sampled, disable=None, unit="cell") as bar:
        scores = exact_sweeps(size, chosen, settings.seed, bar.update)
        scores += noise_sweeps(size, chosen, settings.seed, bar.update)
        boundary = boundaries(size, compared, settings.seed, bar.update)
        curl = curls(size, chosen, settings.seed, bar.update)
        drawn, phase = _phases(size, compared, settings.seed, bar)
        samples = []
        for condition in conditions:
            samples += sample_distances(
                condition,
                samplers,
                rows=size.sample_rows,
                draws=size.sample_draws,
                seed=settings.seed,
                progress=bar.update,
            )
    tables = {
        "": scores,
        "boundary": boundary,
        "phase": phase,
        "curl": curl,
        "samples": samples,
    }
    text, details = report(size, tables)
    return Outcome(text, tables, _figures(scores, curl, samples, drawn), details)


def _chosen(settings: StudySettings) -> list[Estimator]:
    names = settings.estimators
    if names is None:
        names = tuple(name for name in DEFAULT if name in estimator_names())
    made = [estimator(name) for name in dict.fromkeys(names)]
    if any(e.label == "oracle" for e in made):
        raise InputError("the oracle is what the others are compared with: leave it out")
    return made


def _compared(chosen: list[Estimator]) -> list[Estimator]:
    """qgf and its rivals: estimators of one step that are not known to leave the Jacobian out."""
    without = ("none", "ood", "qgf", "qgf_masked")
    rivals = [e for e in one_step(chosen) if e.label not in without]
    return [estimator("qgf"), *rivals]


def _conditions(size: Size, seed: int) -> list[Condition]:
    made = []
    for n in size.shown_dims:
        usual, strong = Problem(n, size.weight), Problem(n, STRONG)
        slope = usual.critic_slope(usual.points(size.exact_rows, seed))
        made += [
            Condition(usual, EXACT, f"exact w={size.weight:g}"),
            Condition(strong, EXACT, f"exact w={STRONG:g}"),
            Condition(usual, field_errors(usual, 0.3), "strain 0.3"),
            Condition(usual, field_errors(usual, 1.0), "strain 1"),
            Condition(usual, field_errors(usual, 3.0), "strain 3"),
            Condition(usual, errors_of_critic(usual, slope, 1.0), "slope 1"),
        ]
    return made


def _phases(
    size: Size, compared: list[Estimator], seed: int, bar: tqdm[None]
) -> tuple[list[Map], list[dict[str, object]]]:
    drawn: list[Map] = []
    table: list[dict[str, object]] = []
    if len(compared) == 1:
        return drawn, table
    for n in size.shown_dims:
        for plane in PLANES:
            made, rows = maps(
                Problem(n, size.weight),
                plane,
                compared,
                rows=size.rows,
                draws=size.draws,
                seed=seed,
                coarse=size.coarse,
                progress=bar.update,
            )
            drawn += made
            table += rows
    return drawn, table


def _figures(scores: Rows, curl: Rows, samples: Rows, drawn: list[Map]) -> dict[str, Figure]:
    by_time = [r for r in scores if r["sweep"] == "t" and r["t"] is not None]
    by_weight = [r for r in scores if r["sweep"] == "w"]
    noise = [r for r in scores if r["sweep"] in ("critic", "field")]
    figures = {
        "time": error_figure(by_time, "t", "flow time t", log_x=False),
        "weight": error_figure(by_weight, "w", "guidance weight w", log_x=True),
        "noise": noise_figure(noise, {"scaled_error": "error at the best scale"}, log_y=False),
        "bias_variance": noise_figure(
            noise, {"bias": "bias / size of g*", "sd": "sd / size of g*"}, log_y=True
        ),
        "curl": curl_figure(curl),
        "samples": sample_figure(samples),
    }
    for rival in dict.fromkeys(m.rival for m in drawn):
        mine = [m for m in drawn if m.rival == rival]
        figures[f"phase_{rival}"] = phase_figure(mine)
    return figures
