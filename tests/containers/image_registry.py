"""A registry with one image and one account, as far as pulling needs one."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, PASSWORD = "ion", "pass:word"
EXPECTED = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class Registry:
    """``image`` in ``layout``, an OCI directory, may be pulled with the account; ``pulls`` counts its manifests.

    While ``ill``, every answer is a 503.
    """

    layout: Path
    address: str = ""
    pulls: int = 0
    ill: bool = False
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    manifest: str = ""

    def read(self) -> None:
        directory = self.layout / "blobs/sha256"
        self.blobs = {f"sha256:{path.name}": path.read_bytes() for path in directory.iterdir()}
        self.manifest = json.loads((self.layout / "index.json").read_text())["manifests"][0]["digest"]

    @property
    def image(self) -> str:
        return f"{self.address}/acme/tool:1"


class Handler(BaseHTTPRequestHandler):
    """Answers what Podman asks when it pulls."""

    served: Registry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        status, kind, body = self.found()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def found(self) -> tuple[int, str, bytes]:
        served = self.served
        if served.ill:
            return 503, "application/json", b'{"errors":[{"code":"UNAVAILABLE","message":"not now"}]}'
        if self.headers.get("Authorization") != EXPECTED:
            return 401, "application/json", b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}'
        *_, what, name = self.path.split("/")
        if self.path in ("/v2/", "/v2"):
            return 200, "application/json", b"{}"
        if "/acme/tool/" in self.path and what == "blobs" and name in served.blobs:
            return 200, "application/octet-stream", served.blobs[name]
        if "/acme/tool/" in self.path and what == "manifests" and name in ("1", served.manifest):
            served.pulls += 1
            return 200, "application/vnd.oci.image.manifest.v1+json", served.blobs[served.manifest]
        return 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'


@contextmanager
def registry(layout: Path) -> Iterator[Registry]:
    """One that answers while the body runs."""
    served = Registry(layout)
    served.read()
    handler = type("HandlerOfOne", (Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
