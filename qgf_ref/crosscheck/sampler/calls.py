"""Calling another implementation, and refusing what is no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from qgf_ref.arrays import Array
from qgf_ref.crosscheck.errors import CrossCheckError, answer_of
from qgf_ref.crosscheck.premises import MATTERS, Arrays, another, difference, require
from qgf_ref.crosscheck.sampler.case import RecordedCase
from qgf_ref.crosscheck.sampler.probes import Probe, actor_of
from qgf_ref.crosscheck.sampler.requirements import of_chain, require_members
from qgf_ref.crosscheck.sampler.runs import free_running
from qgf_ref.crosscheck.sampler.setting import Setting
from qgf_ref.crosscheck.sampler.subject import Compared, row_numbers
from qgf_ref.errors import InputError
from qgf_ref.interop.trace_file import STEPWISE, recorded_trace

Sampler = Callable[..., Any]
"""(obs (B, O), noise (B·n, D), weight) → action (B, D), or a mapping of the trace schema. Of an
agent without a flow: (obs, noise, z (T, B, D)), or (obs, noise) of one that draws nothing on its
way; one that cannot be given z returns its own in the mapping.
"""


def array_of(
    call: Callable[[], Any],
    shape: tuple[int, ...],
    what: str,
    networks: Compared,
    name: str = "action",
) -> Array:
    """What the call returns, of this shape, (B, H, A) for (B, D), and (B,) of a critic that is no
    ensemble. Raises CrossCheckError when it raises, or returns something else. what: the call, for
    the message; name: the quantity.
    """
    answer = answer_of(call, "your function", f"on {what}")
    if name == "q" and shape[0] == 1 and np.shape(answer) == shape[1:]:
        answer = np.reshape(answer, shape)
    return _numbers(answer if name == "q" else flattened(answer, networks), shape, what)


def _numbers(answer: Any, shape: tuple[int, ...] | None, what: str) -> Array:
    try:
        array = np.array(answer)  # a copy: the next answer may come in the same array
    except (TypeError, ValueError, RuntimeError) as error:
        raise CrossCheckError(f"on {what}, what came back is no array: {error}") from error
    wrong = array.dtype.kind != "f" or (shape is not None and array.shape != shape)
    if wrong:
        raise CrossCheckError(
            f"on {what}, floats of shape {shape} were expected, {array.dtype} of shape "
            f"{array.shape} came back"
        )
    if not np.isfinite(array).all():
        raise CrossCheckError(
            f"on {what}, {int((~np.isfinite(array)).sum())} values are not finite"
        )
    return array


def called(
    fn: Sampler, networks: Compared, probe: Probe, on: str, precision: str | None = None
) -> RecordedCase:
    """The run of `fn` on a probe, recorded; precision: of its networks, if less than float32.

    Raises CrossCheckError when it is none.
    """
    rows, D = len(probe.obs), networks.flat_action_dim
    guided = "" if probe.chained else f", weight {probe.weight:g}"
    what = f"{probe.why} ({rows} observations{guided})"
    answer = answer_of(partial(fn, *probe.arguments), f"on {on}, your sampler", f"with {what}")
    parts = dict(answer) if isinstance(answer, Mapping) else {"action": answer}
    if "action" not in parts:
        raise CrossCheckError(
            f"your sampler returned a mapping without 'action': {', '.join(map(str, parts))}"
        )
    parts["action"] = _numbers(flattened(parts["action"], networks), (rows, D), what)
    given = {
        name: _numbers(flattened(parts[name], networks, name), None, f"{what}, {name}")
        for name in ("action", *STEPWISE)
        if parts.get(name) is not None
    }
    T, members = networks.options.denoise_steps, networks.target_critic.ensemble or 1
    actor = actor_of(networks)
    if actor is not None:
        T = actor.chain.steps(T)
    notes = _in_schema_order(given, T, members, probe.noise.shape)
    z = parts.get("z", probe.z)
    try:
        trace = recorded_trace(
            {**given, "obs": probe.obs, "noise": probe.noise, "z": z},
            {} if precision is None else {"precision": precision},
            source=what,
        )
        if actor is None:
            require_members(trace, networks)
        else:
            trace = of_chain(trace, actor, networks.options.denoise_steps)
    except InputError as error:
        raise CrossCheckError(str(error)) from error
    if trace.steps not in (None, T):
        raise CrossCheckError(
            f"on {what}, {trace.steps} denoising steps came back; the checkpoint says {T}"
        )
    return RecordedCase(trace, probe.weight, probe.name, notes=notes)


def _in_schema_order(
    given: dict[str, Array], T: int, members: int, noise: tuple[int, ...]
) -> tuple[str, ...]:
    """Put stepwise arrays into the schema's order of axes where one other order alone fits, and
    leave out a last state. Says what was done.
    """
    says = []
    for name in (n for n in STEPWISE if n in given and given[n].ndim == 3):
        array, axes = given[name], "TEB" if name == "q" else "TBD"
        wanted = (T, members, noise[0]) if name == "q" else (T, *noise)
        if name == "a" and array.shape == (T + 1, *noise):
            given[name] = array[:T]
            says.append("a holds T + 1 states: write a[:T]")
        orders = permutations(range(3))
        fitting = [o for o in orders if tuple(array.shape[i] for i in o) == wanted]
        if array.shape != wanted and len(fitting) == 1:
            order = fitting[0]
            given[name] = array.transpose(order)
            written = ", ".join(axes[order.index(i)] for i in range(3))
            how = "batch-major, " if written.startswith("B") else ""
            says.append(
                f"{name} was recorded {how}as ({written}), and is read as ({', '.join(axes)}): "
                f"write np.transpose({name}, {order})"
            )
    return tuple(says)


def flattened(answer: Any, networks: Compared, name: str = "action") -> Any:
    """(…, H, A) → (…, H·A)."""
    shape, axes = np.shape(answer), 2 if name == "action" else 3
    chunk = (networks.horizon, networks.action_dim)
    if name == "q" or len(shape) != axes + 1 or shape[-2:] != chunk:
        return answer
    return np.reshape(answer, (*shape[:-2], -1))


def require_premises(
    fn: Sampler,
    networks: Compared,
    setting: Setting,
    tried: Sequence[Probe],
    cases: Sequence[RecordedCase],
    on: str,
) -> None:
    """Raise CrossCheckError unless the sampler's answers are decided by its inputs.

    Every call again; the first also with other noise and other observations, which must matter to
    the sampler if they do to the reference.
    """

    def call(probe: Probe, inputs: Arrays) -> dict[str, Array]:
        asked = replace(probe, obs=inputs["observations"], noise=inputs["noise"])
        trace = called(fn, networks, asked, on).trace
        return {"action": trace.action, **trace.stepwise}

    def reference(inputs: Arrays) -> Array:
        asked = replace(tried[0], obs=inputs["observations"], noise=inputs["noise"])
        return free_running(setting.port(), asked.inputs)["action"]

    if any(case.drew(probe.z) for probe, case in zip(tried, cases, strict=True)):
        return  # it cannot be asked again
    for probe, case in zip(tried, cases, strict=True):
        inputs = {"observations": probe.obs, "noise": probe.noise}
        answers = {"action": case.trace.action, **case.trace.stepwise}
        require("your sampler", partial(call, probe), inputs, answers)
    probe, answers = tried[0], {"action": cases[0].trace.action}
    inputs = {"observations": probe.obs, "noise": probe.noise}
    others = another(inputs, row_numbers(networks))
    right = reference(inputs)
    moves = {n: difference(reference({**inputs, n: x}), right) > MATTERS for n, x in others.items()}
    require("your sampler", partial(call, probe), inputs, answers, others, moves.get)


def require_drawn(
    fn: Sampler, networks: Compared, probe: Probe, case: RecordedCase, on: str
) -> None:
    """Raise CrossCheckError where a sampler with an unknown mistake ignores the z that it is given,
    and does not say which it drew.
    """
    if probe.z is None or case.drew(probe.z):
        return
    moved = called(fn, networks, replace(probe, z=-probe.z), on).trace.action
    if difference(moved, case.trace.action) == 0:
        raise CrossCheckError(
            "your sampler does not depend on the z given: with another it answers the same. Add "
            "that noise in its steps, or return what it drew: {'action': …, 'z': …}"
        )
