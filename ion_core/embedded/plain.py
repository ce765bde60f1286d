"""The embedded stores from plain values, for steps that are started for each job.

Their settings in ``settings.py`` are models, whose library takes longer to import than such a step takes for all else.
What is read here has been validated as one of those when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ion_core.contracts.provider import Location, Provider, Reach, Section

CONTRACT = "1.0"


class PlainSettings:
    """What both stores are opened with. ``path`` is absolute."""

    def __init__(self, *, path: Path, section: Section) -> None:
        self.path = path
        self.section = section

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)


def _local_blobs(settings: PlainSettings) -> Any:
    from ion_core.embedded.local.blobs import open_local_blobs

    return open_local_blobs(settings)


def _sqlite_documents(settings: PlainSettings) -> Any:
    from ion_core.embedded.sqlite.documents import open_sqlite_documents

    return open_sqlite_documents(settings)


_OPEN = {("storage.blobs", "local"): _local_blobs, ("storage.documents", "sqlite"): _sqlite_documents}


def plain_store(section: Section, values: Mapping[str, Any]) -> tuple[Provider[Any], PlainSettings] | None:
    """The provider that ``values`` of ``section`` name, and its settings; None where that is no store of these."""
    name, path = values.get("provider"), values.get("path")
    if (opens := _OPEN.get((section.key, str(name)))) is None:
        return None
    if values.keys() != {"provider", "path"} or not isinstance(path, str) or not Path(path).is_absolute():
        return None
    provider: Provider[Any] = Provider(name=str(name), settings=cast(Any, PlainSettings), open=opens, contract=CONTRACT)
    return provider, PlainSettings(path=Path(path), section=section)
