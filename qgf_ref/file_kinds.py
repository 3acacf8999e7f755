"""What a file is by its first bytes, where these are of nothing that is read here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgf_ref.errors import InputError, listing

START = 512
"""Bytes that tell: tar's mark stands at 257."""
_AGAIN = "get it again"
_STARTS = {
    b"version https://git-lfs.github.com": "a Git LFS pointer: the file itself comes with git lfs "
    "pull (once before: git lfs install)",
    b"\x1f\x8b": "compressed by gzip: decompress it (gunzip; tar xzf, if it is a .tar.gz)",
    b"BZh": "compressed by bzip2: decompress it (bunzip2)",
    b"\xfd7zXZ\0": "compressed by xz: decompress it (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: decompress it (unzstd)",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"\x93NUMPY": "a single .npy array; expected an .npz: numpy.savez(F, **{name: array, …})",
    b"\x89HDF\r\n": "HDF5 (Keras, h5py): write its arrays with numpy.savez(F, **{name: array, …})",
    b"GGUF": "GGUF, a language model's weights: no networks of this kind",
    b"%PDF": f"a PDF: {_AGAIN}",
    b"\x89PNG": f"a picture: {_AGAIN}",
    b"SQLite format 3": "an SQLite database: give the file of the weights",
    b"\x7fELF": "a program: give the file of the weights",
}
_WITHIN = {
    b"brain.Event:": "TensorBoard's log of a run: give the file of the weights",
    b"\x12\x07pytorch": "ONNX, a program: save the tensors of the model that it was exported from",
}
"""What stands a little after the beginning."""
_MARKUP = re.compile(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--|error)", re.I)
_JSON = re.compile(rb'\s*(\{\s*("|\}|$)|\[)')


@contextmanager
def naming_the_cache(path: Path) -> Iterator[None]:
    """Add to an error of reading `path`, if in Hugging Face's cache, that it may be removed."""
    try:
        yield
    except InputError as error:
        parts = path.absolute().parts
        own = next((i for i, part in enumerate(parts) if part.startswith("models--")), None)
        if own is None:
            raise
        place = Path(*parts[: own + 1])
        raise InputError(
            f"{error}. It is in Hugging Face's cache: remove {place}, and it is fetched again"
        ) from error


def odd_kind(start: bytes) -> str | None:
    """What the file is whose first START bytes these are, and what to do; None: nothing known.

    Text is told, too: no pickle since protocol 2 and no other file of weights is printable.
    """
    if not start:
        return f"empty: an interrupted download or copy; {_AGAIN}"
    if not start.strip(b"\0"):
        return f"zeros: an interrupted download or copy; {_AGAIN}"
    for begin, kind in _STARTS.items():
        if start.startswith(begin):
            return kind
    for words, kind in _WITHIN.items():
        if words in start[:64]:
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it (tar xf)"
    if _MARKUP.match(start):
        return f"a web page (a sign-in or an error?), not the file: {_AGAIN}, by its download link"
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        cut = len(start) == START and error.start > START - 4  # within its last character
        text = start[: error.start].decode() if cut else "\0"
    if not all(c.isprintable() or c in "\t\r\n\f" for c in text):
        return None
    first = listing([text.strip().splitlines()[0] if text.strip() else ""])
    if _JSON.match(start):
        return f"JSON ({first}): give the file of the arrays that belongs to it"
    return f"plain text ({first}): give the file of the arrays"


def require_text(data: bytes, path: object) -> None:
    """Raise InputError, saying what they are, on the bytes of a file that should be text and is of
    a kind that is known: a pointer, a web page, compressed.
    """
    kind = odd_kind(data[:START]) if data else None
    if kind is not None and not kind.startswith(("plain text", "JSON")):
        raise InputError(f"{path} is no text: it is {kind}")
