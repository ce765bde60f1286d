"""Folders on real servers: OpenSSH, WsgiDAV, Azurite, an emulator of Google's, moto."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from watching import Host, serving, settings, until

from ion_core.contracts.settings import Section
from ion_gateway.watching import folder as folder_module
from ion_gateway.watching.patterns import Patterns
from ion_gateway.watching.remote import RemoteFolder
from tests.support.file_servers import FileServer
from tests.support.object_stores import ObjectStore

KINDS = ["sftp", "webdav", "azure", "google", "s3"]


class Far:
    """A place on a server, new and empty, and another program's access to it."""

    def __init__(self, server: FileServer | ObjectStore) -> None:
        self.url, self.options = server.place(), dict(server.options)
        self._directory = server.path_of(self.url) if isinstance(server, FileServer) else None
        section, everything = Section(key="services.watch"), Patterns(["**"], None)
        self._objects = RemoteFolder(self.url, self.options, everything, section, "folders.x")
        if self._directory is not None:
            (self._directory / "in").mkdir(parents=True)

    def put(self, path: str, content: bytes = b"x") -> None:
        if self._directory is None:
            self._objects._filesystem().pipe_file(f"{self.url}/{path}", content)
            return
        target, beside = self._directory / path, self._directory / "beside"
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.rename(target)

    def found(self, below: str) -> list[str]:
        if self._directory is not None:
            root = self._directory / below
            return sorted(str(it.relative_to(root)) for it in root.rglob("*") if it.is_file())
        filesystem = self._objects._filesystem()
        place = filesystem._strip_protocol(f"{self.url}/{below}")
        return sorted(it.removeprefix(f"{place}/") for it in filesystem.find(place))

    def content(self, path: str) -> bytes:
        if self._directory is not None:
            return (self._directory / path).read_bytes()
        found: bytes = self._objects._filesystem().cat_file(f"{self.url}/{path}")
        return found

    def folder(self, **more: Any) -> dict[str, Any]:
        return {"url": f"{self.url}/in", "options": self.options, "stable": None, **more}


@pytest.fixture(params=KINDS)
def far(request: pytest.FixtureRequest) -> Far:
    return Far(request.getfixturevalue(request.param))


async def test_each_version_of_a_file_is_published_once_and_alike_by_every_host(tmp_path: Path, far: Far) -> None:
    far.put("in/a", b"first")
    far.put("in/.hidden/b")
    far.put("in/c.part")
    made, host = settings(tmp_path, far=far.folder(stable="0s")), Host()
    async with serving(made, host):
        await host.paths(1)
        far.put("in/b/ü c.jpg", b"deep")
        await host.paths(2)
        far.put("in/a", b"another one")
        await host.paths(3)
    assert [(it.path, *it.files.values()) for it in host.taken] == [
        ("a", b"first"),
        ("b/ü c.jpg", b"deep"),
        ("a", b"another one"),
    ]
    far.put("in/z")
    again, elsewhere = Host(), Host()
    async with serving(made, again):
        await again.paths(1)
    assert again.asked == ["z"], "after a restart nothing is published again"
    (tmp_path / "elsewhere").mkdir()
    async with serving(settings(tmp_path / "elsewhere", far=far.folder(stable="0s")), elsewhere):
        await elsewhere.paths(3)
    assert {it.id for it in elsewhere.taken} == {it.id for it in (*host.taken[1:], *again.taken)}


@pytest.mark.parametrize(
    ("far", "after"),
    # not google-move: gcsfs moves by a call that the emulator does not have, which it tries six times
    [*((kind, "move") for kind in ("sftp", "webdav", "azure", "s3")), *((kind, "delete") for kind in KINDS)],
    indirect=["far"],
)
async def test_what_was_published_goes_with_its_mark_and_replaces_nothing(tmp_path: Path, far: Far, after: str) -> None:
    more = {"to": f"{far.url}/taken"} if after == "move" else {}
    far.put("taken/b/a", b"of somebody else")
    for name in ("b/a", "b/a.done", "c"):
        far.put(f"in/{name}", name.encode())
    host = Host()
    async with serving(settings(tmp_path, far=far.folder(after=after, done=".done", **more)), host):
        await host.paths(1)
        await until(lambda: far.found("in") == ["c"])
    assert [it.path for it in host.taken] == ["b/a"]
    taken = far.found("taken")
    taken.remove("b/a")
    assert far.content("taken/b/a") == b"of somebody else"
    assert [far.content(f"taken/{path}") for path in taken] == ([b"b/a"] if after == "move" else [])


@pytest.mark.parametrize("kind", ["sftp", "webdav"])
async def test_a_server_that_hangs_is_said_once_and_gone_on_with_when_it_answers(
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    server: FileServer = request.getfixturevalue(kind)
    far, host = Far(server), Host()
    async with serving(settings(tmp_path, far=far.folder(stable="0s")), host):
        far.put("in/a")
        await host.paths(1)
        server.signal(signal.SIGSTOP)
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr(folder_module, "ANSWERS_WITHIN", 0.1)
                await until(lambda: "gave no answer" in caplog.text)
        finally:
            server.signal(signal.SIGCONT)
        far.put("in/b")
        await host.paths(2)
        await until(lambda: "is there again" in caplog.text)
    assert [it.path for it in host.taken] == ["a", "b"]
