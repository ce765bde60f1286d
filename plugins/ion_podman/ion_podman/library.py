"""Long calls by Podman's own library: it blocks, so each has a thread, which nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import IO, Any

from ion_core.errors import TransientError
from ion_podman.client import Answer, answer_of


async def post(
    socket: str, path: str, body: IO[bytes], *, query: Mapping[str, Any], headers: Mapping[str, str]
) -> Answer:
    """The answer to what is in ``body``, which is closed in the end. Raises TransientError when there is none.

    Through the library's client rather than its ``images.build``, which has no word for accounts of registries. When
    cancelled, the thread is left to itself: it ends with the service's answer, and keeps no process from ending.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: Exception | None) -> None:
        if answered.done():
            return
        if answer is not None:
            answered.set_result(answer)
        elif error is not None:
            answered.set_exception(error)

    def call() -> None:
        answer, problem = None, None
        try:
            with body:
                answer = _post(socket, path, body, query, headers)
        except Exception as error:
            problem = error
        try:
            loop.call_soon_threadsafe(settle, answer, problem)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    threading.Thread(target=call, name=f"podman {path}", daemon=True).start()
    return await answered


def _post(socket: str, path: str, body: IO[bytes], query: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    import podman  # takes a while, and most never build
    import requests
    from podman.errors import APIError, PodmanError

    words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    try:
        with podman.PodmanClient(base_url=f"unix://{socket}") as client:
            given = {"Content-Type": "application/x-tar", **headers}
            response = client.api.post(path, params=words, data=body, headers=given)
            return answer_of(response.status_code, response.content)
    except (APIError, PodmanError, requests.RequestException, OSError) as error:
        raise TransientError(f"podman: POST {path}: nothing answers at {socket}: {error}") from error
