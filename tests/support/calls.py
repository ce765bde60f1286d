"""A module's side of the handler's HTTP API, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress


async def call(env: Mapping[str, str], path: str, *, secret: str | None = None, method: str = "GET") -> tuple[int, str]:
    """Status and message of the answer; status 0 where there was none."""
    given = env["SHARED_SECRET"] if secret is None else secret
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nsecret: {given}\r\n\r\n"
    return await send(int(env["HANDLER_PORT"]), head.encode("latin-1"))


async def send(port: int, raw: bytes) -> tuple[int, str]:
    """The same for any bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        answer = await reader.read()
    except ConnectionError:
        return 0, ""
    finally:
        await close(writer)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, ""
    status = int(head.split()[1])
    if not body:
        return status, ""
    said = json.loads(body)
    assert said["statusCode"] == status
    return status, str(said["message"])


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
