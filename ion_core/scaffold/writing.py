"""New files, never over those that are there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ion_core.errors import UsageError, storage_error


@dataclass(frozen=True)
class NewFile:
    """What is to be in a file, and whether it is a program."""

    content: bytes
    executable: bool = False


def write_new(base: Path, files: Mapping[str, NewFile]) -> list[Path]:
    """Write ``files``, by path below ``base``, all or none; returns their paths.

    Raises UsageError naming every one that is there already, and what is a file where a directory must be;
    TransientError or StorageFull when the disk does not take them, and then none of ours is left.
    """
    paths = {base / name: file for name, file in files.items()}
    if there := [str(path) for path in paths if os.path.lexists(path)]:
        what, it = ("is there already", "it") if len(there) == 1 else ("are there already", "them")
        raise UsageError(f"{', '.join(there)}: {what}. Nothing was written. Move {it} away, or choose another name.")
    written: list[Path] = []
    try:
        for path, file in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                written.append(path)
                target.write(file.content)
            if file.executable:
                path.chmod(path.stat().st_mode | 0o111)
    except FileExistsError as error:
        _remove(written)
        raise UsageError(f"{error.filename}: is there already. Nothing was written.") from error
    except NotADirectoryError as error:
        _remove(written)
        raise UsageError(
            f"{error.filename}: a directory is needed there, and something else is. Move it away."
        ) from error
    except OSError as error:
        _remove(written)
        raise storage_error(str(error.filename or base), error) from error
    return written


def replace_text(path: Path, content: bytes) -> None:
    """Replace the content of a file, whole or not at all, its mode kept. Raises TransientError or StorageFull."""
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        mode = path.stat().st_mode & 0o7777
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)  # what was closed to others is so at every moment
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise storage_error(str(path), error) from error


def _remove(written: list[Path]) -> None:
    for path in written:
        path.unlink(missing_ok=True)
