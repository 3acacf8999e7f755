"""The peers of the speed benchmark compute the sampler, and say what they lack."""

from __future__ import annotations

import pytest

from qgf_ref.bench.contenders import Factory
from qgf_ref.bench.validation import Reference
from qgf_ref.errors import InputError
from tests.conftest import small_checkpoint

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("quick_compilation", "one_thread")]
pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("torch")

from benchmarks.peers import speed_jax, speed_torch  # noqa: E402

STEPS, WEIGHT = 5, 0.3


def require_right(factory: Factory, estimator: str, aggregation: str = "min") -> None:
    ck = small_checkpoint(aggregation=aggregation)
    reference = Reference.of(ck, estimator, WEIGHT, STEPS, 0)
    run = factory(ck.astype("float32"), estimator=estimator, weight=WEIGHT, denoise_steps=STEPS)
    for batch in (3, 7):
        obs, noise = reference.inputs(ck, batch, "float32", 0)
        reference.require(factory.__name__, run(obs, noise), f"batch {batch}")  # type: ignore[attr-defined]


@pytest.mark.parametrize("estimator", speed_torch.ESTIMATORS)
@pytest.mark.parametrize("factory", [speed_jax.sampler, speed_torch.eager])
def test_they_compute_the_sampler(factory: Factory, estimator: str) -> None:
    require_right(factory, estimator)


@pytest.mark.parametrize(
    "factory", [speed_jax.sampler, speed_jax.official_jacobian, speed_torch.eager]
)
def test_with_the_mean_of_the_critics(factory: Factory) -> None:
    require_right(factory, "qgf_jacobian", "mean")


def test_the_official_jacobian() -> None:
    require_right(speed_jax.official_jacobian, "qgf_jacobian")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, on itself
@pytest.mark.parametrize("estimator", ["qgf", "qgf_jacobian"])
def test_compiled_by_torch(estimator: str) -> None:
    require_right(speed_torch.compiled, estimator)


def test_what_they_lack() -> None:
    ck = small_checkpoint(dtype="float32")
    given = {"weight": WEIGHT, "denoise_steps": STEPS}
    with pytest.raises(InputError, match="qgf_jacobian only"):
        speed_jax.official_jacobian(ck, estimator="qgf", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float32 only"):
        speed_jax.sampler(ck.astype("float64"), estimator="qgf", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="estimator of the JAX peer"):
        speed_jax.sampler(ck, estimator="qgf_chain", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="estimator of the PyTorch peer"):
        speed_torch.eager(ck, estimator="qgf_chain", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="left out"):
        speed_torch.compiled(ck, estimator="bptt", **given)  # type: ignore[arg-type]
