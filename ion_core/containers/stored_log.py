"""What conmon has written of a container's output, read from its file: it is there whatever becomes of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Frames = Sequence[tuple[int, bytes]]
"""The stream's number (1 output, 2 errors) and a piece of output, in order."""

_STREAMS = {b"stdout": 1, b"stderr": 2}
_SHORT = 64 * 1024
_LARGEST = 64 * 1024**2


@dataclass(frozen=True)
class StoredLog:
    """``path`` is None where Podman keeps it in no file of this machine."""

    path: Path | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> StoredLog:
        """That of an inspected container."""
        kept = (found.get("HostConfig") or {}).get("LogConfig") or {}
        path = kept.get("Path")
        return cls(Path(path) if path and kept.get("Type") == "k8s-file" else None)

    def is_short(self) -> bool:
        """Read and taken apart in well under a millisecond; so is one that is not there."""
        try:
            return self.path is None or self.path.stat().st_size <= _SHORT
        except OSError:
            return True

    def frames(self) -> Frames | None:
        """None where it cannot be read."""
        try:
            if self.path is None or self.path.stat().st_size > _LARGEST:
                return None
            return parsed(self.path.read_bytes())
        except OSError:
            return None


def parsed(raw: bytes) -> Frames:
    """Lines such as ``2026-11-29T01:56:52.19+00:00 stdout P text``; ``P`` is a piece of a line, ``F`` its end."""
    frames = []
    for line in raw.split(b"\n")[:-1]:  # what is not ended is being written
        _, stream, kind, text = (*line.split(b" ", 3), b"", b"", b"", b"")[:4]
        if (number := _STREAMS.get(stream)) is not None and kind in (b"F", b"P"):
            frames.append((number, text + b"\n" if kind == b"F" else text))
    return frames


def unseen(frames: Frames, seen: Mapping[int, int]) -> Frames:
    """What follows the first ``seen`` bytes of each stream."""
    left = dict(seen)
    found = []
    for number, data in frames:
        skipped = min(left.get(number, 0), len(data))
        left[number] = left.get(number, 0) - skipped
        if skipped < len(data):
            found.append((number, data[skipped:]))
    for number in _STREAMS.values():
        last = [frame for frame in found if frame[0] == number]
        if last == [(number, b"\n")] and not _ends_a_line(frames, number):
            found.remove(last[0])  # some conmons end a last line that had no end
    return found


def _ends_a_line(frames: Frames, number: int) -> bool:
    """Whether the last newline of the stream stands behind something of its own piece, or behind another newline."""
    of_stream = [data for it, data in frames if it == number]
    return of_stream[-1] != b"\n" or len(of_stream) < 2 or of_stream[-2].endswith(b"\n")
