"""An OTLP/HTTP receiver, as small as one can be: what is sent to it is decoded and kept."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """``url`` is its endpoint; ``spans`` are those that came, with the service that sent each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._spans: list[tuple[str, Span]] = []

    @property
    def spans(self) -> Sequence[tuple[str, Span]]:
        with self._lock:
            return [*self._spans]

    def took(self, raw: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(raw)
        with self._lock:
            for resource in request.resource_spans:
                said = {it.key: it.value.string_value for it in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [(said.get("service.name", ""), span) for span in scope.spans]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                raw = gzip.decompress(raw)
            answer = b""
            if self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf":
                receiver.took(raw)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
            else:
                self.send_response(404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Tests need no log of it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
