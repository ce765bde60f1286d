"""What containers have printed, with the time of each line, as a kubelet keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


def _stamp() -> str:
    """Nine digits of a second, as the kubelet writes them."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Log:
    """``lines`` are pairs of time and text; each text but the last ends with a newline."""

    lines: list[tuple[str, bytes]] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        for piece in data.splitlines(keepends=True):
            if self.lines and not self.lines[-1][1].endswith(b"\n"):
                stamp, before = self.lines.pop()
                self.lines.append((stamp, before + piece))
            else:
                self.lines.append((_stamp(), piece))

    def since(self, start: int, *, time: str | None, timestamps: bool, end: bool) -> tuple[int, bytes]:
        """What came after ``start`` lines and from that second on; a line that is not complete only at the end."""
        ready: Sequence[tuple[str, bytes]] = self.lines[start:]
        if ready and not end and not ready[-1][1].endswith(b"\n"):
            ready = ready[:-1]
        told = (it for it in ready if time is None or it[0][:19] >= time[:19])
        text = b"".join((stamp.encode() + b" " if timestamps else b"") + line for stamp, line in told)
        return start + len(ready), text
