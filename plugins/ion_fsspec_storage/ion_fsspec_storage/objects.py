"""What the stores need of a backend: whole objects by name. Blocking, and safe for threads."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ion_core.contracts.storage import BlobInfo


class Objects(Protocol):
    """Objects below one place. Names are made by ``names``; every write is whole or not at all, and durable.

    What is not there is a FileNotFoundError, anything else that goes wrong a ProviderError of ours.
    """

    place: str
    """The URL, for messages."""

    def opened(self) -> None:
        """Told once it was tried out: from now on it may take its time with what fails."""

    def write(self, name: str, data: bytes) -> None:
        """Store or replace."""

    def create(self, name: str, data: bytes) -> bool:
        """Store it if there is none, else False and nothing is changed.

        After a lost answer it may be False though it was us: whoever cares compares what is stored.
        """

    def upload(self, name: str, source: int, size: int) -> None:
        """Store or replace, streamed from the file open as ``source``, in parts where it is large."""

    def read(self, name: str) -> bytes: ...

    def download(self, name: str, target: Path) -> BlobInfo | None:
        """Into the file ``target``, streamed. What was written there, None where its bytes did not pass through us."""

    def names(self, prefix: str) -> list[str]:
        """Of all objects below ``prefix`` by whole segments; in no order."""

    def delete(self, name: str) -> None:
        """Fine if gone."""

    def url(self, name: str, *, seconds: int) -> str:
        """Signed where that can be, else a plain URI."""

    def close(self) -> None: ...
