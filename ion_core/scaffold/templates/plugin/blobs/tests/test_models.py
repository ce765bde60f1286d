"""Whatever is done to it, in any order: hypothesis finds the shortest sequence that goes wrong."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ion_core.contracts.storage import BlobStore
from ion_core.testing.models import CommitModel, WorkspaceModel
from ion_sample.blobs import open_sample
from ion_sample.settings import SampleSettings


class TestWorkspaces(WorkspaceModel):
    examples, steps = 10, 12

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SampleSettings(path=tmp_path / "sample")

    def opened(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_sample(self.settings)


class TestCommits(CommitModel):
    examples, steps = 10, 12

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SampleSettings(path=tmp_path / "sample")

    def blobs(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_sample(self.settings)
