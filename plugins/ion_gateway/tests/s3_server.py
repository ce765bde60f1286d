"""A real S3 server, as moto has it, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

START_WITHIN = 60.0
BUCKET = "watched"


@dataclass(frozen=True)
class Server:
    port: int

    @property
    def options(self) -> dict[str, Any]:
        return {
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "key": "testing",
            "secret": "testing-secret",
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def place(self) -> str:
        """New each time."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"

    def client(self) -> Any:
        import boto3

        options = self.options
        keys = {"aws_access_key_id": options["key"], "aws_secret_access_key": options["secret"]}
        return boto3.client("s3", endpoint_url=options["endpoint_url"], region_name="us-east-1", **keys)


@contextmanager
def s3_server(log: Path) -> Iterator[Server]:
    """With one bucket; killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = monotonic() + START_WITHIN
            while not _listens(port):
                assert process.poll() is None, f"{command} ended: {log.read_text()}"
                assert monotonic() < deadline, f"{command} does not listen: {log.read_text()}"
                sleep(0.05)
            made = Server(port)
            made.client().create_bucket(Bucket=BUCKET)
            yield made
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
