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
for runtime in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(runtime)

from benchmarks.peers import onnx_sampler, speed_jax, speed_onnx, speed_torch  # noqa: E402

STEPS, WEIGHT = 5, 0.3


def require_right(factory: Factory, estimator: str, aggregation: str = "min") -> None:
    ck = small_checkpoint(aggregation=aggregation)
    reference = Reference.of(ck, estimator, WEIGHT, STEPS, 0)
    run = factory(ck.astype("float32"), estimator=estimator, weight=WEIGHT, denoise_steps=STEPS)
    for batch in (3, 7):
        obs, noise = reference.inputs(ck, batch, "float32", 0)
        reference.require(factory.__name__, run(obs, noise), f"batch {batch}")  # type: ignore[attr-defined]


FACTORIES = (speed_jax.sampler, speed_torch.eager, speed_onnx.onnxruntime, speed_onnx.openvino)
CASES = [
    pytest.param(
        *(factory, estimator),
        id=f"{factory.__name__}-{estimator}",
        # half a minute of compiling
        marks=[pytest.mark.slow] * (factory is speed_onnx.openvino and estimator == "bptt"),
    )
    for factory in FACTORIES
    for estimator in speed_torch.ESTIMATORS
]


@pytest.mark.parametrize(("factory", "estimator"), CASES)
def test_they_compute_the_sampler(factory: Factory, estimator: str) -> None:
    require_right(factory, estimator)


@pytest.mark.parametrize(
    "factory",
    [
        *(speed_jax.sampler, speed_jax.official_jacobian, speed_torch.eager),
        *(speed_onnx.onnxruntime, speed_onnx.openvino),
    ],
)
def test_with_the_mean_of_the_critics(factory: Factory) -> None:
    require_right(factory, "qgf_jacobian", "mean")


def test_the_official_jacobian() -> None:
    require_right(speed_jax.official_jacobian, "qgf_jacobian")


def test_the_onnx_graph_is_plain() -> None:
    """Standard operations only, the batch free, weights once for all steps."""
    ck = small_checkpoint(dtype="float32")
    few, many = (onnx_sampler.Sampler(ck, "qgf", WEIGHT, steps).model() for steps in (2, 8))
    assert {node.domain for node in many.graph.node} == {""}
    assert [each.name for each in many.graph.input] == ["obs", "noise"]
    assert many.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
    kernels = [sum(len(c.dims) > 1 for c in model.graph.initializer) for model in (few, many)]
    # the 6 steps more have a row of the time's share each
    assert kernels[1] <= kernels[0] + 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, on itself
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")  # once a process
@pytest.mark.parametrize(
    ("factory", "estimator"),
    [
        (speed_torch.compiled, "qgf"),
        (speed_torch.compiled, "qgf_jacobian"),
        (speed_torch.autotuned, "qgf"),
    ],
)
def test_compiled_by_torch(factory: Factory, estimator: str) -> None:
    require_right(factory, estimator)


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
    with pytest.raises(InputError, match="estimator of the ONNX peer"):
        speed_onnx.onnxruntime(ck, estimator="qgf_chain", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float32 only"):
        speed_onnx.openvino(ck.astype("float64"), estimator="qgf", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="left out"):
        speed_torch.compiled(ck, estimator="bptt", **given)  # type: ignore[arg-type]
