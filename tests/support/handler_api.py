"""A handler's HTTP API as the module contract has it, for modules that call it: real HTTP, nothing behind it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal

SECRET = "s3cret-of-the-slot"


class HandlerApi:
    """``GET /ready`` and ``/done``: 401 without the secret, 400 in the wrong state, 500 when ``commit`` raises.

    ``events`` is how many there are; on the next ``/ready`` it answers 410 or 400, hangs up for good, does not even
    listen any more, or hangs up every time, as ``end`` has it. ``prepare`` and ``commit`` are called for each with its
    number, from 0.
    """

    def __init__(
        self,
        *,
        events: int = 1,
        end: Literal["410", "400", "hangs up", "gone", "broken"] = "410",
        prepare: Callable[[int], None] = lambda number: None,
        commit: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.calls: list[str] = []
        self._events, self._end, self._prepare, self._commit = events, end, prepare, commit
        self._done, self._ready = 0, False
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def bind(self, port: int = 0) -> HandlerApi:
        """Take a port, and answer from now on."""
        api = self

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Request)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> HandlerApi:
        return self if self._server is not None else self.bind()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def environment(self, base: object) -> dict[str, str]:
        return {"HANDLER_PORT": str(self.port), "SHARED_SECRET": SECRET, "HANDLER_BASE_DIR": str(base)}

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.calls.append(request.path)
        if request.headers.get("secret") != SECRET:
            return self._say(request, 401, "the secret is missing or wrong")
        if request.path == "/ready":
            return self._prepare_next(request)
        if not self._ready:
            return self._say(request, 400, 'called /done before /ready: nothing "was" prepared')
        try:
            self._commit(self._done)
        except ValueError as error:
            return self._say(request, 500, str(error))
        self._done, self._ready = self._done + 1, False
        if self._done == self._events and self._end == "gone":
            self._stop_listening()  # before the module knows that it is done
        return self._say(request, 200)

    def _prepare_next(self, request: BaseHTTPRequestHandler) -> None:
        if self._ready:
            return self._say(request, 400, "called /ready twice")
        if self._done == self._events:
            if self._end in ("hangs up", "broken"):
                if self._end == "hangs up":
                    self._stop_listening()
                request.close_connection = True
                return None
            return self._say(request, int(self._end), "this job is over")
        self._prepare(self._done)
        self._ready = True
        return self._say(request, 200)

    def _stop_listening(self) -> None:
        assert self._server is not None
        with suppress(OSError):  # once is enough
            self._server.socket.shutdown(socket.SHUT_RDWR)  # at once, though a thread still selects on it

    @staticmethod
    def _say(request: BaseHTTPRequestHandler, status: int, message: str = "") -> None:
        body = json.dumps({"statusCode": status, "message": message}).encode() if message else b""
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
