from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import DocumentStore
from ion_core.testing import DocumentStoreConformance, ProviderConformance
from ion_sample import plugin
from ion_sample.documents import Sample, open_sample
from ion_sample.settings import SampleSettings


class TestSample(DocumentStoreConformance):
    reads = None  # it reads all of them whatever is asked, which is the price of one file

    @pytest.fixture
    async def documents(self, tmp_path: Path) -> AsyncIterator[DocumentStore]:
        self.settings = SampleSettings(path=tmp_path / "sample.json")
        async with open_sample(self.settings) as documents:
            yield documents

    def reopen(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_sample(self.settings)

    async def damage(self, documents: Sample, kind: str, id: str) -> None:
        with documents.locked(save=True) as stored:
            stored.put(replace(stored.get(kind, id), body=None))  # type: ignore[arg-type]

    @asynccontextmanager
    async def outage(self, documents: DocumentStore) -> AsyncIterator[None]:
        """A directory in the place of the file."""
        away = self.settings.path.rename(self.settings.path.with_suffix(".away"))
        self.settings.path.mkdir()
        yield
        self.settings.path.rmdir()
        away.rename(self.settings.path)


class TestProvider(ProviderConformance):
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[DocumentStore]:
        (provider,) = plugin.ion_document_stores()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample.json"}

    def unusable(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": "/dev/null/sample.json"}
