#!/usr/bin/env bash
# moto (5.2.5), the S3 server that many test suites use: `PutObject` with `If-None-Match: *` is checked first and done later,
# with nothing that keeps two threads apart. Of several clients that create one key at the same moment, two may be told 200;
# S3 promises that all but one get 412. With the interpreter's usual switch interval of 5 ms that is rare (one run in some
# hundreds of a test that races 20 creators); with a short one, as here, it shows within seconds.
# What is tested against moto can therefore neither rely on conditional writes nor prove that it may.
#
# Seen: "2 of 8 creators of one key were told 200" in about 1 of 60 races. Fails if no race of 3,000 shows it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.2.5' 'werkzeug==3.1.9'
"$work/venv/bin/python" - <<'PYTHON'
import http.client, importlib.metadata, socket, subprocess, sys, threading, time

SERVER = "import sys; sys.setswitchinterval(1e-6); from moto.server import main; main(['-p', sys.argv[1]])"
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"}
CREATORS, RACES = 8, 3000


def put(path, body=b"", headers=SIGNED):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def race(key):
    together, told = threading.Barrier(CREATORS), []

    def create(n):
        together.wait()
        told.append(put(key, b"creator %d" % n, {**SIGNED, "If-None-Match": "*"}))

    creators = [threading.Thread(target=create, args=(n,)) for n in range(CREATORS)]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join()
    return told


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < until, "moto does not start"
            time.sleep(0.1)
    assert put("/a-bucket") == 200
    assert put("/a-bucket/key") == 200
    assert put("/a-bucket/key", b"", {**SIGNED, "If-None-Match": "*"}) == 412, "one after the other it does refuse"
    for n in range(RACES):
        won = race(f"/a-bucket/{n}").count(200)
        if won > 1:
            print(f"moto {importlib.metadata.version('moto')}: {won} of {CREATORS} creators of one key were told 200, in race {n + 1}")
            break
    else:
        sys.exit(f"no race of {RACES} had two winners: this has changed")
finally:
    server.kill()
PYTHON
