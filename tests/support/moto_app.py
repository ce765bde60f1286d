"""S3 as moto has it, as a program: ``moto_app.py PORT [JOURNAL]``.

moto looks whether a key is there and stores it later, with other requests in between; S3 does both at once. So what
changes something is done one after the other here. moto also keeps everything in memory: with a journal each change is
written there before it is answered, and done again at the next start, so that kill -9 loses nothing that was promised.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

Environ = dict[str, Any]


class App:
    """A WSGI application."""

    def __init__(self, journal: Path | None) -> None:
        self._serve = DomainDispatcherApplication(create_backend_app)
        self._alone = threading.Lock()
        self._journal = None
        if journal is not None:
            self._restore(journal)
            self._journal = journal.open("ab", buffering=0)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            answer: Iterable[bytes] = self._serve(environ, start_response)
            return answer
        whole = environ.get("wsgi.input_terminated")
        body = environ["wsgi.input"].read(*() if whole else (int(environ.get("CONTENT_LENGTH") or 0),))
        with self._alone:
            return self._change(environ, body, start_response)

    def _change(self, environ: Environ, body: bytes, start_response: Callable[..., Any]) -> Iterable[bytes]:
        said: list[Any] = []
        answer = list(self._serve({**environ, "wsgi.input": io.BytesIO(body)}, lambda *it: said.extend(it)))
        if self._journal is not None and said[0].startswith("2"):
            texts = {name: value for name, value in environ.items() if isinstance(value, str)}
            entry = {"environ": texts, "body": base64.b64encode(body).decode()}
            self._journal.write(json.dumps(entry).encode() + b"\n")
        start_response(*said)
        return answer

    def _restore(self, journal: Path) -> None:
        """Do again what is in there; what was not written to its end was not answered."""
        journal.touch()
        whole, newline, _ = journal.read_bytes().rpartition(b"\n")
        journal.write_bytes(whole + newline)
        for line in whole.splitlines():
            entry = json.loads(line)
            rest = {"wsgi.url_scheme": "http", "wsgi.errors": sys.stderr, "wsgi.input_terminated": True}
            self._change({**entry["environ"], **rest}, base64.b64decode(entry["body"]), lambda *_: None)


if __name__ == "__main__":
    port, *journals = sys.argv[1:]
    run_simple("127.0.0.1", int(port), App(Path(journals[0]) if journals else None), threaded=True)
