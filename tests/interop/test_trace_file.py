"""The trace schema: what `qgf-ref trace` writes is read back, and what is malformed is refused."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgf_ref.cli.main import main
from qgf_ref.errors import InputError
from qgf_ref.interop import trace_file
from qgf_ref.interop.native import save_checkpoint
from qgf_ref.interop.trace_file import REQUIRED, STEPWISE, read_trace, recorded_trace
from tests.conftest import small_checkpoint, states
from tests.helpers.checkpoints import Evil
from tests.helpers.trace_files import (
    ROWS,
    STEPS,
    WIDTH,
    Arrays,
    archive,
    arrays,
    declaring,
    members,
    npy,
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_the_trace_command_writes_is_read_back(dtype: str, tmp_path: Path) -> None:
    ck = small_checkpoint()
    save_checkpoint(ck, tmp_path / "m.safetensors")
    obs, noise = states(ck, 4)
    np.savez(tmp_path / "in.npz", obs=obs, noise=noise)
    out = tmp_path / "out.npz"
    command = f"trace --checkpoint {tmp_path}/m.safetensors --input {tmp_path}/in.npz --out {out}"
    assert main(f"{command} --estimator ood --weight 0.25 --dtype {dtype}".split()) == 0
    found = read_trace(out)
    with np.load(out) as written:
        for name in REQUIRED:
            np.testing.assert_array_equal(getattr(found, name), written[name])
        assert set(found.stepwise) == set(STEPWISE)
        for name, array in found.stepwise.items():
            np.testing.assert_array_equal(array, written[name])
    known = {"estimator": "ood", "weight": 0.25, "denoise_steps": 6, "time_embedding": "exact"}
    assert found.metadata == known
    assert (found.steps, found.best_of, found.source) == (6, 1, str(out))
    assert found.single_precision == (dtype == "float32")


def test_any_subset_beyond_the_first_three_is_a_trace() -> None:
    bare = recorded_trace(arrays(**dict.fromkeys(STEPWISE)))
    assert (bare.steps, bare.stepwise, bare.metadata) == (None, {}, {})
    for name in STEPWISE:
        rest: Arrays = {other: None for other in STEPWISE if other != name}
        assert recorded_trace(arrays(**rest)).steps == STEPS
    several = recorded_trace(arrays(obs=np.ones((1, 5)), action=np.ones((1, WIDTH))))
    assert several.best_of == ROWS


def test_other_arrays_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    evil = npy(np.array([Evil(os.system, f"touch {tmp_path}/pwned")], dtype=object))
    path.write_bytes(archive({**members(extra=evil), "notes.txt": b"hello", "sub/": b""}))
    assert set(read_trace(path).stepwise) == set(STEPWISE)
    assert not (tmp_path / "pwned").exists()


def test_single_precision_is_told_by_the_numbers_not_by_the_dtype() -> None:
    rounded = {name: x.astype("f8") for name, x in arrays().items()}
    assert recorded_trace(arrays()).single_precision
    assert recorded_trace(rounded).single_precision
    for name in ("action", *STEPWISE):
        exact = {**rounded, name: rounded[name] + 1e-12}
        assert not recorded_trace(exact).single_precision, name
    # inputs may have been recorded before they were cast
    assert recorded_trace({**rounded, "noise": rounded["noise"] + 1e-12}).single_precision
    assert recorded_trace(arrays(action=np.ones((ROWS, WIDTH), "f2"))).single_precision
    assert not recorded_trace(arrays(action=np.full((ROWS, WIDTH), 0.1))).single_precision


MALFORMED: dict[str, tuple[Arrays, str]] = {
    "no obs": ({"obs": None}, "lacks obs; it holds a, a1_hat, action, g, noise, q, v"),
    "no action": ({"action": None}, "lacks action"),
    "nothing": (dict.fromkeys((*REQUIRED, *STEPWISE)), "lacks obs, .*; it holds nothing"),
    "obs of one axis": ({"obs": np.ones(5)}, "obs must hold real numbers .* with 2 axes"),
    "action of three axes": ({"action": np.ones((1, ROWS, WIDTH))}, "action must .* with 2 axes"),
    "no rows": ({"obs": np.ones((0, 5))}, r"holds no observations: obs has shape \(0, 5\)"),
    "rows that do not divide": ({"obs": np.ones((2, 5))}, "contradict each other; expected"),
    "an action too few": ({"action": np.ones((ROWS - 1, WIDTH))}, "contradict each other"),
    "a wider action": ({"action": np.ones((ROWS, WIDTH + 1))}, r"action \(5, 4\) contradict"),
    "rows of v": ({"v": np.ones((STEPS, ROWS + 1, WIDTH))}, r"v has shape \(6, 6, 3\), expected"),
    "width of g": ({"g": np.ones((STEPS, ROWS, 2))}, r"g has shape \(6, 5, 2\), expected \(T, B"),
    "q by action": ({"q": np.ones((STEPS, ROWS, 2))}, r"q has shape .* expected \(T, E, B·n\)"),
    "q of one axis": ({"q": np.ones(ROWS)}, "q must hold real numbers .* with 3 axes"),
    "a step too few": ({"a": np.ones((STEPS - 1, ROWS, WIDTH))}, "T was .* 5 in a, 6 in v"),
    "no steps": ({"v": np.ones((0, ROWS, WIDTH))}, r"v has shape \(0, 5, 3\), expected"),
    "a number": ({"v": np.float32(1)}, "v must hold real numbers .* with 3 axes"),
    "NaN": ({"action": np.full((ROWS, WIDTH), np.nan)}, "action must be finite: 15 of 15"),
    "infinity": ({"g": np.full((STEPS, ROWS, WIDTH), np.inf)}, "g must be finite"),
    "enormous": ({"obs": np.full((ROWS, 5), -1e19)}, r"obs has values beyond ±1e\+18"),
    "complex": ({"noise": np.ones((ROWS, WIDTH), complex)}, "real numbers .*, got complex128"),
    "truth values": ({"obs": np.ones((ROWS, 5), bool)}, "real numbers .*, got bool"),
    "text": ({"obs": np.full((ROWS, 5), "1.0")}, "real numbers .*, got <U3"),
    "dates": ({"obs": np.ones((ROWS, 5), "M8[s]")}, "real numbers .*, got datetime64"),
    "records": ({"obs": np.ones((ROWS, 5), [("x" * 90, "f4")])}, r"real numbers .*, got \[\('x+…"),
    "objects": ({"obs": np.full((ROWS, 5), None)}, "real numbers .*, got object"),
    "ragged": ({"obs": [[1.0], [1.0, 2.0]]}, "obs is no array of numbers"),
}  # fmt: skip
if np.dtype(np.longdouble).itemsize > 8:
    # a value that float64 does not hold would become infinite later
    MALFORMED["wide floats"] = (
        {"noise": np.full((ROWS, WIDTH), np.longdouble("1e4000"))},
        r"real numbers \(float64 or narrower\)",
    )


@pytest.mark.parametrize("what", MALFORMED)
def test_arrays_that_are_no_trace(what: str) -> None:
    changed, message = MALFORMED[what]
    with pytest.raises(InputError, match=f"^port: .*{message}|^port {message}") as error:
        recorded_trace(arrays(**changed), source="port")
    assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_an_unreasonably_large_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MAX_ELEMENTS", STEPS * ROWS * WIDTH - 1)
    with pytest.raises(InputError, match=r"a must hold real numbers .* of shape \(6, 5, 3\)"):
        recorded_trace(arrays())


def test_quantities_of_half_precision_are_listed() -> None:
    numbers = np.random.default_rng(0).standard_normal((STEPS, ROWS, WIDTH))
    mixed = arrays(v=numbers.astype(np.float16), a=numbers, g=np.zeros_like(numbers))
    assert recorded_trace(mixed).in_half_precision == ["v"]


def test_an_unknown_quantity_is_refused_where_it_would_be_compared() -> None:
    given = arrays()
    outer = {name: given.pop(name) for name in REQUIRED}
    with pytest.raises(InputError, match="unknown quantity u; the stepwise ones are: a, v"):
        trace_file.RecordedTrace(**outer, stepwise={**given, "u": given["v"]})


METADATA: dict[str, tuple[Any, str]] = {
    "another version": ({"version": 2}, "trace schema version 2; this reads 1"),
    "a version of text": ({"version": "1"}, "trace schema version '1'; this reads 1"),
    "a number for a name": ({"estimator": 3}, "estimator in the metadata must be a str, got 3"),
    "text for a weight": ({"weight": "0.1"}, "weight in the metadata must be a float, got '0.1'"),
    "a list of weights": ({"weight": [0.1] * 999}, r"weight .* must be a float, got \[0.1, .*…$"),
    "half a step": ({"denoise_steps": 9.5}, "denoise_steps in the metadata must be a int"),
    "true": ({"best_of": True}, "best_of in the metadata must be a int, got True"),
    "an endless name": ({"estimator": "q" * 10**6}, "estimator .* must be a str, got 'q+…$"),
    "an endless number": ({"denoise_steps": 10**4000}, "denoise_steps .* must be a int, got 10+…$"),
}  # fmt: skip


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_says_nothing_usable(what: str) -> None:
    metadata, message = METADATA[what]
    with pytest.raises(InputError, match=message) as error:
        recorded_trace(arrays(), metadata, "port")
    assert len(str(error.value)) < 200


def test_metadata_that_is_absent_null_or_foreign_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    for metadata in ({}, {"weight": None, "author": {"deep": [1]}}, {"version": 1}):
        for text in (np.array(json.dumps(metadata)), np.array(json.dumps(metadata).encode())):
            np.savez(path, **arrays(metadata=text))
            assert read_trace(path).metadata == {}
    np.savez(path, **arrays(metadata=np.array(b'{"weight": 2, "estimator": "qgf"}')))
    assert read_trace(path).metadata == {"weight": 2, "estimator": "qgf"}


def _of(members_: dict[str, bytes]) -> Callable[[Path], bytes]:
    return lambda path: archive(members_)


def _with(**changed: bytes) -> Callable[[Path], bytes]:
    return _of(members(**changed))


def _evil(path: Path) -> bytes:
    return archive(members(v=npy(np.array([Evil(os.system, f"touch {path}/pwned")], object))))


def _evil_metadata(path: Path) -> bytes:
    command = Evil(os.system, f"touch {path}/pwned")
    return archive(members(metadata=npy(np.array(command, object))))


FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda path: b"", "not a readable npz"),
    "text": (lambda path: b"hello", "not a readable npz"),
    "one array": (lambda path: npy(np.ones(3)), "a single .npy array; expected an .npz"),
    "one enormous array": (lambda path: declaring((1 << 40,)), "a single .npy array"),
    "truncated": (lambda path: archive(members())[:-40], "not a readable npz"),
    "an empty archive": (_of({}), "lacks obs, noise, action; it holds nothing"),
    "no noise": (_of({"obs.npy": npy(np.ones(1))}), "lacks noise, action; it holds obs"),
    "pickled objects": (_evil, "not a readable npz: v holds Python objects, .*numpy.stack"),
    "pickled metadata": (_evil_metadata, r"metadata holds Python objects, .*json\.dumps"),
    "another compression": (
        lambda path: archive(members(), zipfile.ZIP_BZIP2), "neither stored nor deflated",
    ),
    "no array": (_with(obs=b"hello"), "not a readable npz"),
    "raw metadata": (_with(metadata=b"{}"), "not a readable npz"),
    "an enormous header": (_with(g=declaring((1 << 50,), b"x")), "g.npy has shape .* do not fill"),
    "an enormous product": (_with(g=declaring((1 << 62, 1 << 62))), "which 0 bytes do not fill"),
    "a negative shape": (_with(g=declaring((-1, 5), b"x" * 20)), "not a readable npz"),
    "more than declared": (_with(obs=declaring((5, 5), b"x" * 101)), "101 bytes do not fill"),
    "an old header": (
        # as Python 2 wrote it: NumPy would repair it, with a warning
        _with(obs=declaring((2,), b"x" * 8).replace(b"(2,), }", b"(2L,),}")),
        "not a readable npz",
    ),
    "a list": (_with(metadata=npy(np.array("[1]"))), "metadata is not a JSON object"),
    "broken JSON": (_with(metadata=npy(np.array("{"))), "metadata is not valid JSON"),
    "deep JSON": (_with(metadata=npy(np.array("[" * 100_000))), "metadata is not valid JSON"),
    "numbers": (_with(metadata=npy(np.ones(()))), "metadata must be one string, got float64"),
    "two strings": (_with(metadata=npy(np.array(["a", "b"]))), r"must be one string, got <U1 \(2"),
    "no UTF-8": (_with(metadata=npy(np.array(b"\xff{}"))), "metadata is no text"),
    "no characters": (
        _with(metadata=declaring((), b"\x00\x00\x11\x00", "<U1")), "metadata is no text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_trace(what: str, tmp_path: Path) -> None:
    make, message = FILES[what]
    path = tmp_path / "t.npz"
    path.write_bytes(make(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        read_trace(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"], "nothing was executed"


MENDED: dict[str, tuple[dict[str, Any], str]] = {
    "bfloat16": ({"v": np.zeros((STEPS, ROWS, WIDTH), "V2")}, r"v\.astype\(numpy\.float32\)"),
    "text": ({"g": np.full((STEPS, ROWS, WIDTH), "1")}, r"g\.astype\(numpy\.float32\)"),
    "chunks": (
        {"action": np.zeros((ROWS, WIDTH, 1))}, r"action\.reshape\(B, H\*A\), here \(5, 3\)",
    ),
    "chunks, stepwise": (
        {"v": np.zeros((STEPS, ROWS, 1, WIDTH))}, r"v\.reshape\(T, B, H\*A\), here \(6, 5, 3\)",
    ),
    "one row": ({"noise": np.zeros(WIDTH)}, r"for one row, write noise\[None\]"),
    "one row, stepwise": ({"a": np.zeros((STEPS, WIDTH))}, r"for one row, write a\[:, None\]"),
    "rows first": ({"g": np.zeros((ROWS, STEPS, WIDTH))}, r"numpy\.swapaxes\(g, 0, 1\)"),
    "members last": ({"q": np.zeros((STEPS, ROWS, 2))}, r"numpy\.moveaxis\(q, 1, 2\)"),
    "rows first in q": ({"q": np.zeros((ROWS, STEPS, 2))}, r"numpy\.moveaxis\(q, 0, 2\)"),
    "the smallest member": ({"q": np.zeros((STEPS, ROWS))}, r"write every member, q \(T, E, B·n\)"),
    "T + 1 states": ({"a": np.zeros((STEPS + 1, ROWS, WIDTH))}, r"write a\[:T\], T = 6"),
}  # fmt: skip


@pytest.mark.parametrize("what", MENDED)
def test_messages_name_the_array_and_the_line_that_mends_it(what: str) -> None:
    changed, message = MENDED[what]
    with pytest.raises(InputError, match=message) as error:
        recorded_trace(arrays(**changed), source="port")
    assert next(iter(changed)) in str(error.value)


def test_a_trace_has_a_short_repr() -> None:
    text = repr(recorded_trace(arrays(), source="port"))
    assert text.startswith("RecordedTrace(port, 5 rows × 1, ") and len(text) < 200


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "t.npz", tmp_path):
        with pytest.raises(InputError, match=f"cannot read {path}"):
            read_trace(path)
