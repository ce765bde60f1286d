from datetime import timedelta
from pathlib import Path

from pydantic import Field

from ion_core.contracts.provider import Location, Reach
from ion_core.contracts.settings import Duration, Settings, StatePath


class SampleSettings(Settings):
    """Queues in one SQLite file."""

    path: StatePath = Field(default=Path("sample.sqlite"), description="The file; created when missing.")
    lease: Duration = Field(
        default=timedelta(seconds=30), description="How long a subscriber that went silent keeps what it holds."
    )
    poll: Duration = Field(default=timedelta(milliseconds=50), description="How often to look for messages.")

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)
