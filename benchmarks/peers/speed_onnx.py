"""ONNX Runtime and OpenVINO on the same ONNX graph (`onnx_sampler`): contenders for the benchmarks.

    onnxruntime  all graph optimisations; its threads do not spin between calls, as on a robot that
                 has other work to do
    openvino     latency hint, float32 (its default on some processors is bfloat16), compiled for
                 each batch that it meets

Threads: as many as the benchmark gives. Needs onnx, onnxruntime, openvino (the `peers` extra).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.onnx_sampler import Sampler
from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.threads import available_cores

Run = Callable[[Array, Array], Array]


def onnxruntime(
    checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int
) -> Run:
    """(obs (B, O), noise (B, D)) → actions (B, D). Raises InputError on what this peer lacks."""
    import onnxruntime as ort

    model = Sampler(checkpoint, estimator, weight, denoise_steps).model()
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(obs: Array, noise: Array) -> Array:
        found: Array = session.run(None, {"obs": obs, "noise": noise})[0]
        return found

    return run


def openvino(checkpoint: Checkpoint, *, estimator: str, weight: float, denoise_steps: int) -> Run:
    """As `onnxruntime`."""
    import openvino as ov

    content = Sampler(checkpoint, estimator, weight, denoise_steps).model().SerializeToString()
    core, compiled = ov.Core(), dict[int, Any]()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": available_cores(),
    }

    def run(obs: Array, noise: Array) -> Array:
        if len(obs) not in compiled:
            model = core.read_model(content)
            model.reshape({"obs": obs.shape, "noise": noise.shape})
            compiled[len(obs)] = core.compile_model(model, "CPU", settings)
        # copied: the next call writes over its output
        return np.array(compiled[len(obs)]({"obs": obs, "noise": noise})[0])

    return run
