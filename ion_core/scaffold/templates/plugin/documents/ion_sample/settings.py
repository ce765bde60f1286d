from pathlib import Path

from pydantic import Field

from ion_core.contracts.provider import Location, Reach
from ion_core.contracts.settings import Settings, StatePath


class SampleSettings(Settings):
    """Documents in one JSON file."""

    path: StatePath = Field(default=Path("sample.json"), description="The file; created when missing.")

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)
