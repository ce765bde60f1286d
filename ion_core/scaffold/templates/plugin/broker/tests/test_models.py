"""Whatever is done to it, in any order: hypothesis finds the shortest sequence that goes wrong."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ion_core.contracts.messaging import MessageBroker
from ion_core.testing.models import CommitModel, MessageBrokerModel
from ion_sample.broker import open_sample
from ion_sample.settings import SampleSettings


class TestQueues(MessageBrokerModel):
    examples, steps = 8, 12  # each call opens the file

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SampleSettings(path=tmp_path / "sample.sqlite")

    def opened(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_sample(self.settings)


class TestCommits(CommitModel):
    examples, steps = 10, 12

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = SampleSettings(path=tmp_path / "sample.sqlite")

    def broker(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_sample(self.settings)
