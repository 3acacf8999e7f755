"""A GIF where rendering works, and one line on what was tried where it does not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qgf_ref.errors import InputError
from qgf_ref.evaluation import rendering
from qgf_ref.evaluation.methods import Method
from qgf_ref.evaluation.rendering import RenderingError, gif, render
from tests.evaluation.fakes import LineTask, line_checkpoint


@dataclass(frozen=True)
class Blind(LineTask):
    """Without OpenGL; or one whose library takes the process with it."""

    def make_env(self, **options: Any) -> Any:
        import os

        if os.environ["MUJOCO_GL"] == "crashes":
            os.abort()
        raise ImportError("no\nlibrary")


def test_gif(tmp_path: Path) -> None:
    frames = [np.full((6, 8, 3), 20 * i, dtype=np.uint8) for i in range(5)]
    (tmp_path / "a.gif").write_bytes(gif(frames))
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size) == (5, (8, 6))


@dataclass(frozen=True)
class Long(LineTask):
    """With a limit of 1,000 steps, of which it makes a few."""

    def make_env(self, **options: Any) -> Any:
        env = super().make_env(**options)
        env.spec = SimpleNamespace(max_episode_steps=1000)
        return env


def test_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are thinned, and every image is told."""
    told = []
    bar = SimpleNamespace(advance=lambda: told.append(1))
    monkeypatch.setattr(rendering, "progress", lambda *a, **how: nullcontext(bar))
    film = render(
        line_checkpoint(), Long(), Method(), None, tmp_path / "a.gif", seed=2, backends=("egl",)
    )
    assert (film.backend, film.seed) == ("egl", 2)
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")
    # the first, every fifth, the last
    assert len(told) == 1 + film.length // 5 + (film.length % 5 > 0)


def test_no_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "crashes")
    with pytest.raises(RenderingError) as caught:
        render(
            line_checkpoint(), Blind(), Method(), None, tmp_path / "a.gif",
            backends=("crashes", "egl"),
        )  # fmt: skip
    message = str(caught.value)
    assert "crashes (the renderer crashed, signal 6), egl (ImportError: no library)" in message
    assert "apt-get install libegl1" in message
    assert not (tmp_path / "a.gif").exists()


def test_nothing_is_rendered_for_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        render(line_checkpoint(), Blind(), Method(), None, tmp_path / "x" / "a.gif")
