"""The guided sampler as one ONNX graph, its gradients explicit operations: as one deploys it.

The T steps are unrolled, weights are shared among them; the observation's share of the first layers
is computed once, the time's is a constant, and a product with the action needs the action's columns
alone. Both directions have their own constant weights, which runtimes repack as they like.
GELU's tanh form is z·sigmoid(2u), and its derivative takes the same sigmoid. Needs `onnx`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.errors import InputError, unknown_name
from qgf_ref.nets.mlp import MLPParams

ESTIMATORS = ("none", "ood", "qgf", "qgf_jacobian", "bptt")
OPSET = 20
CUBIC, SLOPE = 0.044715, 2 * math.sqrt(2 / math.pi)
"""GELU by tanh: z·sigmoid(SLOPE·(z + CUBIC·z³))."""


class Graph:
    """Operations in order; values are names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, operation: str, *inputs: Any, **attributes: Any) -> str:
        """The output of one more operation; inputs are names, numbers and arrays."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        out = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, names, [out], out, **attributes))
        return out

    def constant(self, value: Any) -> str:
        """A number or array as float32 (indices as they are), once for each value."""
        array = np.asarray(value)
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        key = f"c{hash((array.shape, array.dtype.str, array.tobytes())):x}"
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, key)
        return key


class Block(NamedTuple):
    """One layer's constants; kernel_t its transpose, scale None where there is no LayerNorm."""

    kernel: Array
    kernel_t: Array
    bias: Array
    scale: Array | None
    offset: Array | None


class Saved(NamedTuple):
    """What a layer's vjp needs: the activation's derivative, the normalised z, 1/σ."""

    slope: str
    normalised: str | None
    inverse: str | None


class Network:
    """An MLP in a graph: blocks with LayerNorm and GELU, the last one plain.

    shares: the first layer without the action's columns, as values already in the graph
    columns: of the action in the first layer's input
    """

    def __init__(self, graph: Graph, params: MLPParams, columns: slice, eps: float) -> None:
        self.graph, self.eps = graph, eps
        self.ensemble = params.ensemble is not None
        self.first = params.layers[0].kernel
        self.columns = columns
        blocks = []
        for i, layer in enumerate(params.layers):
            kernel = layer.kernel[..., columns, :] if i == 0 else layer.kernel
            assert layer.bias is not None
            rows = [self._row(x) for x in (layer.scale, layer.offset)]
            bias = layer.bias[:, None] if self.ensemble else layer.bias
            blocks.append(Block(kernel, np.swapaxes(kernel, -1, -2), bias, *rows))
        self.blocks = blocks

    def _row(self, x: Array | None) -> Array | None:
        """With an axis for the batch: an ensemble's vectors (E, F) act on features (E, B, F)."""
        return x[:, None] if x is not None and self.ensemble else x

    def share(self, x: Any, columns: slice) -> str:
        """What other columns of the input contribute to the first layer."""
        return self.graph("MatMul", x, self.first[..., columns, :])

    def forward(self, a: str, share: str, *, save: bool) -> tuple[str, list[Saved]]:
        """The output for actions a; share: of the rest of the input, with the bias."""
        graph, saved, x, bias = self.graph, list[Saved](), a, share
        for i, block in enumerate(self.blocks):
            z = graph("Add", graph("MatMul", x, block.kernel), bias)
            if i == len(self.blocks) - 1:
                break
            bias = self.graph.constant(self.blocks[i + 1].bias)
            normalised, inverse = None, None
            if block.scale is not None:
                centred = graph("Sub", z, graph("ReduceMean", z, np.array([-1])))
                square = graph("ReduceMean", graph("Mul", centred, centred), np.array([-1]))
                inverse = graph("Reciprocal", graph("Sqrt", graph("Add", square, self.eps)))
                normalised = graph("Mul", centred, inverse)
                z = graph("Add", graph("Mul", normalised, block.scale), block.offset)
            squared = graph("Mul", z, z)
            inner = graph("Mul", z, graph("Add", graph("Mul", squared, SLOPE * CUBIC), SLOPE))
            gate = graph("Sigmoid", inner)
            x = graph("Mul", z, gate)
            if save:
                rise = graph("Add", graph("Mul", squared, 3 * SLOPE * CUBIC), SLOPE)
                rest = graph("Mul", graph("Mul", x, graph("Sub", 1.0, gate)), rise)
                saved.append(Saved(graph("Add", gate, rest), normalised, inverse))
        return z, saved

    def vjp(self, saved: list[Saved], y_bar: str) -> str:
        """The cotangent of the action."""
        graph = self.graph
        for i in reversed(range(len(self.blocks))):
            block = self.blocks[i]
            if i < len(self.blocks) - 1:
                y_bar = graph("Mul", y_bar, saved[i].slope)
                if block.scale is not None:
                    y_bar = graph("Mul", y_bar, block.scale)
                    mean = graph("ReduceMean", y_bar, np.array([-1]))
                    along = graph(
                        "ReduceMean", graph("Mul", y_bar, saved[i].normalised), np.array([-1])
                    )
                    across = graph("Mul", saved[i].normalised, along)
                    y_bar = graph("Sub", graph("Sub", y_bar, mean), across)
                    y_bar = graph("Mul", y_bar, saved[i].inverse)
            y_bar = graph("MatMul", y_bar, block.kernel_t)
        return y_bar


class Sampler:
    """Builds the graph of a checkpoint with one estimator and weight.

    Raises InputError on an estimator, activation or order of layers that this peer lacks.
    """

    def __init__(self, checkpoint: Checkpoint, estimator: str, weight: float, steps: int) -> None:
        if estimator not in ESTIMATORS:
            raise unknown_name("estimator of the ONNX peer", estimator, ESTIMATORS)
        options = checkpoint.options
        if options.activation != "gelu":
            raise InputError(f"takes gelu networks only, got {options.activation}")
        if checkpoint.dtype != "float32":
            raise InputError(f"takes float32 only, got {checkpoint.dtype}")
        self.estimator, self.weight, self.T = estimator, weight, steps
        self.minimum = options.q_aggregation == "min"
        self.obs_dim = checkpoint.describe()["obs_dim"]
        self.action_dim = checkpoint.describe()["flat_action_dim"]
        self.E = checkpoint.target_critic.ensemble or 1
        self.graph = Graph()
        eps, end = options.mlp.layer_norm_eps, self.obs_dim + self.action_dim
        actions = slice(self.obs_dim, end)
        self.policy = Network(self.graph, checkpoint.policy, actions, eps)
        self.critic = Network(self.graph, checkpoint.target_critic, actions, eps)
        # float32 on the way, as the official code has it
        k = np.arange(steps, dtype=np.float32)
        frequencies = np.exp(-math.log(10000) * np.arange(8, dtype=np.float32) / 8)
        angles = (k / np.float32(steps) * 10000)[:, None] * frequencies
        embeddings = np.concatenate([np.cos(angles), np.sin(angles)], -1, dtype=np.float32)
        by_time = embeddings @ checkpoint.policy.layers[0].kernel[end:]
        observed = self.policy.share("obs", slice(self.obs_dim))
        self.shares = [
            self.graph("Add", observed, row + checkpoint.policy.layers[0].bias) for row in by_time
        ]
        observed = self.critic.share("obs", slice(self.obs_dim))
        self.critic_share = self.graph("Add", observed, self.critic.blocks[0].bias)

    def model(self) -> Any:
        """The ONNX model: obs (B, O), noise (B, D) → action (B, D), float32."""
        graph, a = self.graph, "noise"
        for k in range(self.T):
            v, saved = self.velocity(a, k, save=self.estimator in ("qgf_jacobian", "bptt"))
            move = v
            if self.estimator != "none":
                guided = graph("Mul", self.gradient(a, v, saved, k), self.weight)
                move = graph("Add", v, guided)
            a = graph("Add", a, graph("Mul", move, 1 / self.T))
        graph.nodes.append(helper.make_node("Identity", [self.bound(a)], ["action"]))
        value = helper.make_tensor_value_info
        whole = helper.make_graph(
            graph.nodes,
            "sampler",
            [
                value("obs", TensorProto.FLOAT, ["B", self.obs_dim]),
                value("noise", TensorProto.FLOAT, ["B", self.action_dim]),
            ],
            [value("action", TensorProto.FLOAT, ["B", self.action_dim])],
            list(graph.constants.values()),
        )
        model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 10  # the newest that the pinned runtimes read
        onnx.checker.check_model(model)
        return model

    def velocity(self, a: str, k: int, *, save: bool) -> tuple[str, list[Saved]]:
        """v (B, D) at step k."""
        return self.policy.forward(a, self.shares[k], save=save)

    def gradient(self, a: str, v: str, saved: list[Saved], k: int) -> str:
        """G (B, D) of the estimator."""
        graph = self.graph
        if self.estimator == "ood":
            return self.critic_gradient(a)
        if self.estimator == "bptt":
            return self.through_the_rollout(a, v, saved, k)
        rest = 1 - k / self.T
        estimate = graph("Add", a, graph("Mul", v, rest))
        g = self.critic_gradient(self.bound(estimate))
        if self.estimator == "qgf":
            return g
        g = graph("Mul", g, self.inside(estimate))
        return graph("Add", g, graph("Mul", self.policy.vjp(saved, g), rest))

    def through_the_rollout(self, a: str, v: str, saved: list[Saved], k: int) -> str:
        """∇ of Q at the end of the Euler steps from k."""
        graph, kept = self.graph, [saved]
        x = graph("Add", a, graph("Mul", v, 1 / self.T))
        for j in range(k + 1, self.T):
            v, saved = self.velocity(x, j, save=True)
            kept.append(saved)
            x = graph("Add", x, graph("Mul", v, 1 / self.T))
        g = graph("Mul", self.critic_gradient(self.bound(x)), self.inside(x))
        for saved in reversed(kept):
            g = graph("Add", g, graph("Mul", self.policy.vjp(saved, g), 1 / self.T))
        return g

    def critic_gradient(self, x: str) -> str:
        """∇Q (B, D), of the members' minimum or mean."""
        graph = self.graph
        q, saved = self.critic.forward(x, self.critic_share, save=True)
        if self.minimum:  # the first member that attains it
            which = graph("ArgMin", q, axis=0, keepdims=1)
            members = np.arange(self.E).reshape(-1, 1, 1)
            q_bar = graph("Cast", graph("Equal", which, members), to=TensorProto.FLOAT)
        else:
            q_bar = graph("Add", graph("Mul", q, 0.0), 1 / self.E)
        return graph("ReduceSum", self.critic.vjp(saved, q_bar), np.array([0]), keepdims=0)

    def bound(self, x: str) -> str:
        """To ±1."""
        return self.graph("Clip", x, -1.0, 1.0)

    def inside(self, x: str) -> str:
        """1 where |x| ≤ 1, else 0."""
        return self.graph("Cast", self.graph("LessOrEqual", self.graph("Abs", x), 1.0),
                          to=TensorProto.FLOAT)  # fmt: skip
