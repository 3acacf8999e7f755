"""A port of the sampler in plain NumPy, float32, of which any line can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array

Hook = Callable[..., Any]
single = np.float32


class NumpySampler:
    """(obs, noise, weight) → a trace, or with several candidates the actions.

    lines   network_time, query_time (t, k, T); query (a, v, t); share (q); gradient (self, k, t, g)
            step (self, k, a, v, g, w); finish (a); record (trace): what stands in their place
    before  the gradient of the step before, for lines that remember it
    """

    def __init__(self, checkpoint: Checkpoint, **lines: Hook) -> None:
        self.flow: Any = checkpoint.astype("float32").guided_flow(embedding="float32")
        self.lines: dict[str, Hook] = {**LINES, **lines}
        self.T = self.flow.denoise_steps
        self.before: Any = None

    def __call__(self, obs: Array, noise: Array, weight: float) -> Any:
        line, n, w = self.lines, len(noise) // len(obs), single(weight)
        self.rows, self.before = np.repeat(obs, n, axis=0), None
        a, steps = noise.astype(single), []
        for k in range(self.T):
            t = single(k) * single(1 / self.T)
            network, query = (line[x](t, k, self.T) for x in ("network_time", "query_time"))
            v = line["velocity"](self.flow.field.forward(self.rows, a, float(network))[0])
            x = line["query"](a, v, single(query)).astype(single)
            q, cache = self.flow.critic.forward(self.rows, x)
            g = self.flow.critic.vjp(line["share"](q).astype(single), cache)
            g = line["gradient"](self, k, t, g).astype(single)
            steps.append((a, v, x, q, g))
            a = line["step"](self, k, a, v, g, w).astype(single)
        action = line["finish"](a)
        if n > 1:
            q = self.flow.critic.forward(self.rows, action)[0].min(axis=0).reshape(-1, n)
            return action.reshape(len(obs), n, -1)[np.arange(len(obs)), q.argmax(axis=1)]
        names = ("a", "v", "a1_hat", "q", "g")
        trace = {name: np.stack(x) for name, x in zip(names, zip(*steps), strict=True)}
        return line["record"]({**trace, "action": action})


def _min_share(q: Array) -> Array:
    least = q == q.min(axis=0)
    share: Array = least / least.sum(axis=0)
    return share


LINES: Mapping[str, Hook] = {
    "network_time": lambda t, k, T: t,
    "query_time": lambda t, k, T: t,
    "velocity": lambda v: v,
    "query": lambda a, v, t: np.clip(a + (1 - t) * v, -1, 1),
    "share": _min_share,
    "gradient": lambda self, k, t, g: g,
    "step": lambda self, k, a, v, g, w: a + (v + w * g) / single(self.T),
    "finish": lambda a: np.clip(a, -1, 1),
    "record": lambda trace: trace,
}
