"""An event on its way to a console: JSON or, with files, a form that is read from disk as it goes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ion_core.client.http import Request
from ion_core.errors import InvalidEvent, PermanentError
from ion_core.regular import open_regular

CHUNK = 1024 * 1024
WITHIN, BYTES_A_SECOND = 90.0, 1024 * 1024
"""Seconds in which a console answers that has it, and one more for so many bytes: it gives up before that."""


async def request_of(target: str, event: Mapping[str, Any], files: Mapping[str, Path]) -> Request:
    """Raises InvalidEvent for files that are none."""
    said = json.dumps(event).encode("ascii")
    if not files:

        async def alone() -> AsyncGenerator[bytes, None]:
            yield said

        return Request(
            target=target, method="POST", kind="application/json", size=len(said), content=alone, within=WITHIN
        )
    form = _Form(said, await asyncio.to_thread(_statuses, files))
    return Request(
        target=target,
        method="POST",
        kind=f"multipart/form-data; boundary={form.boundary}",
        size=form.size,
        content=form.chunks,
        within=WITHIN + form.size / BYTES_A_SECOND,
    )


def _statuses(files: Mapping[str, Path]) -> dict[str, tuple[Path, os.stat_result]]:
    problems: list[str] = []
    found: dict[str, tuple[Path, os.stat_result]] = {}
    for name, path in files.items():
        try:
            found[name] = path, path.stat()
        except OSError:
            problems.append(f"{path}: no such file")
            continue
        if not stat.S_ISREG(found[name][1].st_mode):
            problems.append(f"{path}: is not a regular file")
    if problems:
        raise InvalidEvent(problems)
    return found


class _Form:
    """Files have their names as RFC 5987 encodes them: whatever these hold, they arrive as they are.

    Behind them stands what they are, by their sha256, which is known by then; its length is known before.
    """

    def __init__(self, event: bytes, files: Mapping[str, tuple[Path, os.stat_result]]) -> None:
        self.boundary = secrets.token_hex(16)
        self._files = files
        self._event = self._part('name="event"', "application/json") + event + b"\r\n"
        self._heads = {
            name: self._part(
                f"name=\"file\"; filename*=utf-8''{quote(name, safe='', errors='surrogateescape')}",
                "application/octet-stream",
            )
            for name in files
        }
        framing = [self._event, *(head + b"\r\n" for head in self._heads.values()), self._end({})]
        self.size = sum(len(it) for it in framing) + sum(status.st_size for _, status in files.values())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises PermanentError where a file cannot be read, or is not as it was."""
        digests: dict[str, str] = {}
        yield self._event
        for name, (path, status) in self._files.items():
            yield self._heads[name]
            digest, left = hashlib.sha256(), status.st_size
            try:
                descriptor, _ = await asyncio.to_thread(open_regular, path, follow=True)
                with os.fdopen(descriptor, "rb", buffering=0) as file:
                    while chunk := await asyncio.to_thread(file.read, CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            break
                        await asyncio.to_thread(digest.update, chunk)
                        yield chunk
            except OSError as error:
                raise PermanentError(f"{path}: cannot be read: {error.strerror}") from error
            if left:
                raise PermanentError(f"{path}: has changed while it was sent. Publish it once nobody writes to it.")
            digests[name] = digest.hexdigest()
            yield b"\r\n"
        yield self._end(digests)

    def _part(self, disposition: str, kind: str) -> bytes:
        return (
            f"--{self.boundary}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {kind}\r\n\r\n"
        ).encode("ascii")

    def _end(self, digests: Mapping[str, str]) -> bytes:
        said = {
            name: {"sha256": digests.get(name, "0" * 64), "executable": bool(status.st_mode & stat.S_IXUSR)}
            for name, (_, status) in self._files.items()
        }
        body = json.dumps(said).encode("ascii")
        return self._part('name="files"', "application/json") + body + f"\r\n--{self.boundary}--\r\n".encode("ascii")
