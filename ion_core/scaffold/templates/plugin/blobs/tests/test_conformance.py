import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import BlobStore
from ion_core.testing import BlobStoreConformance, ProviderConformance
from ion_sample import plugin
from ion_sample.blobs import open_sample
from ion_sample.settings import SampleSettings


class TestSample(BlobStoreConformance):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.settings = SampleSettings(path=tmp_path / "sample")
        async with open_sample(self.settings) as blobs:
            yield blobs

    def reopen(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_sample(self.settings)

    async def corrupt(self, blobs: BlobStore, key: str) -> None:
        (path,) = (it for it in self.settings.path.iterdir() if it.suffix != ".key")
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))

    @asynccontextmanager
    async def withhold(self, blobs: BlobStore, key: str) -> AsyncIterator[None]:
        """A directory in its place: permissions mean nothing to root, as whom these tests may run."""
        path = self.settings.path / hashlib.sha256(key.encode()).hexdigest()
        away = path.rename(path.with_suffix(".away"))
        path.mkdir()
        yield
        path.rmdir()
        away.rename(path)

    async def litter(self, blobs: BlobStore, prefix: str) -> None:
        """The name of a blob without the blob, as when a put was killed in between."""
        (self.settings.path / "0").with_suffix(".key").write_text(f"{prefix}/litter")

    @asynccontextmanager
    async def outage(self, blobs: BlobStore) -> AsyncIterator[None]:
        away = self.settings.path.with_name("away")
        self.settings.path.rename(away)
        yield
        away.rename(self.settings.path)


class TestProvider(ProviderConformance):
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[BlobStore]:
        (provider,) = plugin.ion_blob_stores()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample"}

    def unusable(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": "/dev/null/sample"}
