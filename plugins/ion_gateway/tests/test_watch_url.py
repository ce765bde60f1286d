"""Folders behind URLs: a real S3 server, fsspec's local and memory filesystems."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import paramiko
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from watching import Host, serving, settings, until

from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, StorageFull, TransientError
from ion_gateway.watching import folder as folder_module
from ion_gateway.watching.entries import Gone
from ion_gateway.watching.folder import ASKED_FOR
from ion_gateway.watching.patterns import Patterns
from ion_gateway.watching.remote import RemoteFolder
from tests.support.object_stores import AZURE_ACCOUNT, AZURE_KEY, ObjectStore, client


@dataclass
class Place:
    """A URL, and another program's access to what is there."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        protocol = self.url.partition("://")[0]
        self._filesystem = fsspec.filesystem(
            protocol, **self.options, skip_instance_cache=True, use_listings_cache=False
        )

    def put(self, path: str, content: bytes = b"x") -> None:
        target = f"{self.url}/{path}"
        self._filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._filesystem.pipe_file(target, content)

    def found(self, below: str = "in") -> list[str]:
        root = self._filesystem._strip_protocol(f"{self.url}/{below}").lstrip("/")
        if isinstance(self._filesystem, MemoryFileSystem):
            # Its find() raises where a thread of the service changes what is there; a list of names is made in one go.
            there = [it for it in list(self._filesystem.store) if it.startswith(f"/{root}/")]
        else:
            there = self._filesystem.find(f"{self.url}/{below}")
        return sorted(it.lstrip("/").removeprefix(f"{root}/") for it in there)

    def folder(self, **more: Any) -> dict[str, Any]:
        return {"url": f"{self.url}/in", "options": self.options, "stable": None, **more}

    def source(self, **more: Any) -> RemoteFolder:
        section = Section(key="services.watch")
        return RemoteFolder(f"{self.url}/in", self.options, Patterns(["**"], None), section, "folders.x", **more)


@pytest.fixture(params=["s3", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: ObjectStore = request.getfixturevalue("s3")
        return Place(server.place(), dict(server.options))
    if request.param == "file":
        (tmp_path / "there/in").mkdir(parents=True)
        return Place(f"file://{tmp_path}/there")
    return Place(f"memory://{uuid.uuid4().hex}")


async def test_what_is_there_and_what_comes_is_published_once(tmp_path: Path, place: Place) -> None:
    place.put("in/a.jpg", b"first")
    place.put("in/.hidden/b.jpg")
    place.put("in/c.part")
    place.put("elsewhere/d.jpg")
    made = settings(tmp_path, photos=place.folder(stable="0s", data={"from": "camera"}))
    host = Host()
    async with serving(made, host):
        await host.paths(1)
        place.put("in/b/ü c.jpg", b"second")
        await host.paths(2)
    assert [(it.path, it.files) for it in host.taken] == [
        ("a.jpg", {"a.jpg": b"first"}),
        ("b/ü c.jpg", {"ü c.jpg": b"second"}),
    ]
    assert host.taken[0].data == {"from": "camera", "folder": "photos", "path": "a.jpg"}
    assert not list(host.work.iterdir())
    place.put("in/z.jpg")
    again = Host()
    async with serving(made, again):
        await again.paths(1)
    assert again.asked == ["z.jpg"], "after a restart nothing is published again"


async def test_on_every_host_it_is_the_same_event(tmp_path: Path, place: Place) -> None:
    for name in ("a", "b/c", "ü"):
        place.put(f"in/{name}")
    hosts = Host(), Host()
    for number, host in enumerate(hosts):
        state = tmp_path / f"state{number}"
        state.mkdir()
        async with serving(settings(state, photos=place.folder(stable="0s")), host):
            await host.paths(3)
    assert {it.id for it in hosts[0].taken} == {it.id for it in hosts[1].taken}


async def test_what_changed_is_another_event(tmp_path: Path, place: Place) -> None:
    place.put("in/a", b"first")
    host = Host()
    async with serving(settings(tmp_path, photos=place.folder(stable="0s")), host):
        await host.paths(1)
        place.put("in/a", b"second")
        await host.paths(2)
    assert [it.files["a"] for it in host.taken] == [b"first", b"second"]
    assert host.taken[0].id != host.taken[1].id


@pytest.mark.parametrize("after", ["move", "delete"])
async def test_afterwards_it_goes(tmp_path: Path, place: Place, after: str) -> None:
    more = {"to": f"{place.url}/taken"} if after == "move" else {}
    for name in ("b/a", "b/a.done", "c"):
        place.put(f"in/{name}", name.encode())
    host = Host()
    async with serving(settings(tmp_path, photos=place.folder(after=after, done=".done", **more)), host):
        await host.paths(1)
        await until(lambda: place.found() == ["c"])
        place.put("in/b/a", b"again")
        place.put("in/b/a.done")
        await host.paths(2)
        await until(lambda: place.found() == ["c"])
    assert [it.files["a"] for it in host.taken] == [b"b/a", b"again"]
    found = place.found("taken")
    assert len(found) == (2 if after == "move" else 0)
    assert found[:1] == (["b/a"] if after == "move" else [])


async def test_what_is_to_rest_first_is_listed_again_in_time(tmp_path: Path, place: Place) -> None:
    host = Host()
    for number in range(ASKED_FOR + 1):
        place.put(f"in/{number}")
    async with serving(settings(tmp_path, photos=place.folder(stable="100ms", every="1h")), host):
        await host.paths(ASKED_FOR + 1)
    assert len(host.asked) == ASKED_FOR + 1


def test_what_is_another_file_by_now_is_left_alone(tmp_path: Path, place: Place) -> None:
    place.put("in/a", b"first")
    source = place.source(to=f"{place.url}/taken")
    (entry,) = source.list().entries.values()
    place.put("in/a", b"another")
    for call in (lambda: source.fetch(entry, tmp_path / "copy"), lambda: source.delete(entry, None)):
        with pytest.raises(Gone):
            call()
    with pytest.raises(Gone):
        source.move(entry, None, "a.1")
    assert place.found() == ["a"]


def test_what_is_replaced_while_it_is_fetched_is_not_taken(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("in/a", b"first")
    source = place.source()
    (entry,) = source.list().entries.values()
    fetched = source._filesystem().get_file

    def fetch_and_put(*given: Any) -> None:
        fetched(*given)
        place.put("in/a", b"other")

    monkeypatch.setattr(source._filesystem(), "get_file", fetch_and_put)
    with pytest.raises(Gone):
        source.fetch(entry, tmp_path / "copy")


def test_a_missing_directory_of_our_own_is_not_taken_for_a_file_that_is_gone(tmp_path: Path, place: Place) -> None:
    place.put("in/a", b"first")
    source = place.source()
    (entry,) = source.list().entries.values()
    with pytest.raises(TransientError, match=rf"{tmp_path}/own: a copy cannot be written there: No such file"):
        source.fetch(entry, tmp_path / "own" / "copy")
    (tmp_path / "own").mkdir()
    source.fetch(entry, tmp_path / "own" / "copy")
    assert (tmp_path / "own" / "copy").read_bytes() == b"first"


def test_a_full_disk_of_our_own_is_no_fault_of_the_server(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("in/a", b"first")
    source = place.source()
    (entry,) = source.list().entries.values()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(source._filesystem(), "get_file", full)
    with pytest.raises(StorageFull, match=rf"{tmp_path}: no space left"):
        source.fetch(entry, tmp_path / "copy")


def test_a_bucket_that_is_not_there_is_said_with_its_key(s3: ObjectStore) -> None:
    source = Place("s3://never-made", dict(s3.options)).source()
    with pytest.raises(ConfigError, match=r"services\.watch\.folders\.x\.url: s3://never-made/in does not exist"):
        source.check()


def test_a_directory_that_is_not_there_is_said_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folders\.x\.url: file:.*there/in does not exist"):
        Place(f"file://{tmp_path}/there").source().check()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("nothing://x/y", {}, r"folders\.x\.url: .*nothing"),
        (
            "s3://x/y",
            {"secrt": "canary"},
            r"folders\.x\.options: s3:// cannot be set up with them \(TypeError: secrt\)",
        ),
    ],
)
def test_what_no_driver_takes_is_said_with_its_key(url: str, options: dict[str, Any], says: str) -> None:
    source = RemoteFolder(url, options, Patterns(["**"], None), Section(key="services.watch"), "folders.x")
    with pytest.raises(ConfigError, match=says) as refused:
        source.check()
    assert "canary" not in str(refused.value)


WITHOUT_DRIVERS = """
import sys

sys.modules.update(dict.fromkeys(("s3fs", "gcsfs", "adlfs", "paramiko", "webdav4", "smbclient")))  # none is there

from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError
from ion_gateway.watching.patterns import Patterns
from ion_gateway.watching.remote import RemoteFolder

for protocol in sys.argv[1:]:
    try:
        section, every = Section(key="services.watch"), Patterns(["**"], None)
        RemoteFolder(f"{protocol}://x/y", {}, every, section, "folders.x").check()
    except ConfigError as error:
        print(error)
"""


def test_a_driver_that_is_missing_is_said_with_what_brings_it() -> None:
    """In a process of its own: here the drivers are imported already."""
    extras = {
        **{"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"},
        **{"sftp": "sftp", "ssh": "sftp", "webdav": "webdav"},
    }
    argv = [sys.executable, "-c", WITHOUT_DRIVERS, *extras, "smb", "sftpp", "nope"]
    *ours, smb, misspelt, unknown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    begin = "services.watch.folders.x.url: "
    assert ours == [
        f"{begin}the driver for {protocol}:// is not installed. pip install 'ion-gateway[{extra}]'"
        for protocol, extra in extras.items()
    ]
    assert smb.startswith(f"{begin}the driver for smb:// is not installed. ")
    assert "smbprotocol" in smb
    assert misspelt == f"{begin}fsspec knows no protocol sftpp://. Did you mean sftp://?"
    assert unknown.startswith(f"{begin}fsspec knows no protocol nope://.")


def test_a_server_that_does_not_answer_is_no_mistake_of_the_configuration(s3: ObjectStore) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        options = {**s3.options, "endpoint_url": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        source = Place(s3.place(), options).source()
        source.check()
        with pytest.raises(TransientError, match="Is it reachable"):
            source.list()


def test_an_ssh_host_whose_key_is_not_known_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own driver would trust whoever answers, and send the password."""
    monkeypatch.setenv("HOME", str(tmp_path))
    key = paramiko.ECDSAKey.generate()
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            made = paramiko.Transport(listening.accept()[0])
            transports.append(made)
            made.add_server_key(key)
            made.start_server(event=threading.Event(), server=paramiko.ServerInterface())

        answering = threading.Thread(target=answer)
        answering.start()
        url = f"sftp://me@127.0.0.1:{listening.getsockname()[1]}/in"
        options = {"password": "canary", "allow_agent": False, "look_for_keys": False}
        source = RemoteFolder(url, options, Patterns(["**"], None), Section(key="services.watch"), "folders.x")
        try:
            with pytest.raises(ConfigError, match=r"folders\.x\.url: .*the host key of .* is not known") as refused:
                source.check()
        finally:
            answering.join(30)
            for made in transports:
                made.close()
    assert key.fingerprint in str(refused.value)
    assert "canary" not in str(refused.value)


async def test_a_bucket_that_goes_and_comes_back_is_said_once(
    tmp_path: Path, s3: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bucket = f"later-{uuid.uuid4().hex[:8]}"
    client(s3).create_bucket(Bucket=bucket)
    there = Place(f"s3://{bucket}", dict(s3.options))
    host = Host()
    async with serving(settings(tmp_path, photos=there.folder()), host):
        there.put("in/a")
        await host.paths(1)
        for path in there.found():
            client(s3).delete_object(Bucket=bucket, Key=f"in/{path}")
        client(s3).delete_bucket(Bucket=bucket)
        await until(lambda: "cannot be listed" in caplog.text)
        client(s3).create_bucket(Bucket=bucket)
        there.put("in/b")
        assert await host.paths(2) == ["a", "b"]
        await until(lambda: "is there again" in caplog.text)
    assert caplog.text.count("cannot be listed") == 1


@pytest.mark.parametrize("protocol", ["az", "s3", "sftp"])
async def test_a_server_that_never_answers_is_given_up_and_keeps_nothing_from_ending(
    tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where its driver would wait for ever."""
    for bound in ("CHECKED_WITHIN", "ANSWERS_WITHIN", "FINISH_WITHIN"):
        monkeypatch.setattr(folder_module, bound, 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hanging:  # which takes connections, and no more
        port = hanging.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        account = f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
        far: dict[str, Any] = {
            "az": {
                "url": "az://container/in",
                "options": {"connection_string": f"{account}BlobEndpoint={address}/{AZURE_ACCOUNT};"},
            },
            "s3": {
                "url": "s3://bucket/in",
                "options": {
                    "endpoint_url": address,
                    "key": "x",
                    "secret": "x",
                    "config_kwargs": {"read_timeout": 3600},
                },
            },
            "sftp": {
                "url": f"sftp://me@127.0.0.1:{port}/in",
                "options": {"banner_timeout": 3600, "allow_agent": False, "look_for_keys": False},
            },
        }
        (tmp_path / "near").mkdir()
        (tmp_path / "near" / "a").touch()
        host = Host()
        async with serving(settings(tmp_path, far=far[protocol], near={"path": "near"}), host):
            assert await host.paths(1) == ["a"]
            await until(lambda: "cannot be listed" in caplog.text)
    assert "gave no answer for 0.1 s" in caplog.text
