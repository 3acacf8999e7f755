"""Slices: which serves which update, how many are alive, and that loading happens meanwhile."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from qgf_ref import InputError
from qgf_ref.data.slices import SliceStream, slice_files
from qgf_ref.data.windows import Transitions
from qgf_ref.files import read_npz, write_npz

ROWS = 10
SLICE_BYTES = 8 * ROWS * (3 + 3 + 2 + 1 + 1 + 1)


def transitions(value: float) -> Transitions:
    wide, action, column = (np.full((ROWS, n), value) for n in (3, 2, 1))
    return Transitions(wide, wide.copy(), action, *(column[:, 0].copy() for _ in range(3)))


class Loader:
    """Slice number n is full of n. Counts the slices alive; holds back or breaks the given ones."""

    def __init__(self, held: int | None = None) -> None:
        self.held = held
        self.gate = threading.Event()
        self.begun = [threading.Event() for _ in range(10)]
        self.loads: list[int] = []
        self.threads: set[int] = set()
        self.references: list[weakref.ref[Transitions]] = []
        self.most_alive = 0
        self.broken: dict[int, Exception] = {}

    def __call__(self, path: Path) -> Transitions:
        number = int(path.stem)
        self.loads.append(number)
        self.threads.add(threading.get_ident())
        self.begun[number].set()
        if number == self.held:
            assert self.gate.wait(10), "the test never opened the gate"
        if number in self.broken:
            raise self.broken.pop(number)
        loaded = transitions(number)
        self.references.append(weakref.ref(loaded))
        self.most_alive = max(self.most_alive, self.alive)
        return loaded

    @property
    def alive(self) -> int:
        return sum(reference() is not None for reference in self.references)


def paths(count: int) -> list[Path]:
    return [Path(f"{n}.npz") for n in range(count)]


def number(data: Transitions) -> int:
    return int(data.rewards[0])


def official_order(count: int, every: int, updates: int) -> list[int]:
    """The official training loop, literally: swap before the update when step % every == 0."""
    current, served = 0, []
    for step in range(1, updates + 1):
        if step % every == 0:
            current += 1
            if current == count:
                current = 0
        served.append(current)
    return served


@pytest.mark.parametrize(("count", "every"), [(3, 4), (4, 1), (2, 5), (1, 3), (5, 100)])
def test_serves_what_the_official_loop_serves(count: int, every: int) -> None:
    load = Loader()
    with SliceStream(paths(count), load, every) as stream:
        served = [number(stream.at(update)) for update in range(1, 41)]
    assert served == official_order(count, every, 40)


def test_the_first_slice_serves_one_update_less() -> None:
    with SliceStream(paths(3), Loader(), 1000) as stream:
        assert [stream.index(n) for n in (1, 999, 1000, 1999, 2000, 2999, 3000)] == [
            0, 0, 1, 1, 2, 2, 0,
        ]  # fmt: skip


def test_at_most_two_slices_are_alive() -> None:
    load = Loader()
    with SliceStream(paths(4), load, 3) as stream:
        for update in range(1, 40):
            data = stream.at(update)
            assert load.alive <= 2
            assert stream.resident_bytes <= 2 * SLICE_BYTES
        assert load.most_alive == 2
        assert stream.peak_bytes == 2 * SLICE_BYTES
        assert number(data) == 13 % 4
    del data
    gc.collect()
    assert load.alive == 0
    assert stream.resident_bytes == 0
    assert len(load.threads) == 1
    assert threading.get_ident() not in load.threads


def test_two_slices_also_when_the_stream_jumps() -> None:
    load, rng = Loader(), np.random.default_rng(0)
    with SliceStream(paths(5), load, 3) as stream:
        for update in rng.integers(1, 60, size=80):
            data = stream.at(int(update))
            assert number(data) == (update // 3) % 5
            assert load.alive <= 2
        assert load.most_alive == 2


def test_a_caller_that_keeps_the_previous_slice_delays_the_next() -> None:
    load = Loader()
    with SliceStream(paths(5), load, 2) as stream:
        first = stream.at(1)
        stream.at(2)
        stream.at(3)
        assert load.loads == [0, 1]  # the third would be one too many
        assert stream.resident_bytes == 2 * SLICE_BYTES
        assert number(first) == 0
        del first
        stream.at(3)
        assert load.begun[2].wait(10)


def test_the_next_slice_loads_while_this_one_serves() -> None:
    load = Loader(held=1)
    with SliceStream(paths(3), load, 10) as stream:
        for update in range(1, 10):
            assert number(stream.at(update)) == 0  # returns although the load of 1 stands still
        assert load.begun[1].wait(10)
        assert stream.resident_bytes == SLICE_BYTES
        served: list[int] = []
        swap = threading.Thread(target=lambda: served.append(number(stream.at(10))))
        swap.start()
        swap.join(0.1)
        assert swap.is_alive()  # now there is nothing to do but wait
        load.gate.set()
        swap.join(10)
        assert served == [1]
    assert load.loads[:2] == [0, 1]


def test_a_jump_waits_for_the_load_under_way_and_drops_it() -> None:
    load = Loader(held=1)
    with SliceStream(paths(5), load, 10) as stream:
        stream.at(1)
        assert load.begun[1].wait(10)
        threading.Timer(0.05, load.gate.set).start()
        assert number(stream.at(35)) == 3
        assert load.most_alive <= 2


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InputError("lacks rewards"), InputError, r"cannot load slice 1\.npz: lacks rewards"),
        (FileNotFoundError(2, "No such file"), InputError, r"slice 1\.npz: No such file"),
        (MemoryError(), InputError, r"slice 1\.npz does not fit in memory"),
        (KeyError("x"), RuntimeError, r"loading slice 1\.npz failed: KeyError: 'x'"),
    ],
)
def test_an_error_surfaces_at_the_swap(
    error: Exception, kind: type[Exception], message: str
) -> None:
    load = Loader()
    load.broken[1] = error
    with SliceStream(paths(3), load, 2) as stream:
        assert number(stream.at(1)) == 0
        assert load.begun[1].wait(10)
        with pytest.raises(kind, match=message):
            stream.at(2)
        assert stream.resident_bytes <= 2 * SLICE_BYTES
        assert number(stream.at(2)) == 1  # the file has been mended
        assert number(stream.at(4)) == 2


def test_an_error_of_the_first_slice() -> None:
    load = Loader()
    load.broken[2] = InputError("is empty")
    with (
        SliceStream(paths(3), load, 2) as stream,
        pytest.raises(InputError, match=r"2\.npz: is empty"),
    ):
        stream.at(4)


def test_an_error_of_a_slice_that_is_not_needed_stays_unseen() -> None:
    load = Loader()
    load.broken[1] = InputError("is empty")
    with SliceStream(paths(4), load, 2) as stream:
        stream.at(1)
        assert load.begun[1].wait(10)
        assert stream.resident_bytes == SLICE_BYTES
        assert number(stream.at(6)) == 3


def test_a_resumed_run_is_served_the_same() -> None:
    with SliceStream(paths(3), Loader(), 4) as stream:
        whole = [number(stream.at(update)) for update in range(1, 31)]
    for stop in (1, 4, 11, 12, 29):
        with SliceStream(paths(3), Loader(), 4) as stream:
            assert [number(stream.at(u)) for u in range(stop, 31)] == whole[stop - 1 :]
        with SliceStream(paths(3), Loader(), 4) as stream:  # back to an earlier update
            stream.at(30)
            assert [number(stream.at(u)) for u in range(stop, 31)] == whole[stop - 1 :]


def test_a_single_file_is_read_once() -> None:
    load = Loader()
    with SliceStream(paths(1), load, 2) as stream:
        first = stream.at(1)
        assert all(stream.at(update) is first for update in range(2, 20))
    assert load.loads == [0]
    assert stream.peak_bytes == SLICE_BYTES


def test_shared_memory_counts_once() -> None:
    def load(_: Path) -> Transitions:
        states = np.zeros((ROWS + 1, 3))
        own = np.zeros(ROWS)
        return Transitions(states[:-1], states[1:], np.zeros((ROWS, 2)), own, own, own)

    with SliceStream(paths(1), load, 2) as stream:
        stream.at(1)
        assert stream.resident_bytes == 8 * ((ROWS + 1) * 3 + ROWS * 2 + ROWS)


def test_closing_waits_for_the_load_and_drops_everything() -> None:
    load = Loader(held=1)
    stream = SliceStream(paths(3), load, 5)
    stream.at(1)
    assert load.begun[1].wait(10)
    threading.Timer(0.05, load.gate.set).start()
    stream.close()
    stream.close()
    gc.collect()
    assert load.alive == 0
    with pytest.raises(InputError, match="closed"):
        stream.at(1)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="at least one file"):
        SliceStream([], Loader(), 5)
    with pytest.raises(InputError, match="at least 1, got 0"):
        SliceStream(paths(2), Loader(), 0)
    with (
        SliceStream(paths(2), Loader(), 5) as stream,
        pytest.raises(InputError, match="counted from 1, got 0"),
    ):
        stream.at(0)


def test_real_files(tmp_path: Path) -> None:
    for name in ("b-001", "b-000", "b-000-val", "b-002"):
        fill = 9.0 if name.endswith("val") else float(name[-1])
        write_npz(tmp_path / f"{name}.npz", dict(vars(transitions(fill))))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.npz").write_text("x")
    (tmp_path / "folder.npz").mkdir()
    files = slice_files(tmp_path)
    assert [f.name for f in files] == ["b-000.npz", "b-001.npz", "b-002.npz"]

    def load(path: Path) -> Transitions:
        return Transitions(**read_npz(path, ("rewards",)))

    with SliceStream(files, load, 4) as stream:
        served = [number(stream.at(update)) for update in range(1, 30)]
        assert served == official_order(3, 4, 29)
        (tmp_path / "b-002.npz").write_bytes(b"not a zip")
        with pytest.raises(InputError, match=r"cannot load slice .*b-002\.npz.*readable npz"):
            stream.at(8)


def test_directories_without_slices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing; expected a directory of slices"):
        slice_files(tmp_path / "none")
    with pytest.raises(InputError, match=r"no slices: expected \*\.npz.*it holds nothing"):
        slice_files(tmp_path)
    (tmp_path / "cube-val.npz").write_text("x")
    with pytest.raises(InputError, match=r"it holds cube-val\.npz"):
        slice_files(tmp_path)
    with pytest.raises(InputError, match="is a file; expected a directory"):
        slice_files(tmp_path / "cube-val.npz")


def test_an_npz_holds_numbers_and_text_alone(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="y holds Python objects"):
        write_npz(tmp_path / "a.npz", {"x": np.zeros(2), "y": np.array([{}])})
    assert not list(tmp_path.iterdir())
    write_npz(tmp_path / "a.npz", {"x": np.zeros(2), "text": np.array("t")})
    assert set(read_npz(tmp_path / "a.npz", ("x", "text"))) == {"x", "text"}
