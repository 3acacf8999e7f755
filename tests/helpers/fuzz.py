"""Mutated bytes."""

from __future__ import annotations

import io
import zipfile

import numpy as np

START = 4000


"""Bytes at the front that are hit more often: the structure stands there."""


def mutated(rng: np.random.Generator, whole: bytes) -> bytes:
    """Truncated, or with bytes changed anywhere or near the front, or a stretch replaced."""
    data = bytearray(whole)
    front = min(len(data), START)
    match rng.integers(4):
        case 0:
            return bytes(data[: rng.integers(len(data))])
        case 1 | 2 as where:
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(front if where == 1 else len(data))] = rng.integers(256)
        case _:
            at, length = rng.integers(front), rng.integers(1, 40)
            data[at : at + length] = rng.bytes(int(rng.integers(40)))
    return bytes(data)


def structure(rng: np.random.Generator, whole: bytes, suffix: str) -> bytes:
    """The file mutated anywhere, or near its end, where archives have their names.

    Checksums of archives would refuse nearly every change of their contents: often a member is
    changed and packed again with the right one.
    """
    if suffix in (".pt", ".npz") and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        likely = rng.random() < 0.8 and suffix == ".pt"
        chosen = "qgf_ref/data.pkl" if likely else list(members)[rng.integers(len(members))]
        members[chosen] = mutated(rng, members[chosen])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return buffer.getvalue()
    if rng.random() < 0.3:
        return whole[:-3000] + mutated(rng, whole[-3000:])
    return mutated(rng, whole)
