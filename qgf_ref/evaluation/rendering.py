"""A rollout as an animated GIF, rendered in a process of its own.

MuJoCo chooses its OpenGL library when it is first imported, and a missing or broken one may take
the process with it: so each backend is tried in a fresh process, and failing is not fatal.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ref.agents.checkpoint import Checkpoint
from qgf_ref.arrays import Array
from qgf_ref.backends.engine import EngineLike
from qgf_ref.data.tasks import environment
from qgf_ref.errors import QGFError
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.rollouts import Policy, TaskLike, play
from qgf_ref.files import require_writable, user_path, write_atomically
from qgf_ref.progress import Progress, progress

BACKENDS = ("egl", "osmesa")
FRAMES_PER_SECOND = 20
_DEVICES = ("MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "__EGL_VENDOR_LIBRARY_FILENAMES")
"""Variables that choose what egl draws on."""
MOST_IMAGES = 200
"""Of a long episode fewer steps are drawn: without a GPU an image takes about half a second."""
_TIMEOUT = 300.0
"""Seconds without an image."""
_INSTALL = (
    "install one, e.g. on Debian or Ubuntu `apt-get install libegl1 libgl1-mesa-dri` (egl) or "
    "`apt-get install libosmesa6` (osmesa), or set MUJOCO_GL=glfw where there is a display"
)


class RenderingError(QGFError):
    """No OpenGL backend worked; the message says which were tried, why each failed, what to do."""


@dataclass(frozen=True)
class Film:
    """What was rendered: where it is, the backend, and how the episode went."""

    path: Path
    backend: str
    seed: int
    success: bool
    length: int


@dataclass
class _Filmed:
    """An environment that keeps every `stride`-th image of itself, and says so."""

    env: Any
    stride: int
    frames: list[Array]
    told: Connection
    count: int = 0

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    def reset(self, *, seed: int) -> Any:
        answer = self.env.reset(seed=seed)
        self._draw()
        return answer

    def step(self, action: Array) -> Any:
        answer = self.env.step(action)
        self.count += 1
        if self.count % self.stride == 0 or answer[2] or answer[3]:
            self._draw()
        return answer

    def _draw(self) -> None:
        self.frames.append(self.env.render())
        self.told.send(None)


def render(
    checkpoint: Checkpoint,
    task: TaskLike,
    method: Method,
    weight: float | None,
    path: Path,
    *,
    seed: int = 100_000,
    sampler: EngineLike = "numpy",
    backends: Sequence[str] | None = None,
    show: bool = False,
) -> Film:
    """Write one episode as a GIF to `path`: every second step, of long episodes fewer.

    sampler   the sampler's backend
    backends  OpenGL's, tried in this order: default MUJOCO_GL if it is set, then egl, then osmesa
    show      progress
    Raises InputError when `path` cannot be written, RenderingError when no backend works.
    """
    require_writable(path)
    path, own = user_path(path), os.environ.get("MUJOCO_GL")
    tried: list[str] = []
    for backend in dict.fromkeys(backends or ((own, *BACKENDS) if own else BACKENDS)):
        for variables in _variables(backend):
            with progress(None, "image", title=f"rendering, {backend}", show=show) as images:
                work = checkpoint, task, method, weight, seed, sampler
                answer = _in_a_process(variables, images, *work)
            if isinstance(answer, tuple):
                data, success, length = answer
                write_atomically(path, data)
                return Film(path, backend, seed, success, length)
            tried.append(f"{backend} ({answer})")
    tried = list(dict.fromkeys(tried))
    raise RenderingError(f"no GIF: MuJoCo cannot render here, tried {', '.join(tried)}; {_INSTALL}")


def gif(frames: Sequence[Array], frames_per_second: int = FRAMES_PER_SECOND) -> bytes:
    """Images (height, width, 3) uint8 as an endless GIF that rests on its last frame."""
    from PIL import Image  # matplotlib brings it

    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    pause = 1000 // frames_per_second
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=[*[pause] * (len(images) - 1), 1500],
        loop=0,
    )
    return buffer.getvalue()


def _variables(backend: str) -> list[dict[str, str | None]]:
    """The environments in which an OpenGL backend is tried: PyOpenGL's variable must name the same
    one; of egl also without the numbers of a device, which may be another machine's.
    """
    platform = backend if backend in BACKENDS else None
    variables = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": platform}
    if backend != "egl" or not any(os.environ.get(name) for name in _DEVICES):
        return [variables]
    return [variables, {**variables, **dict.fromkeys(_DEVICES)}]


def _in_a_process(
    variables: dict[str, str | None], images: Progress, *work: Any
) -> tuple[bytes, bool, int] | str:
    """The GIF and how the episode went, or on one line why there is none."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with environment(**variables):
        process = context.Process(target=_film, args=(theirs,), daemon=True)
        process.start()
    theirs.close()
    try:
        ours.send(work)  # not as an argument of the process: see qgf_ref.processes
        while ours.poll(_TIMEOUT):
            if (answer := ours.recv()) is not None:
                return answer
            images.advance()
        return f"no answer in {_TIMEOUT:.0f} s"
    except (EOFError, OSError):
        process.join()
        code = process.exitcode or 0
        return f"the renderer crashed, {'signal' if code < 0 else 'exit code'} {abs(code)}"
    finally:
        process.kill()
        process.join()
        ours.close()


def _film(connection: Connection) -> None:
    """Play one episode, render it and send the GIF, or why that failed."""
    # OpenGL libraries chatter and MuJoCo's destructors complain; what matters is in the answer
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    frames: list[Array] = []
    answer: tuple[bytes, bool, int] | str
    try:
        checkpoint, task, method, weight, seed, sampler = connection.recv()
        made = task.make_env(render_mode="rgb_array")
        limit = getattr(getattr(made, "spec", None), "max_episode_steps", None) or 0
        env = _Filmed(made, max(2, -(-limit // MOST_IMAGES)), frames, connection)
        policy = Policy.of(checkpoint, method, weight, sampler)
        episode = play([env], policy, [seed]).episodes[0]
        answer = (gif(frames), episode.success, episode.length)
    except Exception as error:  # noqa: BLE001  (each OpenGL binding raises its own kinds)
        text = " ".join(str(error).split())
        answer = f"{type(error).__name__}: {text if len(text) <= 120 else text[:119] + '…'}"
    connection.send(answer)
