"""Real `ion-core` processes whose files and documents lie in S3."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import faulty_proxy_to

from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support import commands
from tests.support.file_servers import FileServer
from tests.support.object_stores import ObjectStore, client, s3_at

FACES = Path(__file__).resolve().parents[3] / "examples" / "faces"
SECRET = "testing-secret"
STORAGE = """
storage:
  blobs: {{provider: fsspec, url: "{url}", options: {options}}}
  documents: {{provider: fsspec, url: "{url}", options: {options}}}
"""
COPY = """
modules:
  copy:
    command: [sh, -c, 'echo copying; cp -R "$HANDLER_BASE_DIR"/in/data/. "$HANDLER_BASE_DIR"/out/data/']
    source: .
    subscribes: [file.received]
    retries: 0
"""


class Home:
    """A directory with an ion.yaml. What it keeps lies in S3, or in .ion without ``store``."""

    def __init__(self, home: Path, config: str, store: ObjectStore | None) -> None:
        self.home = home
        self.url = ""
        self.said = ""
        if store is not None:
            self.url = store.place()
            options = {**store.options, "secret": "${env:TEST_SECRET}"}
            config += STORAGE.format(url=self.url, options=json.dumps(options))
        (home / "ion.yaml").write_text(config, encoding="utf-8")

    def ion(self, *arguments: str, code: int = 0) -> str:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
        environ |= {"TEST_SECRET": SECRET, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"}
        done = commands.run(*arguments, cwd=self.home, environ=environ, within=100)
        assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
        assert SECRET not in done.stdout + done.stderr
        self.said = done.stderr
        return done.stdout

    def publish(self, event_type: str, *files: Path) -> dict[str, Any]:
        given = [argument for file in files for argument in ("--file", str(file))]
        event: dict[str, Any] = json.loads(self.ion("event", "publish", event_type, *given, "--json"))
        return event

    def flow(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ion("trace", "flow", event["context"]["correlationId"], "--json"))
        return found


def shape(flow: list[dict[str, Any]]) -> Counter[str]:
    """What every run of it has alike."""
    return Counter(
        json.dumps(
            [
                [document["context"][key] for key in ("documentType", "name")],
                [document.get(key) for key in ("type", "files", "succeeded", "attempt")],
                [pair for pair in document.get("data", ()) if "://" not in pair["value"]],  # but for where a file lies
                [[blob["name"], blob["size"], blob["sha256"]] for blob in document.get("blobs", ())],
                [[output["name"], output["sha256"]] for output in document.get("outputs", ())],
            ]
        )
        for document in flow
    )


def test_the_example_has_the_same_flow_with_files_and_documents_in_s3(s3: ObjectStore, tmp_path: Path) -> None:
    flows = []
    for name, store in (("embedded", None), ("s3", s3)):
        shutil.copytree(FACES, tmp_path / name, ignore=shutil.ignore_patterns(".ion*"))
        home = Home(tmp_path / name, (FACES / "ion.yaml").read_text(encoding="utf-8"), store)
        event = home.publish("photo.received", FACES / "photos" / "astronaut.jpg")
        home.ion("serve", "--until-idle")
        flows.append(home.flow(event))
    assert len(flows[0]) >= 8
    assert shape(flows[0]) == shape(flows[1])
    tree = home.ion("trace", "flow", event["context"]["correlationId"])
    for text in ("photo.received", "face.detected", "face.blurred", "catalogue"):
        assert text in tree
    assert event["context"]["correlationId"] in home.ion("trace", "list")
    logs = home.ion("logs", event["context"]["eventId"])
    assert "== detect, attempt 1: committed" in logs
    assert "Worker logs" in logs
    [crop] = home.ion("files", "--module", "blur", "--get", "results").splitlines()
    [listed] = json.loads(home.ion("files", event["context"]["correlationId"][:8], "--module", "blur", "--json"))
    assert hashlib.sha256((home.home / crop).read_bytes()).hexdigest() == listed["sha256"]
    left = {path.name for path in (tmp_path / "s3" / ".ion").iterdir()}
    assert not left & {"blobs", "documents.sqlite"}, "nothing of them is kept here"


def test_files_on_an_ssh_server_and_documents_here_are_one_pipeline(sftp: FileServer, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"content")
    blobs = {"provider": "fsspec", **sftp.settings()}
    home = Home(tmp_path, f"{COPY}\nstorage: {json.dumps({'blobs': blobs})}\n", None)
    event = home.publish("file.received", tmp_path / "scan.tif")
    home.ion("serve", "--until-idle")
    [commit] = [it for it in home.flow(event) if it["context"]["documentType"] == "commit"]
    assert [output["name"] for output in commit["outputs"]] == ["scan.tif"]
    place = sftp.path_of(blobs["url"])
    assert len([path for path in place.rglob("scan.tif") if path.read_bytes() == b"content"]) == 2
    removed = json.loads(home.ion("gc", "--older-than", "0s", "--json"))
    assert (removed["flows"], removed["files"], removed["failed"]) == (1, 2, 0)
    assert [path.name for path in place.iterdir()] == ["unfinished"]


def test_jobs_at_an_engine_find_their_files_and_documents_in_s3(s3: ObjectStore, tmp_path: Path) -> None:
    """Their steps are processes that read a derived configuration, and open its stores plainly."""
    (tmp_path / "scan.tif").write_bytes(b"content")
    home = Home(tmp_path, COPY + "\nruntimes: {default: {provider: subprocess}}\n", s3)
    event = home.publish("file.received", tmp_path / "scan.tif")
    home.ion("serve", "--until-idle")
    [commit] = [it for it in home.flow(event) if it["context"]["documentType"] == "commit"]
    assert [output["name"] for output in commit["outputs"]] == ["scan.tif"]
    [copied] = home.ion("files", "--module", "copy", "--get", "results").splitlines()
    assert (home.home / copied).read_bytes() == b"content"


async def test_a_job_whose_input_was_damaged_fails_naming_the_file(s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"as it was")
    home = Home(tmp_path, COPY, s3)
    damaged, good = [await asyncio.to_thread(home.publish, "file.received", tmp_path / "scan.tif") for _ in "12"]
    settings = FsspecBlobsSettings(url=home.url, options=dict(s3.options))
    async with open_fsspec_blobs(settings) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        [key] = [key async for key in blobs.list(damaged["context"]["correlationId"])]
        await asyncio.to_thread(blobs._objects.write, f"blobs/{key}", b"as it is!")

    await asyncio.to_thread(home.ion, "serve", "--until-idle", code=1)

    [letter] = json.loads(await asyncio.to_thread(home.ion, "dlq", "list", "--json"))
    assert letter["eventId"] == damaged["context"]["eventId"]
    assert f"blob {key}: was stored with 9 bytes" in letter["reason"]
    assert key.endswith("/scan.tif")
    [commit] = [it for it in home.flow(good) if it["context"]["documentType"] == "commit"]
    assert [output["name"] for output in commit["outputs"]] == ["scan.tif"]


def test_gc_works_there_too_whatever_folders_a_console_has_marked(s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"content")
    home = Home(tmp_path, COPY, s3)
    for _ in range(2):
        event = home.publish("file.received", tmp_path / "scan.tif")
    home.ion("serve", "--until-idle")
    flow, prefix = event["context"]["correlationId"], home.url.removeprefix("s3://ion-bucket/")
    for folder in ("", "blobs/", f"blobs/{flow}/", f"blobs/{flow}/{event['context']['eventId']}/", "flows/", "long/"):
        client(s3).put_object(Bucket="ion-bucket", Key=f"{prefix}/{folder}")
    removed = json.loads(home.ion("gc", "--older-than", "0s", "--json"))
    assert (removed["flows"], removed["files"], removed["kept"], removed["failed"]) == (2, 4, 0, 0)
    assert home.ion("trace", "list", "--json").split() == ["[]"]


async def test_gc_goes_on_after_an_object_that_is_locked_and_says_so(s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"content")
    async with faulty_proxy_to(s3.port) as proxy:
        home = Home(tmp_path, COPY, s3_at(proxy.port))
        events = [await asyncio.to_thread(home.publish, "file.received", tmp_path / "scan.tif") for _ in "12"]
        await asyncio.to_thread(home.ion, "serve", "--until-idle")
        prefix = home.url.removeprefix("s3://ion-bucket/") + f"/blobs/{events[0]['context']['correlationId']}/"
        listed = await asyncio.to_thread(client(s3).list_objects_v2, Bucket="ion-bucket", Prefix=prefix)
        proxy.locked = listed["Contents"][0]["Key"].rpartition("/blobs/")[2]
        removed = json.loads(await asyncio.to_thread(home.ion, "gc", "--older-than", "0s", "--json", code=1))
        assert (removed["flows"], removed["files"], removed["failed"]) == (1, 3, 1)
        assert "cannot be removed, so its flow stays" in home.said
        assert proxy.locked in home.said


@pytest.mark.parametrize("command", ["config", "check"])
def test_secrets_in_options_are_not_shown(command: str, s3: ObjectStore, tmp_path: Path) -> None:
    home = Home(tmp_path, COPY, s3)
    shown = home.ion(*(["config", "show"] if command == "config" else ["check"]))
    assert command == "check" or "endpoint_url" in shown
