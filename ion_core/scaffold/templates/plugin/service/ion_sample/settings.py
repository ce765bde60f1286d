from collections.abc import Mapping

from pydantic import Field

from ion_core.contracts.settings import Duration, Settings


class SampleSettings(Settings):
    """An event by the clock."""

    every: Duration = Field(description="How long from one event to the next.")
    type: str = Field(description="The type of the events.")

    def publishes(self) -> Mapping[str, str]:
        """`ion-core check` refuses what no module takes."""
        return {"type": self.type}
