#!/usr/bin/env bash
# gcsfs (2026.10.1): importing it makes GCSFileSystem the "experimental" class, unless GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false. It asks for
# the kind of bucket by gRPC at endpoint_url's host and port before it does anything by HTTP. A server that speaks HTTP alone, as
# emulators and proxies do, does not answer that: each call waits until gRPC gives up, about a minute, goes on as if nothing had been,
# and remembers nothing, so the next one waits again. gcsfs.core.GCSFileSystem, the class without, takes milliseconds.
#
# Seen: "gcsfs.GCSFileSystem: pipe_file 59 s; gcsfs.core.GCSFileSystem: 0.0 s". Fails if the first takes less than 20 s.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'gcsfs==2026.10.1' 'gcp-storage-emulator==2026.7.19' 'setuptools<81'
unset GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT
export GRPC_VERBOSITY=NONE
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import socket, subprocess, sys, time

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
code = (
    "from gcp_storage_emulator.server import create_server; "
    f"create_server('127.0.0.1', {port}, in_memory=True, default_bucket='bucket').run()"
)
server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    until = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert server.poll() is None and time.monotonic() < until, "the emulator does not start"
        time.sleep(0.1)
    import gcsfs, gcsfs.core

    took = {}
    for kind in (gcsfs.core.GCSFileSystem, gcsfs.GCSFileSystem):
        files = kind(endpoint_url=f"http://127.0.0.1:{port}", token="anon", project="x", skip_instance_cache=True)
        begun = time.monotonic()
        files.pipe_file("bucket/key", b"content")
        took[kind] = time.monotonic() - begun
    print(f"gcsfs.GCSFileSystem: pipe_file {took[gcsfs.GCSFileSystem]:.0f} s; gcsfs.core.GCSFileSystem: {took[gcsfs.core.GCSFileSystem]:.1f} s")
    if took[gcsfs.GCSFileSystem] < 20:
        sys.exit("it does not wait: this has changed")
finally:
    server.kill()
PYTHON
