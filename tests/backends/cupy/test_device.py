"""Without CuPy, driver, GPU or cuBLAS: one clear sentence each; and nothing without need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qgf_ref import sample
from qgf_ref.backends.cupy import cublas, device
from qgf_ref.backends.cupy import kernels as device_blocks
from qgf_ref.backends.cupy import sampler as samplers
from qgf_ref.backends.engine import Engine, backend_named
from qgf_ref.errors import InputError
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import FLOAT64, small


class CUDARuntimeError(RuntimeError):
    """As CuPy's, with its message where there is no driver."""

    def __init__(self, *_: Any) -> None:
        text = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime"
        super().__init__(text)


def failing() -> Any:
    raise CUDARuntimeError()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"driverGetVersion": lambda: 0}, "needs an NVIDIA GPU with its driver.*numba, numpy"),
        ({"driverGetVersion": failing}, "CUDA does not answer"),
        ({"driverGetVersion": lambda: 12040}, r"driver is for CUDA 12.4, CuPy for 13.0.*cuda12x"),
        (
            {"driverGetVersion": lambda: 11080, "runtimeGetVersion": lambda: 11080},
            "driver is for CUDA 11.8",
        ),
        ({"getDeviceCount": lambda: 0}, "finds no GPU"),
        ({"getDeviceCount": failing}, "finds no GPU"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    gpu: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(gpu.cuda.runtime, name, value)
    with pytest.raises(InputError, match=message) as raised:
        Engine.of("cupy")
    assert "\n" not in str(raised.value)


def test_without_cublas(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = type("Lazy", (SimpleNamespace,), {"cublas": property(lambda self: failing_import())})
    monkeypatch.setattr(gpu, "cuda", lazy(**vars(gpu.cuda)))
    with pytest.raises(InputError, match=r"needs NVIDIA's cuBLAS.*cupy-cuda13x\[ctk\]"):
        device.device()


def test_products_that_can_be_captured(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CuPy's own functions refuse to be; where cuBLAS's are not found, there is no graph."""
    flow, obs, noise = small(rows=3)
    monkeypatch.setattr(samplers.DeviceSampler, "few_rows", False)
    expected = sample(flow, obs, weight=0.1, noise=noise)
    for found in (True, False):
        if not found:
            monkeypatch.setattr(cublas, "loaded", failing_load)
            device._device.cache_clear()
            samplers.device_sampler.samplers.clear()
            samplers.device_sampler.networks.clear()
        for _ in range(3):
            got = sample(flow, obs, weight=0.1, noise=noise, backend="cupy")
            np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
        (sampler,) = samplers.device_sampler.samplers.values()
        (ready,) = sampler._ready.values()
        assert (ready.graph is not None) == found
        said = capsys.readouterr().err
        assert said.count("no CUDA graph (NotImplementedError: calling cuBLAS") == (not found)


def failing_load(module: Any) -> Any:
    raise OSError("it lies elsewhere")


def test_a_status_of_cublas_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="cuBLAS answers with status 13"):
        cublas._require_done(13)


def test_more_shared_memory_than_at_first(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is opted in when it first needs to be: not at its first start, with few rows."""
    flow, obs, noise = small(rows=16, hidden=(150,), steps=1)
    for rows in (1, 16):
        expected = sample(flow, obs[:rows], weight=0.1, noise=noise[:rows])
        got = sample(flow, obs[:rows], weight=0.1, noise=noise[:rows], backend="cupy")
        np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT64)
    assert set(stand_in.settings.launches) == {"run_program"}


def failing_import() -> Any:
    raise ImportError('Failure finding "libcublasLt.so.13"\nand so on')


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r"needs CuPy, which cannot be imported.*pip install"):
        device.cupy()


def test_importing_the_package_imports_no_cupy(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise SystemExit('imported')")
    lines = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})",
        "import qgf_ref, qgf_ref.cli.main",
        "from qgf_ref.backends.engine import Engine, backend_names",
        "Engine.of('numpy'), backend_names()",
    )
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True)


def test_the_command_line_answers(
    gpu: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from qgf_ref.cli.main import main

    monkeypatch.setattr(gpu.cuda.runtime, "driverGetVersion", lambda: 0)
    for words in (
        ["trace", "--input", "i.npz", "--out", "o.npz", "--weight", "1", "--backend", "cupy"],
        ["evaluate", "--backend", "cupy"],
        ["bench", "--backend", "cupy", "--smoke", "--out", str(tmp_path / "b")],
        ["audit", "--backend", "cupy", "--rows", "2", "--out", str(tmp_path / "a")],
        ["train", "cube-single-play-singletask-task1-v0", "--backend", "cupy"],
        ["study", "weights", "--backend", "cupy", "--out", str(tmp_path / "s")],
    ):
        backend_named.cache_clear()
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert "needs an NVIDIA GPU with its driver" in said and "Traceback" not in said, words


def test_nothing_of_the_callers_state_is_changed(gpu: ModuleType) -> None:
    """Work is on a stream and a handle of our own; the math mode is set on that alone."""
    before = gpu.cuda.get_current_stream()
    here = device.device()
    assert here is device.device() and here.cublas._handle == 11
    with pytest.raises(ZeroDivisionError), here.working():
        assert gpu.cuda.get_current_stream() is here.stream is not before
        raise ZeroDivisionError
    assert gpu.cuda.get_current_stream() is before
    assert not here.is_own(1.0) and here.is_own(here.empty(3, "float32"))
    assert device_blocks.device_kernels() is device_blocks.device_kernels()
    free, total = here.memory()
    assert 0 < free <= total == stand_in.settings.free
