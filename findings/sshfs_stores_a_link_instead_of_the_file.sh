#!/usr/bin/env bash
# sshfs (2026.8.0, on asyncssh 2.24.1), put_file: a source that is a symbolic link is stored as a symbolic link with the same target,
# not as the file that it leads to; fsspec's own SFTP driver, and every other that was tried, store the content. So is /dev/fd/N, the way
# to hand over a file that is open: what lies on the server then leads nowhere, or to whatever the server has under that name. There
# is no error, and the listing has the name.
#
# Seen: "/dev/fd/N: stored as a link, which cannot be read", and the same of a link in a directory. Fails if the content is stored.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'sshfs==2026.8.0' 'asyncssh==2.24.1'
mkdir "$work/served"
"$work/venv/bin/python" -W ignore - "$work" <<'PYTHON'
import asyncio, os, sys, threading
from pathlib import Path

import asyncssh
from sshfs import SSHFileSystem

work, started, port = Path(sys.argv[1]), threading.Event(), 0
key = asyncssh.generate_private_key("ssh-ed25519")


class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


def serve():
    async def main():
        global port
        root = str(work / "served")
        sftp = lambda channel: asyncssh.SFTPServer(channel, chroot=root)
        server = await asyncssh.listen("127.0.0.1", 0, server_factory=Anybody, server_host_keys=[key], sftp_factory=sftp)
        port = server.get_port()
        started.set()
        await asyncio.Event().wait()

    asyncio.run(main())


threading.Thread(target=serve, daemon=True).start()
assert started.wait(30)
files = SSHFileSystem("127.0.0.1", port=port, username="anybody", password="x")
content = work / "content"
content.write_bytes(b"content")
(work / "link").symlink_to(content)
with content.open("rb") as file:
    for name, source in (("descriptor", f"/dev/fd/{file.fileno()}"), ("link", str(work / "link"))):
        files.put_file(source, f"/{name}")
        stored = work / "served" / name
        if not stored.is_symlink():
            sys.exit(f"{source}: is stored as {stored.read_bytes()!r}: this has changed")
        try:
            got = files.cat_file(f"/{name}")
        except Exception:
            got = None
        assert got != b"content", got
        print(f"{'/dev/fd/N' if name == 'descriptor' else 'a link'}: stored as a link, which cannot be read")
os._exit(0)
PYTHON
