"""check_losses: planted mistakes are named, right steps pass, the official numbers pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.golden import golden_batch, nested, official_times
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.agents.iql import RECIPE
from qgf_ref.agents.recipe import Recipe
from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError
from qgf_ref.crosscheck.update import check as training
from qgf_ref.crosscheck.update import inputs
from qgf_ref.crosscheck.update.check import TrainingReport, TrainingStep, check_losses
from qgf_ref.crosscheck.update.diagnosis import LIMIT
from qgf_ref.crosscheck.update.inputs import EXPOSING, default_batch
from qgf_ref.crosscheck.update.mistake import TrainingMistake, combined
from qgf_ref.crosscheck.update.mistakes import IQL_BANK, MISTAKES
from qgf_ref.crosscheck.update.rounding import exact, truth
from qgf_ref.crosscheck.update.runs import TrainingCase, run
from qgf_ref.errors import InputError
from qgf_ref.interop.official import params_from_flax
from qgf_ref.losses.batch import Batch, Hyperparameters
from qgf_ref.ops.ensemble import ensemble_reduce
from tests.conftest import Golden, small_checkpoint
from tests.helpers.some import some

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
SMALL = small_checkpoint(hidden=(20, 16), members=3)
LEARNED, NETWORKS, QUANTITIES = RECIPE.trained, IQL_BANK.parts, IQL_BANK.quantities


def case_of(hyper: Hyperparameters | None, updates: int) -> TrainingCase:
    return inputs.case_of(IQL_BANK, SMALL, None, {}, hyper, updates, 0)


def port(
    ck: Checkpoint,
    recipe: Recipe = RECIPE,
    *,
    hyper: Hyperparameters = EXPOSING,
    dtype: str = "float32",
    embedding: Any = "float32",
    only: tuple[str, ...] = QUANTITIES,
) -> TrainingStep:
    """An implementation: ours, in its own precision, with a recipe that may be wrong."""

    def step(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
        updates = len(x0) if x0.ndim == 3 else 0
        x0, t = (a if updates else a[None] for a in (x0, t))
        nets = ck.astype(dtype).networks(embedding=embedding)
        drawn = {"x0": x0.astype(dtype), "t": t.astype(dtype)}
        outcome = run(recipe, nets, batch.astype(dtype), drawn, hyper, updates)
        return {name: value for name, value in outcome.quantities().items() if name in only}

    return step


def refused(fn: TrainingStep, ck: Checkpoint, **options: Any) -> TrainingReport:
    with pytest.raises(CrossCheckError) as error:
        check_losses(fn, ck, **options)
    report = error.value.report
    assert isinstance(report, TrainingReport) and not report.passed
    assert str(error.value) == str(report)
    assert all(len(line) <= 100 for line in str(report).splitlines())
    return report


def names(report: TrainingReport) -> list[str]:
    assert report.diagnosis is not None
    return [fit.name for fit in report.diagnosis.fits]


@pytest.mark.parametrize("mistake", some(MISTAKES, 12), ids=lambda m: m.name)
def test_a_planted_mistake_is_named(mistake: TrainingMistake) -> None:
    # Adam undoes a constant factor in its first update
    updates = 2 if mistake.name == "gradient-clipped" else 1
    report = refused(port(SMALL, mistake.recipe), SMALL, hyper=EXPOSING, updates=updates)
    assert names(report) == [mistake.name]
    assert str(report.first).startswith(mistake.first)
    assert mistake.says.split(";")[0][:40] in str(report)


@pytest.mark.parametrize("name", ["velocity-sign", "expectile-swapped", "adam-epsilon-1e-7"])
@pytest.mark.parametrize("embedding", ["exact", "float32"])
def test_a_planted_mistake_is_named_in_float64(name: str, embedding: str) -> None:
    fn = port(SMALL, BY_NAME[name].recipe, dtype="float64", embedding=embedding)
    report = refused(fn, SMALL, hyper=EXPOSING, updates=1)
    assert names(report) == [name]
    assert (report.precision, report.embedding) == ("float64", embedding)


def test_two_mistakes_are_named_together() -> None:
    pair = BY_NAME["mask-ignored"], BY_NAME["value-half-loss"]
    recipe = combined(pair)
    assert recipe is not None
    report = refused(port(SMALL, recipe), SMALL, hyper=EXPOSING, updates=1)
    assert names(report) == ["mask-ignored + value-half-loss"]
    assert combined([BY_NAME["mask-ignored"], BY_NAME["mask-inverted"]]) is None


def test_an_ambiguous_diagnosis_says_what_would_settle_it() -> None:
    """V from the online critic: with and without a gradient into it, the losses are the same."""
    recipe = BY_NAME["value-gradient-into-critic"].recipe
    report = refused(port(SMALL, recipe, only=LEARNED), SMALL, hyper=EXPOSING)
    assert sorted(names(report)) == ["value-from-online-critic", "value-gradient-into-critic"]
    assert report.diagnosis is not None
    assert report.diagnosis.separators[:2] == ("grad/critic", "params/critic")
    assert "ambiguous, one of 2" in str(report) and "return grad/critic or" in str(report)


def test_an_unknown_mistake_is_said_to_be_unknown() -> None:
    wrong = replace(RECIPE, critic_scale=lambda given: 1.01)
    report = refused(port(SMALL, wrong), SMALL, hyper=EXPOSING)
    assert names(report) == [] and report.first == "critic"
    assert "unknown" in str(report) and "1.01 times the reference" in str(report)
    assert "reduced precision" not in str(report)


def test_the_nearest_mistake_is_told_if_none_fits() -> None:
    """Swapped expectiles reproduce the value; the unknown rest is the policy's."""
    wrong = replace(RECIPE, **BY_NAME["expectile-swapped"].changes, policy_scale=lambda given: 1.1)
    report = refused(port(SMALL, wrong), SMALL, hyper=EXPOSING)
    assert report.diagnosis is not None and report.diagnosis.nearest is not None
    mistake, reproduced = report.diagnosis.nearest
    assert mistake.name == "expectile-swapped"
    assert reproduced == ("critic", "value", "grad/critic", "grad/value")


def test_reduced_precision_is_recognised_by_its_size() -> None:
    def half(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
        rounded = {n: a.astype(np.float16).astype(np.float32) for n, a in vars(batch).items()}
        return port(SMALL, only=LEARNED)(Batch(**rounded), x0, t)

    report = refused(half, SMALL, hyper=EXPOSING)
    assert names(report) == [] and "reduced precision" in str(report)


def test_no_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right float32 step passes on a dozen random architectures, by a margin."""
    monkeypatch.setattr(training, "unseen", lambda *arguments: ())
    rng = np.random.default_rng(0)
    for i in range(14):
        ck = small_checkpoint(
            i,
            obs_dim=int(rng.integers(1, 12)),
            action_dim=int(rng.integers(1, 6)),
            hidden=tuple(int(width) for width in rng.integers(3, 40, rng.integers(1, 4))),
            members=int(rng.integers(1, 5)),
            aggregation=("min", "mean")[i % 2],
            activation=("gelu", "relu", "mish")[i % 3],
            steps=int(rng.integers(1, 12)),
        )
        hyper = (EXPOSING, ck.hyperparameters())[i // 4 % 2]
        report = check_losses(
            port(ck, hyper=hyper), ck, hyper=hyper, updates=int(rng.integers(0, 4)), seed=i
        )
        assert report.precision == "float32"
        assert max(c.ratio for c in report.comparisons) < 0.6 * LIMIT


def test_float64_steps_pass_with_either_embedding() -> None:
    for embedding in ("exact", "float32"):
        fn = port(SMALL, dtype="float64", embedding=embedding)
        report = check_losses(fn, SMALL, hyper=EXPOSING, updates=1)
        assert (report.precision, report.embedding) == ("float64", embedding)


def test_float64_numbers_of_a_float32_step_pass_and_say_so() -> None:
    """A loss averaged in float64 over a float32 network."""

    def mixed(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
        found = port(SMALL, only=LEARNED)(batch, x0, t)
        return {name: float(loss) * (1 + 1e-9) for name, loss in found.items()}

    report = check_losses(mixed, SMALL, hyper=EXPOSING)
    assert report.passed and "computed in float32" in str(report)


@pytest.mark.parametrize("updates", [1, 5])
def test_the_official_steps_pass(
    golden: Golden, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and updated parameters of the official JAX code, float32."""
    monkeypatch.setattr(training, "unseen", lambda *arguments: ())
    z, ck = golden.npz("train_step_float32"), golden.load("float32")
    x0 = np.stack([z["x0"], *z["more/x0"]][:updates])
    stored = [z["t"], *z["more/t"]][:updates]
    t = np.stack([official_times(one, ck.options.denoise_steps, "float32") for one in stored])
    official = {"policy": "bc", "critic": "critic", "value": "value"}

    def theirs(batch: Batch, x0: Array, t: Array) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            name: z[f"official/info/{key}_loss"] for name, key in official.items()
        }
        for name in NETWORKS:
            tree = nested(z, f"official/after{updates}/{name}/")
            found[f"params/{name}"] = params_from_flax(tree, name)
        return found

    report = check_losses(
        theirs, ck, batch=golden_batch(z, ck, "float32"), x0=x0, t=t, updates=updates
    )
    assert report.precision == "float32"
    assert max(c.ratio for c in report.comparisons) < 0.6 * LIMIT


def test_a_policy_that_respects_valid_is_not_the_official_one() -> None:
    """Upstream defect D6: the behaviour-cloning loss ignores `valid`; without a valid row the
    critic and the value learn nothing, and the policy learns all the same.
    """
    batch = default_batch(SMALL)
    assert isinstance(batch, Batch)
    invalid = replace(batch, valid=np.zeros_like(batch.valid))
    fn = port(SMALL, hyper=EXPOSING)
    valid, none = (quantities_of(fn, b) for b in (batch, invalid))
    assert none["policy"] == valid["policy"] and none["critic"] == none["value"] == 0
    check_losses(fn, SMALL, batch=invalid, hyper=EXPOSING)
    report = refused(port(SMALL, BY_NAME["valid-in-policy-loss"].recipe), SMALL, hyper=EXPOSING)
    assert names(report) == ["valid-in-policy-loss"] and "D6" in str(report)


def quantities_of(fn: TrainingStep, batch: Batch) -> Mapping[str, Any]:
    rows = len(batch.obs)
    return fn(batch, np.zeros((rows, SMALL.flat_action_dim), "f4"), np.zeros(rows, "f4"))


def test_what_the_check_cannot_see_is_said() -> None:
    one_step = replace(EXPOSING, horizon=1)
    report = check_losses(port(SMALL, hyper=one_step), SMALL, hyper=one_step, updates=2)
    assert report.unseen == ("discount-without-horizon",)
    assert "cannot see: discount-without-horizon" in str(report)
    report = check_losses(port(SMALL), SMALL, hyper=EXPOSING, updates=2)
    assert report.unseen == ()
    report = check_losses(port(SMALL, only=("policy",)), SMALL, hyper=EXPOSING)
    policy = {m.name for m in MISTAKES if m.first == "policy"}
    assert set(report.unseen) == set(BY_NAME) - policy


def test_the_default_batch_has_rows_of_every_kind() -> None:
    case = case_of(None, 3)
    batch, nets = case.batch.astype("float64"), SMALL.networks()
    kinds = {(m, v) for m, v in zip(batch.masks, batch.valid, strict=True)}
    assert kinds == {(0, 0), (0, 1), (1, 0), (1, 1)}
    q, _ = ensemble_reduce(nets.target_critic.forward(batch.obs, batch.action)[0], "min")
    assert 0.25 <= (q > nets.value.forward(batch.obs)[0]).mean() <= 0.75
    x0 = case.drawn["x0"]
    assert len(x0) == 3 and not np.array_equal(x0[0], x0[1])
    for t in case.drawn["t"]:
        assert {0.0, 1.0} <= set(t.tolist()) and 0.5 not in t


def test_rounding_is_measured_and_of_the_size_that_it_must_be() -> None:
    """Reordered runs differ, and map back: their errors are rounding's, in every memory layout."""
    for updates in (0, 1, 2):
        case = case_of(EXPOSING, updates)
        for precision in ("float32", "float64"):
            at, eps = truth(RECIPE, case, precision, "float32"), np.finfo(precision).eps
            for name, unit in at.rounding.items():
                scale = training.size(at.values[name])
                most = 1e4 if name.endswith("policy") else 1e2
                assert 0.2 * eps * scale < unit < most * eps * scale, name


def test_every_mistake_changes_first_what_it_says() -> None:
    case = case_of(EXPOSING, 1)
    right = exact(RECIPE, case, "float64", "exact")
    for mistake in MISTAKES:
        values = exact(mistake.recipe, case, "float64", "exact")
        changed = [n for n in QUANTITIES if training.size(_minus(values[n], right[n])) > 1e-12]
        if mistake.first == "params":
            assert changed[0].startswith("params/"), mistake.name
        else:
            assert changed[0] == mistake.first, mistake.name


def _minus(a: Any, b: Any) -> Any:
    return a.map(lambda x, y: x - y, b) if hasattr(a, "map") else a - b


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (None, "must return a mapping.*nothing"),
    "another name": ({"actor": 1.0}, "unknown quantity 'actor'.*policy"),
    "a vector": ({"policy": np.ones(2)}, "must be one number"),
    "text": ({"policy": "1.0"}, "real numbers"),
    "params too early": ({"params/policy": {}}, "there are no updates"),
    "missing arrays": ({"grad/value": {}}, r"missing: .*layers\.0\.kernel"),
    "no mapping": ({"grad/value": 3}, "MLPParams or a mapping"),
    "transposed": (
        {"grad/policy": {n: a.T for n, a in SMALL.policy.named()}}, r"expected .*\(in, out\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_results_that_cannot_be_compared(what: str) -> None:
    result, message = BAD[what]
    with pytest.raises(InputError, match=message):
        check_losses(lambda batch, x0, t: result, SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": -1}, "updates"),
        ({"updates": 2, "x0": np.zeros((24, 3))}, r"x0 must have shape \(2, 24, 3\)"),
        ({"t": np.full(24, 1.5)}, r"\[0, 1\]"),
        ({"batch": replace(default_batch(SMALL), masks=np.ones(3))}, "batch.masks"),
        ({"batch": replace(default_batch(SMALL), obs=np.ones((24, 4)))}, "batch.obs"),
    ],
)
def test_arguments_that_make_no_step(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_losses(port(SMALL), SMALL, **options)


def test_a_result_that_is_not_finite_disagrees() -> None:
    report = refused(lambda batch, x0, t: {"policy": np.nan}, SMALL)
    assert report.first == "policy" and names(report) == []
