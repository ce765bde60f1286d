"""Servers that speak as much of S3 as a row needs, each a process of its own on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.measure import Unavailable

BUCKET = "bench"
ROOT = Path(__file__).resolve().parents[1]
_START_WITHIN = 30.0

_NGINX = """
daemon off; pid nginx.pid; error_log error.log; worker_processes 1; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; etag off; sendfile on; keepalive_requests 1000000; client_max_body_size 0; client_body_temp_path temp;
  proxy_temp_path temp/p; fastcgi_temp_path temp/f; uwsgi_temp_path temp/u; scgi_temp_path temp/s;
  server {{
    listen 127.0.0.1:{port};
    root objects;
    location / {{
      set $there "";
      if (-f $request_filename) {{ set $there $http_if_none_match; }}
      if ($there = "*") {{ return 412; }}
      dav_methods PUT DELETE;
      create_full_put_path on;
      add_header ETag '"bench"' always;
    }}
  }}
}}
"""
"""Whole objects as files, for ``PUT``, ``GET``, ``HEAD`` and ``DELETE``; it asks for no signature."""


@contextmanager
def moto_server(directory: Path) -> Iterator[dict[str, Any]]:
    """S3 as moto has it, with one bucket; what the filesystem needs to get there. Raises Unavailable."""
    if find_spec("moto") is None:
        raise Unavailable("moto is not installed")
    port = _free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, directory):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request, timeout=_START_WITHIN) as answer:
            answer.read()
        yield _options(port)


@contextmanager
def nginx_server(directory: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Objects as nginx keeps files, which costs it next to nothing, and where they lie. Raises Unavailable.

    What stands at a name is looked for before a conditional write, not with it: good for one who writes.
    """
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        raise Unavailable("nginx with its module for WebDAV is needed. On Debian: apt-get install nginx-light")
    port, place = _free_port(), directory / "nginx"
    objects = place / "objects"
    for made in (objects / BUCKET, place / "temp"):
        made.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(_NGINX.format(port=port, user=user), encoding="utf-8")
    with _running([nginx, "-p", str(place), "-c", "nginx.conf", "-e", "error.log"], port, place):
        yield _options(port), objects


@contextmanager
def parts_server(directory: Path) -> Iterator[dict[str, Any]]:
    """Large objects, sent in parts: ``bench.bare objects``, which keeps one in memory."""
    port = _free_port()
    with _running([sys.executable, "-m", "bench.bare", "objects", str(port)], port, directory):
        yield _options(port)


def _options(port: int) -> dict[str, Any]:
    """What s3fs needs to get there, by which ours takes obstore."""
    endpoint = f"http://127.0.0.1:{port}"
    return {
        "endpoint_url": endpoint,
        "key": "bench",
        "secret": "bench-secret",
        "client_kwargs": {"region_name": "us-east-1"},
    }


@contextmanager
def _running(command: Sequence[str], port: int, directory: Path) -> Iterator[None]:
    """Once it listens; told to end when the body is through."""
    log = directory / "server.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + _START_WITHIN
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(
                        f"{Path(command[0]).name} does not start: {log.read_text(errors='replace')[-300:]}"
                    )
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
