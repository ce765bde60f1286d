#!/usr/bin/env bash
# fsspec (2026.9.0), AbstractFileSystem.find: a directory whose listing fails, with any OSError (a connection that was reset, a time-out,
# a permission), is left out without a word, and so is everything below it: walk's on_error is "omit", and find does not say
# otherwise. What comes back is a shorter list that looks whole. Drivers without a find of their own are so: SFTP, FTP, SMB, WebDAV, local.
# find(path, on_error="raise") hands it on, and raises for a directory that somebody just removed, too.
#
# Seen: "1 of 2 files found, no error". Fails if find raises.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'fsspec==2026.9.0'
mkdir -p "$work/served/a" "$work/served/b"
touch "$work/served/a/1" "$work/served/b/2"
"$work/venv/bin/python" - "$work/served" <<'PYTHON'
import sys

from fsspec.implementations.local import LocalFileSystem


class CutOff(LocalFileSystem):
    """A server that resets the connection at the second directory."""

    def ls(self, path, detail=False, **kwargs):
        if path.endswith("/b"):
            raise ConnectionResetError("Connection reset by peer")
        return super().ls(path, detail, **kwargs)


try:
    found = CutOff(skip_instance_cache=True).find(sys.argv[1])
except OSError as error:
    sys.exit(f"find raises {error!r}: this has changed")
assert len(found) == 1, found
print("1 of 2 files found, no error")
PYTHON
