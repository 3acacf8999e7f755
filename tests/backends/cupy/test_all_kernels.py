"""No kernel is left out: each of the sources' runs on the processor, as other tests compare it."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np

from qgf_ref.agents.registry import AGENTS
from qgf_ref.backends.cupy import training
from qgf_ref.backends.cupy.sources import FILES, FOLDER
from qgf_ref.data.windows import windows
from qgf_ref.ops.dense import DenseRule
from tests.helpers.gpu import stand_in
from tests.helpers.gpu.checks import dense_block, sampled, small
from tests.helpers.gpu.on_cpu import KERNEL
from tests.helpers.gpu.training import HYPER, transitions, update_errors


def test_every_kernel_runs(gpu: ModuleType) -> None:
    flow, obs, noise = small(rows=3)
    how: dict[str, Any] = {"weight": 0.1, "noise": noise, "denoise_steps": 2}
    for few in (True, False):
        sampled(flow, obs, few, ("qgf_covariance", "qgf_shifted"), **how)
    dense_block((2,), True, (3, 5, 4), DenseRule("gelu"), True)
    update_errors(AGENTS["qam"].having({"clip_grad": 1e-3}), {}, 1)
    data, starts = transitions(), np.arange(3)
    expected = windows(data, starts, HYPER.horizon, 0.9).astype(np.float32)
    training.DeviceArrays().windows(data, starts, HYPER.horizon, 0.9, lambda: expected)
    texts = [(FOLDER / f"{name}.cu").read_text(encoding="utf-8") for name in FILES]
    kernels = {name for text in texts for name in re.findall(KERNEL, text)}
    assert len(kernels) > 15 and set(stand_in.settings.launches) == kernels
