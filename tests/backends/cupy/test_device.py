"""Without CuPy, driver, GPU or cuBLAS: one clear sentence each; and nothing without need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qgf_ref.backends.cupy import device
from qgf_ref.backends.cupy import kernels as device_blocks
from qgf_ref.backends.engine import Engine, backend_named
from qgf_ref.errors import InputError
from tests.helpers.gpu import stand_in


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
    ):
        backend_named.cache_clear()
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert "needs an NVIDIA GPU with its driver" in said and "Traceback" not in said, words


def test_nothing_of_the_callers_state_is_changed(gpu: ModuleType) -> None:
    """Work is on a stream and a handle of our own; the math mode is set on that alone."""
    here = device.device()
    assert here is device.device() and here._handle == 11
    assert not here.is_own(1.0) and here.is_own(here.empty(3, "float32"))
    assert device_blocks.device_kernels() is device_blocks.device_kernels()
    free, total = here.memory()
    assert 0 < free <= total == stand_in.settings.free
