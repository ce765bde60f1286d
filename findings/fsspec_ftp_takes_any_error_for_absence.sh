#!/usr/bin/env bash
# fsspec (2026.9.0), FTPFileSystem.cat_file: whatever error the server answers, FileNotFoundError is raised. So a file that is there
# and that the server will not give now, because it is busy (450), has closed the session (421), or for want of permission (550),
# is reported as one that does not exist. Who acts on "does not exist" (and what else is the exception for?) acts wrongly.
# A listing on the same connection shows the file.
#
# Seen: "450 Busy, try later: FileNotFoundError, though ls shows it". Fails if the server's error comes through.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'fsspec==2026.9.0' 'pyftpdlib==2.2.0'
mkdir "$work/served"
echo content >"$work/served/file"
"$work/venv/bin/python" -W ignore - "$work/served" <<'PYTHON'
import logging, sys, threading

from fsspec.implementations.ftp import FTPFileSystem
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

logging.basicConfig(level=logging.ERROR)


class Busy(FTPHandler):
    def ftp_RETR(self, file):
        self.respond("450 Busy, try later.")


Busy.authorizer = DummyAuthorizer()
Busy.authorizer.add_anonymous(sys.argv[1])
server = FTPServer(("127.0.0.1", 0), Busy)
port = server.socket.getsockname()[1]
threading.Thread(target=server.serve_forever, daemon=True).start()
files = FTPFileSystem("127.0.0.1", port=port, timeout=10)
[listed] = files.ls("/", detail=False)
assert listed.lstrip("/") == "file", listed
try:
    files.cat_file("/file")
except FileNotFoundError as error:
    print(f"{error.__cause__}: FileNotFoundError, though ls shows it")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}: this has changed")
PYTHON
