"""Which driver Azure gets, and its bad days by either of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from pydantic import ValidationError
from stored_files import MIB, file, info

from ion_core.contracts.storage import Document
from ion_core.errors import ConfigError, TransientError
from ion_fsspec_storage import choosing
from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.documents import open_fsspec_documents
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
from ion_fsspec_storage.ways import Direct
from tests.support.object_stores import ObjectStore, azure_at, free_port

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # adlfs does
PATIENCE = 60.0
SIZES = [10_000, 17 * MIB]
KEYS = {"account_name": "ionfiles", "account_key": "Y2FuYXJ5"}
TOKEN = {"account_name": "ionfiles", "sas_token": "?sv=2025&sig=canary"}
STRING = "DefaultEndpointsProtocol=https;AccountName=ionfiles;AccountKey=Y2FuYXJ5;EndpointSuffix=core.windows.net"


def chosen(url: str, options: dict[str, Any], driver: Any = "auto", **environ: str) -> Direct | None:
    return choosing.direct(FsspecBlobsSettings(url=url, options=options, driver=driver), environ)


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        (KEYS, "https://ionfiles.blob.core.windows.net"),
        (TOKEN, "https://ionfiles.blob.core.windows.net"),
        ({"connection_string": STRING}, "https://ionfiles.blob.core.windows.net"),
        ({"connection_string": STRING.replace("core.windows.net", "core.chinacloudapi.cn")}, "https://ionfiles.blob.core.chinacloudapi.cn"),
        ({"connection_string": STRING + ";BlobEndpoint=http://10.0.0.1:10000/ionfiles/"}, "http://10.0.0.1:10000/ionfiles"),
        ({"connection_string": STRING, **KEYS, "max_concurrency": 8}, "https://ionfiles.blob.core.windows.net"),
        ({**KEYS, "read_timeout": 3, "connection_timeout": 1.5}, "https://ionfiles.blob.core.windows.net"),
    ],
)  # fmt: skip
def test_obstore_is_the_driver_where_settings_mean_the_same_to_it(options: dict[str, Any], endpoint: str) -> None:
    where = chosen("az://container/some/place", options)
    assert where is not None
    assert (where.bucket, where.prefix, where.config["endpoint"]) == ("container", "some/place", endpoint)
    assert where.keys is not None
    assert chosen("az://container/some/place", options, driver="fsspec") is None


@pytest.mark.parametrize(
    ("url", "options", "key"),
    [
        ("abfs://container@ionfiles.dfs.core.windows.net/x", KEYS, "url"),
        ("az://container/a//b", KEYS, "url"),
        ("az://container/x", {"account_name": "ionfiles"}, "options"),
        ("az://container/x", {**KEYS, **TOKEN}, "options"),
        ("az://container/x", {"account_key": "Y2FuYXJ5"}, "options.account_name"),
        ("az://container/x", {**KEYS, "account_host": "x.example.org"}, "options.account_host"),
        ("az://container/x", {**KEYS, "anon": True}, "options.anon"),
        ("az://container/x", {"account_name": "ionfiles", "client_id": "x"}, "options.client_id"),
        ("az://container/x", {**KEYS, "read_timeout": "3"}, "options.read_timeout"),
        ("az://container/x", {**KEYS, "account_key": 7}, "options.account_key"),
        ("az://container/x", {"connection_string": STRING + ";BlobSecondary=http://x"}, "options.connection_string"),
        ("az://container/x", {"connection_string": STRING + ";BlobEndpoint=nowhere"}, "options.connection_string"),
        ("az://container/x", {"connection_string": STRING, "account_name": "another"}, "options"),
        ("az://container/x", {"connection_string": STRING, "sas_token": "x"}, "options"),
    ],
)  # fmt: skip
def test_what_obstore_has_nothing_for_leaves_adlfs_the_driver_and_is_refused_where_obstore_is_wanted(
    url: str, options: dict[str, Any], key: str
) -> None:
    assert chosen(url, options) is None
    with pytest.raises(ValidationError, match=f"{key} does not go with driver: obstore") as refused:
        chosen(url, options, driver="obstore")
    assert "canary" not in str(refused.value)
    assert "Y2FuYXJ5" not in str(refused.value)


@pytest.mark.parametrize("name", ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CLIENT_ID", "FSSPEC_AZ_ANON"])
def test_variables_that_say_something_of_azure_leave_adlfs_the_driver(name: str) -> None:
    assert chosen("az://container/x", KEYS, **{name: "x"}) is None
    assert chosen("az://container/x", KEYS, driver="obstore", **{name: "x"}) is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"account_key": "Y2FuYXJ5\n"}, "a key has other letters than keys have"),
        ({"account_key": "canary-key"}, "the key of the account is not base64"),
        ({"account_key": None, "sas_token": "?sig=canary two"}, "a key has other letters than keys have"),
    ],
)
def test_a_key_that_is_none_never_gets_to_obstore(given: dict[str, Any], said: str) -> None:
    options = {**KEYS, **given}
    assert chosen("az://container/x", options) is None
    with pytest.raises(ConfigError, match=said) as refused:
        chosen("az://container/x", options, driver="obstore")
    assert "canary" not in str(refused.value)


@pytest.fixture
def behind(azure: ObjectStore) -> ObjectStore:
    return azure


@pytest.fixture(params=["fsspec", "obstore"])
def place(request: pytest.FixtureRequest, proxy: FaultyProxy) -> dict[str, Any]:
    return azure_at(proxy.port).settings(driver=request.param)


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_a_store_that_does_not_answer_is_said_to_within_seconds(driver: str) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TransientError, match="Is it reachable"):
            async with open_fsspec_blobs(FsspecBlobsSettings(**azure_at(free_port()).settings(driver=driver))):
                pass


@pytest.mark.parametrize("size", SIZES)
async def test_a_busy_server_is_waited_for_and_said_in_the_end(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.says = [(503, "ServerBusy")] * 2
        await blobs.put("key", file(tmp_path, content))
        assert proxy.says == []
        proxy.says = [(503, "ServerBusy")] * 1_000
        with pytest.raises(TransientError, match=r"key: the backend did not do it .*503"):
            await blobs.put("key", file(tmp_path, os.urandom(size)))
        proxy.says = []
        await blobs.get("key", tmp_path / "target", expect=info(content))


@pytest.mark.parametrize("size", SIZES)
async def test_bodies_that_are_torn_cut_off_or_damaged_on_their_way_go_once_more(
    size: int, blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    content = os.urandom(size)
    async with asyncio.timeout(PATIENCE):
        proxy.torn = 2
        await blobs.put("key", file(tmp_path, content))
        proxy.cut = 2
        await blobs.get("key", tmp_path / "target", expect=info(content))
        proxy.damaged = 1
        await blobs.get("key", tmp_path / "again", expect=info(content))
    assert (proxy.torn, proxy.cut, proxy.damaged) == (0, 0, 0)


async def test_credentials_that_are_taken_back_in_the_middle_of_an_upload_leave_nothing_half(
    blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path
) -> None:
    before, after = os.urandom(17 * MIB), os.urandom(17 * MIB)
    async with asyncio.timeout(PATIENCE):
        await blobs.put("old", file(tmp_path, before))
        for key in ("old", "new"):
            asked, proxy.says = proxy.requests, [(403, "AuthenticationFailed")] * 1_000
            proxy.says_to = rb"PUT \S*(comp=blocklist|/blobs/\w+ )"  # the last of several, or the only one
            with pytest.raises(TransientError, match=f"{key}: access is denied"):
                await blobs.put(key, file(tmp_path, after))
            assert proxy.requests - asked < 10, "it is not tried again"
            proxy.says = []
        await blobs.get("old", tmp_path / "target", expect=info(before))
        assert [key async for key in blobs.list("")] == ["old"]


async def test_a_deletion_that_is_denied_says_so(blobs: FsspecBlobs, proxy: FaultyProxy, tmp_path: Path) -> None:
    await blobs.put("key", file(tmp_path, b"content"))
    proxy.says, proxy.says_to = [(403, "AuthorizationPermissionMismatch")], b"(POST|DELETE) "
    with pytest.raises(TransientError, match="key: access is denied"):
        await blobs.delete("key")
    await blobs.get("key", tmp_path / "target", expect=info(b"content"))


async def test_a_lost_answer_to_a_create_is_no_lost_race(place: dict[str, Any], proxy: FaultyProxy) -> None:
    document = Document(kind="commit", id="job", correlation_id="flow", body={"n": 1})
    async with open_fsspec_documents(FsspecDocumentsSettings(**place)) as documents:
        documents._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        proxy.lost = 1
        await documents.create(document)
        assert proxy.lost == 0
        assert await documents.get("commit", "job") == document


async def test_a_409_that_is_not_about_the_object_is_no_lost_race(place: dict[str, Any], proxy: FaultyProxy) -> None:
    """Azure says so of a container that is being deleted, too."""
    async with open_fsspec_documents(FsspecDocumentsSettings(**place)) as documents:
        objects: Any = documents._objects  # type: ignore[attr-defined]
        objects._retries.delay = 0.0
        proxy.says = [(409, "OperationTimedOut")] * 2
        assert await asyncio.to_thread(objects.create, "documents/commit/job", b"{}") is True
        assert proxy.says == []
        assert await asyncio.to_thread(objects.create, "documents/commit/job", b"other") is False
