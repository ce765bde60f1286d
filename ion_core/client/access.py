"""What a client asks of a pipeline, by whichever way it reaches it: its providers, or a console."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ion_core.contracts.looking import FlowSummary, FlowView
from ion_core.contracts.storage import Document
from ion_core.events import Context
from ion_core.flows import Fetched, FileOfFlow


class Access(Protocol):
    """Each method raises TransientError where what it needs is away, PermanentError for what cannot be read.

    What asks for a flow gives None, or nothing, where there is none of that id.
    """

    async def publish(
        self,
        event_type: str,
        *,
        name: str,
        data: Sequence[tuple[str, str]],
        files: Mapping[str, Path],
        event_id: str | None,
    ) -> Context:
        """That of the event, once the broker has it durably. Raises InvalidEvent, IdTaken, Unroutable."""

    async def outcome(self, correlation_id: str) -> FlowSummary | None:
        """How it stands."""

    async def over(self, correlation_id: str, *, within: float | None) -> FlowSummary | None:
        """The same once it is over, or as it stands after ``within`` seconds."""

    async def flow(self, correlation_id: str) -> FlowView | None:
        """All of it."""

    async def files(self, correlation_id: str) -> Sequence[FileOfFlow]:
        """What came in, and what was made."""

    async def content(self, correlation_id: str) -> Fetched:
        """What has the bytes of its files."""

    def logs(self, correlation_id: str) -> AsyncIterator[Document]:
        """Of every attempt that has ended, as they are stored."""

    def shown(self, text: str) -> str:
        """Without what must not be shown."""
