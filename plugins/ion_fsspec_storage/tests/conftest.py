"""What tests of this plugin share lies beside them; the servers that they ask are those of all plugins' tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.support.object_stores import ObjectStore
from tests.support.servers import azure as azure
from tests.support.servers import google as google
from tests.support.servers import s3 as s3
from tests.support.servers import sftp as sftp
from tests.support.servers import webdav as webdav

sys.path.insert(0, str(Path(__file__).parent))

from faulty_proxy import FaultyProxy, faulty_proxy_to


@pytest.fixture
def behind(s3: ObjectStore) -> ObjectStore:
    """What the proxy stands before, where a file of tests says nothing else."""
    return s3


@pytest.fixture
async def proxy(behind: ObjectStore) -> AsyncIterator[FaultyProxy]:
    async with faulty_proxy_to(behind.port) as proxy:
        yield proxy


@pytest.fixture
async def blobs(place: dict[str, Any]) -> AsyncIterator[FsspecBlobs]:
    """Those of a file's ``place``, which do not wait before they ask again."""
    async with open_fsspec_blobs(FsspecBlobsSettings(**place)) as blobs:
        assert isinstance(blobs, FsspecBlobs)
        blobs._objects._retries.delay = 0.0  # type: ignore[attr-defined]
        yield blobs
