"""The members of a zip archive, read so that a hostile one costs no more than it is large."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from qgf_ref.errors import InputError, listing
from qgf_ref.files import most_unpacked, require_modest

ZIP = b"PK\x03\x04"
"""How zip archives begin."""


def read_members(path: Path, what: str, *, stored: bool) -> tuple[dict[str, bytes], int]:
    """({name: contents}, bytes of the file) of the archive at `path`.

    what    the kind of file, for errors
    stored  whether members must not be compressed

    Raises InputError when the file cannot be read, is damaged (checksums are verified), holds a
    name twice, or would unpack to far more than it is large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    most = len(data) if stored else most_unpacked(len(data))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            names = [m.filename for m in members]
            if len(set(names)) < len(names):
                raise InputError(f"{path} is refused: it holds a name twice")
            packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
            if stored and packed:
                raise InputError(
                    f"{path} is refused: compressed members ({listing(packed, most=3)}), as "
                    "TorchScript has them, a program; save its tensors alone: "
                    "torch.save(torch.jit.load(F).state_dict(), G)"
                )
            # zipfile reads no more of a member than it declares
            require_modest(members, most, path)
            return {m.filename: archive.read(m) for m in members}, len(data)
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib each raise their own kinds
        detail = listing([f"{type(error).__name__}: {error}"])
        raise InputError(
            f"{path} is no readable {what}: truncated or corrupt ({detail})"
        ) from error
