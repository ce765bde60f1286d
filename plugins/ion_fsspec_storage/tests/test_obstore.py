"""Which driver S3 gets, and what is obstore's alone: conditions, ETags, regions, parts, what it must not read."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from pydantic import ValidationError
from stored_files import MIB, file, info

from ion_core.contracts.provider import Section
from ion_core.contracts.storage import Document
from ion_core.errors import BlobCorrupt, ConfigError, DocumentExists, StorageFull, TransientError
from ion_fsspec_storage import choosing, plain, plugin
from ion_fsspec_storage import s3 as s3_words
from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.direct import DirectObjects
from ion_fsspec_storage.documents import FsspecDocuments, open_fsspec_documents
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
from ion_fsspec_storage.ways import Direct
from tests.support.certificates import Authority
from tests.support.object_stores import ObjectStore, client, free_port, s3_at

KEYS = {"key": "k", "secret": "canary-secret"}
REGION = {"client_kwargs": {"region_name": "eu-west-1"}}
HERE = {**KEYS, "endpoint_url": "http://localhost:9000"}
SECURE = {**KEYS, "endpoint_url": "https://s3.example.org"}
COMMIT = Document(kind="commit", id="job", correlation_id="flow", body={"n": 1})


def chosen(url: str, options: dict[str, Any], driver: Any = "auto", **environ: str) -> Direct | None:
    settings = FsspecBlobsSettings(url=url, options=options, driver=driver)
    return choosing.direct(settings, {"HOME": "/nonexistent", **environ})


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        (HERE, {}),
        ({**KEYS, **REGION}, {}),
        ({**HERE, "config_kwargs": {"read_timeout": 3, "s3": {"addressing_style": "path"}}}, {}),
        ({"anon": True, **REGION}, {}),
        (REGION, {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}),
        (KEYS, {"AWS_DEFAULT_REGION": "eu-west-1"}),
        (KEYS, {"AWS_ENDPOINT_URL": "http://localhost:9000"}),
        (HERE, {"AWS_CA_BUNDLE": "/etc/bundle"}),
        ({**HERE, "default_cache_type": "none"}, {}),
    ],
)
def test_obstore_is_the_driver_where_settings_mean_the_same_to_it(
    options: dict[str, Any], environ: dict[str, str]
) -> None:
    assert chosen("s3://bucket/some/place", options, **environ) is not None
    assert chosen("s3://bucket/some/place", options, driver="fsspec", **environ) is None


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({**HERE, "profile": "p"}, "options.profile"),
        ({**HERE, "s3_additional_kwargs": {"ACL": "private"}}, "options.s3_additional_kwargs"),
        ({**HERE, "requester_pays": True}, "options.requester_pays"),
        ({**HERE, "client_kwargs": {"verify": "/etc/bundle"}}, "options.client_kwargs.verify"),
        ({**HERE, "client_kwargs": {"region_name": "cn-north-1"}}, "options.client_kwargs.region_name"),
        ({**HERE, "client_kwargs": {"aws_account_id": "1"}}, "options.client_kwargs.aws_account_id"),
        ({**HERE, "config_kwargs": {"proxies": {}}}, "options.config_kwargs.proxies"),
        ({**HERE, "config_kwargs": {"signature_version": "s3"}}, "options.config_kwargs.signature_version"),
        ({**HERE, "config_kwargs": {"s3": {"addressing_style": "virtual"}}}, "options.config_kwargs.s3.addressing"),
        ({**HERE, "config_kwargs": {"s3": {"use_accelerate_endpoint": True}}}, "options.config_kwargs.s3"),
        ({**HERE, "config_kwargs": {"read_timeout": None}}, "options.config_kwargs.read_timeout"),
        ({**HERE, "client_kwargs": "x"}, "options.client_kwargs"),
        ({**HERE, "use_ssl": "no"}, "options.use_ssl"),
        ({**KEYS, "endpoint_url": "localhost:9000"}, "options.endpoint_url"),
        ({**KEYS, "client_kwargs": {"endpoint_url": "http://localhost:99999"}}, "options.client_kwargs.endpoint_url"),
        ({"key": "k"}, "options"),
    ],
)
def test_options_that_obstore_has_nothing_for_leave_s3fs_the_driver_and_are_refused_where_obstore_is_wanted(
    options: dict[str, Any], key: str
) -> None:
    assert chosen("s3://bucket/x", options) is None
    with pytest.raises(ValidationError) as refused:
        chosen("s3://bucket/x", options, driver="obstore")
    assert f"{key}" in str(refused.value)
    assert "does not go with driver: obstore" in str(refused.value)
    assert "or use driver: auto" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("url", ["s3://bucket/a//b", "s3://bucket/ä", "s3://bucket/a b", "s3://arn:aws:s3:x/y"])
def test_places_that_obstore_writes_otherwise_are_left_to_s3fs(url: str) -> None:
    assert chosen(url, HERE) is None
    with pytest.raises(ValidationError, match="url does not go with driver: obstore"):
        chosen(url, HERE, driver="obstore")


def test_obstore_is_for_s3_and_azure_alone() -> None:
    with pytest.raises(ValidationError, match="driver: obstore is for s3:// and az:// alone, this is gs://"):
        FsspecBlobsSettings(url="gs://bucket/x", driver="obstore")


@pytest.mark.parametrize(
    ("options", "environ"),
    [
        (HERE, {"AWS_PROFILE": "p"}),
        (HERE, {"FSSPEC_S3_KEY": "k"}),
        (HERE, {"AWS_SERVER_SIDE_ENCRYPTION": "aws:kms"}),
        ({**KEYS, **REGION}, {"AWS_CA_BUNDLE": "/etc/bundle"}),
        ({**KEYS, **REGION}, {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ({"endpoint_url": "http://localhost:9000"}, {}),
        (KEYS, {}),
        (KEYS, {"AWS_REGION": "eu-west-1"}),
    ],
)
def test_what_the_environment_tells_only_one_of_them_leaves_s3fs_the_driver(
    options: dict[str, Any], environ: dict[str, str]
) -> None:
    assert chosen("s3://bucket/x", options, **environ) is None
    assert chosen("s3://bucket/x", options, driver="obstore", **environ) is not None


@pytest.mark.parametrize("name", [".aws/config", ".aws/credentials", ".config/fsspec"])
def test_files_that_only_s3fs_reads_leave_it_the_driver(name: str, tmp_path: Path) -> None:
    assert chosen("s3://bucket/x", HERE, HOME=str(tmp_path)) is not None
    (tmp_path / name).mkdir(parents=True)
    assert chosen("s3://bucket/x", HERE, HOME=str(tmp_path)) is None


def test_a_home_that_may_not_be_looked_at_has_no_such_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    assert chosen("s3://bucket/x", HERE) is not None


async def test_nothing_of_the_environment_replaces_what_the_settings_say(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SESSION_TOKEN": "another-token",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "eu-west-1",
        "AWS_BUCKET": "another",
    }.items():
        monkeypatch.setenv(name, value)
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))):
        pass
    assert proxy.heads
    for head in proxy.heads:
        assert b" /ion-bucket/" in head
        assert b"Credential=testing/" in head
        assert b"/us-east-1/s3/" in head
        assert b"another" not in head


async def test_a_create_that_met_another_is_asked_again(proxy: FaultyProxy) -> None:
    settings = FsspecDocumentsSettings(**s3_at(proxy.port).settings(driver="obstore"))
    async with open_fsspec_documents(settings) as documents:
        assert isinstance(documents, FsspecDocuments)
        objects = documents._objects
        assert isinstance(objects, DirectObjects)
        objects._retries.delay = 0.0
        proxy.says = [(409, "ConditionalRequestConflict")] * 2
        assert await asyncio.to_thread(objects.create, "documents/commit/job", b"{}") is True
        assert proxy.says == []
        assert await asyncio.to_thread(objects.create, "documents/commit/job", b"other") is False
        assert await asyncio.to_thread(objects.read, "documents/commit/job") == b"{}"


async def test_a_lost_answer_to_a_create_is_no_lost_race(proxy: FaultyProxy) -> None:
    settings = FsspecDocumentsSettings(**s3_at(proxy.port).settings(driver="obstore"))
    async with open_fsspec_documents(settings) as documents:
        assert isinstance(documents, FsspecDocuments)
        documents._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        proxy.lost = 3
        await documents.create(COMMIT)
        assert proxy.lost == 0
        assert await documents.get("commit", "job") == COMMIT
        with pytest.raises(DocumentExists):
            await documents.create(replace(COMMIT, body={"n": 2}))


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ((301, "PermanentRedirect"), "options.client_kwargs.region_name: the bucket is in another region"),
        ((400, "AuthorizationHeaderMalformed"), "options.client_kwargs.region_name: the bucket is in another region"),
        ((403, "SignatureDoesNotMatch"), "access is denied (StoreError: SignatureDoesNotMatch"),
        ((400, "ExpiredToken"), "access is denied (StoreError: ExpiredToken"),
        ((404, "NoSuchBucket"), "does not exist. Make the bucket or container first."),
        ((501, "NotImplemented"), "is refused by the backend"),
    ],
)
async def test_what_stays_wrong_is_refused_at_the_start(
    says: tuple[int, str], said: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_fsspec_storage.retries.ATTEMPTS", 1)
    proxy.says = [says]
    with pytest.raises(ConfigError) as refused:
        async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))):
            pass
    assert said in str(refused.value)
    assert "testing-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        (KEYS, {"AWS_ENDPOINT_URL": "http://localhost:99999"}, "the endpoint is no address"),
        (KEYS, {"AWS_ENDPOINT_URL": "no address", "AWS_DEFAULT_REGION": "eu-west-1"}, "the endpoint is no address"),
        (KEYS, {"AWS_DEFAULT_REGION": "eu-west-1\n"}, "the region is no name of one"),
        ({**HERE, "secret": "canary\n"}, {}, "a key has other letters than keys have"),
        ({**HERE, "token": "canary 2"}, {}, "a key has other letters than keys have"),
    ],
)
def test_what_obstore_would_fall_over_never_gets_there(
    options: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    assert chosen("s3://bucket/x", options, **environ) is None
    with pytest.raises(ConfigError, match=said) as refused:
        chosen("s3://bucket/x", options, driver="obstore", **environ)
    assert "canary" not in str(refused.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_panic_of_obstore_is_an_error_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_words, "garbled", lambda made: "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:99999")
    with pytest.raises(ConfigError, match="obstore fell over it"):
        async with open_fsspec_blobs(FsspecBlobsSettings(url="s3://bucket/x", options=KEYS, driver="obstore")):
            pass


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://127.0.0.1:{closed}", "Connection refused"),
        ("http://no-such-host.invalid", "failed to lookup address"),
        ("https://127.0.0.1:{plain}", "error sending request"),
    ],
)
async def test_why_nobody_answers_is_said(
    endpoint: str, said: str, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_fsspec_storage.retries.ATTEMPTS", 1)
    options = {**KEYS, "endpoint_url": endpoint.format(closed=free_port(), plain=s3.port)}
    with pytest.raises(TransientError, match=said) as raised:
        async with open_fsspec_blobs(FsspecBlobsSettings(url="s3://bucket/x", options=options, driver="obstore")):
            pass
    assert "canary" not in str(raised.value)


async def test_a_server_without_etags_is_told_to_be_one_for_s3fs(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_fsspec_storage.retries.ATTEMPTS", 1)
    proxy.without = b"etag"
    with pytest.raises(TransientError, match="obstore needs one, set driver: fsspec"):
        async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))):
            pass


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
@pytest.mark.parametrize("driver", ["obstore", "fsspec"])
async def test_credentials_that_have_expired_are_denied_access_and_not_asked_again(
    driver: str, code: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """S3 answers 400 then, as it does to what is wrong with a request."""
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver=driver))) as blobs:
        proxy.says = [(400, code)]
        with pytest.raises(TransientError, match=rf"access is denied .*{code}|access is denied .*as told"):
            await blobs.put("key", file(tmp_path, b"content"))
        await blobs.put("key", file(tmp_path, b"content"))


async def test_listings_trust_the_servers_that_all_else_trusts(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore goes by the certificates of the system, or by those of a variable; botocore would by its own."""
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    authority = Authority(tmp_path / "ca", "own")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost", names="DNS:localhost,IP:127.0.0.1"))
    proxy = FaultyProxy(s3.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20, ssl=context)
    options = {**s3.options, "endpoint_url": f"https://localhost:{server.sockets[0].getsockname()[1]}"}
    assert chosen(s3.root, options) is not None
    try:
        async with open_fsspec_documents(FsspecDocumentsSettings(url=s3.place(), options=options)) as documents:
            await documents.create(COMMIT)
            assert [it.id async for it in documents.find("commit", correlation_id="flow")] == ["job"]
    finally:
        await proxy.end()
        server.close()


@pytest.mark.parametrize(
    ("options", "environ", "told"),
    [
        ({**KEYS, **REGION}, {}, "a.pem"),
        (SECURE, {}, "a.pem"),
        (SECURE, {"SSL_CERT_FILE": "b.pem"}, "b.pem"),
        (SECURE, {"SSL_CERT_FILE": "b.pem", "SSL_CERT_DIR": "certs"}, "b.pem"),
        (SECURE, {"SSL_CERT_DIR": "certs"}, None),
        ({**SECURE, "client_kwargs": {"verify": False}}, {"SSL_CERT_FILE": "b.pem"}, False),
        (HERE, {"SSL_CERT_FILE": "b.pem"}, None),
    ],
)
def test_which_certificates_listings_are_told_to_go_by(
    options: dict[str, Any], environ: dict[str, str], told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pem").touch()
    monkeypatch.setattr(s3_words, "_AUTHORITIES", ("none.pem", "a.pem"))
    where = chosen("s3://bucket/x", options, **environ)
    assert where is not None
    listing = s3_words.listing_options(where, options, environ)
    assert listing.get("client_kwargs", {}).get("verify") == told
    assert {**listing, "client_kwargs": None} == {**options, "client_kwargs": None}
    given = options.get("client_kwargs", {})
    assert {key: listing["client_kwargs"][key] for key in given} == given


async def test_a_slow_down_is_waited_for_and_said_in_the_end(proxy: FaultyProxy, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        blobs._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        proxy.says = [(503, "SlowDown")] * 3
        await blobs.put("key", file(tmp_path, b"content"))
        proxy.says = [(503, "SlowDown")] * 4
        with pytest.raises(TransientError, match=r"blobs/key: the backend did not do it .*SlowDown: as told, HTTP 503"):
            await blobs.put("key", file(tmp_path, b"other"))
        await blobs.get("key", tmp_path / "target", expect=info(b"content"))


async def test_a_store_that_is_full_says_so_at_once(proxy: FaultyProxy, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))) as blobs:
        before = proxy.requests
        proxy.says = [(507, "XMinioStorageFull")]
        with pytest.raises(StorageFull, match="blobs/key: no space left"):
            await blobs.put("key", file(tmp_path, b"content"))
        assert proxy.requests == before + 1


async def test_a_damaged_answer_is_no_content(proxy: FaultyProxy, tmp_path: Path) -> None:
    async with open_fsspec_blobs(FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))) as blobs:
        await blobs.put("key", file(tmp_path, b"content"))
        proxy.damaged = 2
        with pytest.raises(BlobCorrupt, match="blob key: was stored with 7 bytes"):
            await blobs.get("key", tmp_path / "target", expect=info(b"content"))
        assert not (tmp_path / "target").exists()


async def test_the_parts_of_an_upload_that_failed_are_not_left(
    proxy: FaultyProxy, s3: ObjectStore, tmp_path: Path
) -> None:
    settings = FsspecBlobsSettings(**s3_at(proxy.port).settings(driver="obstore"))
    async with open_fsspec_blobs(settings) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        blobs._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        proxy.says = [(503, "SlowDown")] * 40
        with pytest.raises(TransientError):
            await blobs.put("key", file(tmp_path, os.urandom(20 * MIB)))
        proxy.says = []
    bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
    left = await asyncio.to_thread(client(s3).list_multipart_uploads, Bucket=bucket)
    assert [it for it in left.get("Uploads", []) if it["Key"].startswith(prefix)] == []  # others fail there on purpose


STEP = """
import asyncio, sys
from contextlib import nullcontext
from pathlib import Path
from ion_core.contracts.storage import Document
from ion_core.steps import StepSettings

async def main(here):
    async with StepSettings.read(here / "settings").stores(nullcontext) as stores:
        info = await stores.blobs.put("key", here / "source")
        await stores.blobs.get("key", here / "target", expect=info)
        await stores.documents.create(Document(kind="commit", id="job", correlation_id="flow", body={"n": 1}))
        assert (await stores.documents.get("commit", "job")).body == {"n": 1}

asyncio.run(main(Path(sys.argv[1])))
print(sorted({"aiohttp", "botocore", "fsspec", "obstore", "pluggy", "pydantic", "s3fs"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("more", "imported"),
    [
        ({}, "['obstore']"),
        ({"driver": "fsspec"}, "['aiohttp', 'botocore', 'fsspec', 's3fs']"),
    ],
)
def test_a_step_imports_no_more_than_it_needs(
    more: dict[str, str], imported: str, s3: ObjectStore, tmp_path: Path
) -> None:
    """In a process of its own, as those are."""
    place = {"provider": "fsspec", **s3.settings(), **more}
    providers = {"blobs": plugin.ion_blob_stores(), "documents": plugin.ion_document_stores()}
    said = {
        "plugins": ["ion-fsspec-storage"],
        "plain": {name: it.plain for name, [it] in providers.items()},
        "storage": {"blobs": place, "documents": place},
        "modules": {},
    }
    (tmp_path / "settings").write_text(json.dumps(said))
    (tmp_path / "source").write_bytes(b"content")
    step = [sys.executable, "-c", STEP, str(tmp_path)]
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(step, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (imported, "")
    assert (tmp_path / "target").read_bytes() == b"content"


@pytest.mark.parametrize(
    "values",
    [
        {"url": "file:///srv/ion"},
        {"url": "sftp://host/x"},
        {"url": "s3://bucket/x", "options": HERE, "no_such_setting": 1},
        {"url": "s3://bucket/x", "options": HERE, "parallel": "8"},
        {"url": "s3://bucket/x", "options": HERE, "sign_for": "1h"},
        {"options": HERE},
    ],
)
def test_what_is_in_no_object_store_or_not_as_derived_is_left_to_the_models(values: dict[str, Any]) -> None:
    assert plain.blobs(Section(), values) is None
    assert plain.documents(Section(), values) is None


@pytest.mark.parametrize(
    "values",
    [
        {"url": "s3://bucket/x", "options": HERE, "driver": "obstore", "parallel": 8, "sign_for": "90.000000s"},
        {"url": "s3://bucket/x", "options": {**HERE, "profile": "p"}},
        {"url": "gs://bucket/x", "options": {"token": "anon"}},
        {"url": "az://container"},
    ],
)
def test_what_was_derived_is_read_plainly(values: dict[str, Any]) -> None:
    found = plain.blobs(Section(), values)
    assert found is not None
    model = FsspecBlobsSettings.model_validate(values)
    assert {name: getattr(found[0], name) for name in FsspecBlobsSettings.model_fields} == dict(model)
    for told in ("at_once", "protocol"):
        assert getattr(found[0], told) == getattr(model, told)
    assert found[0].location() == model.location()
