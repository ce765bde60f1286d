"""What cannot work is refused at the start, with what to do instead; no text becomes an address by chance."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from ion_core.errors import ConfigError, TransientError
from ion_fsspec_storage import retries
from ion_fsspec_storage.blobs import open_fsspec_blobs
from ion_fsspec_storage.documents import open_fsspec_documents
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
from tests.support.object_stores import ObjectStore, free_port, s3_at


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("simplecache::s3://bucket/x", "without ::"),
        ("zip://x.zip::file:///etc", "without ::"),
        ("s3://bucket/*", "without ::, patterns"),
        ("s3://bucket/x?versionId=1", "a query"),
        ("bucket/x", "such as s3://bucket/ion"),
        ("s3://", "must name a bucket"),
        ("file://relative", "must be absolute"),
        ("file:///srv/../etc", "must not have .. in it"),
        ("ftp://me:secret@host/x", "must not have a password in it"),
        ("s3://bucket/" + "x" * 300, "at most 200 bytes"),
        ("simplecache://bucket/x", "is a layer over another filesystem"),
        ("https://host/x", "can only be read"),
        ("ftp://host/x", "takes any error for a missing file. Use sftp://"),
        ("webdav://ion", "options must have base_url"),
    ],
)
def test_an_address_that_is_not_one_plain_place_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FsspecBlobsSettings(url=url)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


async def refusal(url: str, driver: Any = "auto", **options: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        async with open_fsspec_documents(FsspecDocumentsSettings(url=url, options=options, driver=driver)):
            pass
    return str(refused.value)


@pytest.mark.parametrize(
    ("protocol", "driver", "extra"),
    [
        ("s3", "s3fs", "s3"),
        ("gs", "gcsfs", "gcs"),
        ("az", "adlfs", "azure"),
        ("sftp", "paramiko", "sftp"),
        ("webdav", "webdav4", "webdav"),
    ],
)
def test_a_missing_driver_is_an_error_that_says_what_to_install(protocol: str, driver: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{driver!r}] = None; "  # as if it were not installed
        "from ion_fsspec_storage import opening, settings; "
        f"place = settings.FsspecBlobsSettings(url='{protocol}://bucket/x', options={{'base_url': 'http://x'}}); "
        "opening.open_objects(place, exclusive=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"ion_core.errors.ConfigError: url: the driver for {protocol}:// is not installed. "
        f"pip install 'ion-fsspec-storage[{extra}]'"
    )


async def test_an_unknown_protocol_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean s3://\?"):
        async with open_fsspec_blobs(FsspecBlobsSettings(url="s33://bucket/x")):
            pass


async def test_options_that_the_driver_does_not_take_are_refused_without_showing_them(s3: ObjectStore) -> None:
    said = await refusal("s3://ion-bucket/x", config_kwargs={"no_such_thing": "canary-secret"})
    assert "canary" not in said


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_a_bucket_that_does_not_exist_is_refused(driver: str, s3: ObjectStore) -> None:
    said = await refusal("s3://no-such-bucket/x", driver, **s3.options)
    assert "s3://no-such-bucket/x does not exist. Make the bucket or container first." in said


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_a_container_that_does_not_exist_is_refused(driver: str, azure: ObjectStore) -> None:
    said = await refusal("az://no-such-container/x", driver, **azure.options)
    assert "does not exist. Make the bucket or container first." in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://host/x", "sftp:// cannot create exclusively, so two dispatchers could commit one job"),
        ("ssh://host/x", "Keep documents elsewhere, such as {provider: sqlite}"),
        ("webdav://x", "webdav:// cannot create exclusively"),
        ("smb://host/share", "smb:// cannot create exclusively"),
        ("s33://bucket/x", "Did you mean s3://?"),
        (
            "ftp://host/x",
            "ftp:// cannot create exclusively, so two dispatchers could commit one job. Keep documents else",
        ),
        ("https://host/x", "Keep documents elsewhere"),
        ("simplecache://x", "is a layer over another filesystem. Name that one"),
        ("bucket/x", "such as s3://bucket/ion"),
    ],
)
def test_a_filesystem_without_exclusive_creation_is_refused_for_documents_before_anybody_is_asked(
    url: str, said: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        FsspecDocumentsSettings(url=url, options={"base_url": "http://host"})
    assert said in str(refused.value)


async def test_a_store_that_ignores_the_condition_is_found_out(google: ObjectStore) -> None:
    said = await refusal(google.place(), **google.options)
    assert "does not create exclusively" in said
    assert "Keep documents elsewhere, such as {provider: sqlite}" in said
    async with open_fsspec_blobs(FsspecBlobsSettings(url=google.place(), options=dict(google.options))) as blobs:
        assert [key async for key in blobs.list("")] == [], "good enough for blobs"


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_a_store_that_does_not_answer_is_worth_another_try(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    nowhere = s3_at(free_port())
    with pytest.raises(TransientError, match="Is it reachable"):
        async with open_fsspec_blobs(FsspecBlobsSettings(**nowhere.settings(driver=driver))):
            pass


@pytest.mark.parametrize("driver", ["fsspec", "obstore"])
async def test_nothing_of_the_trial_is_left(driver: str, s3: ObjectStore) -> None:
    settings = FsspecDocumentsSettings(**s3.settings(driver=driver))
    for opening in (open_fsspec_documents(settings), open_fsspec_blobs(FsspecBlobsSettings(**settings.model_dump()))):
        async with opening as store:
            assert store._objects.names("probe") == []  # type: ignore[attr-defined]
