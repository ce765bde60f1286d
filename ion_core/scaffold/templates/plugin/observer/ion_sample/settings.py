from pathlib import Path

from pydantic import Field

from ion_core.contracts.settings import Settings, StatePath
from ion_core.jobs import Verdict


class SampleSettings(Settings):
    """A line of JSON for each attempt."""

    path: StatePath = Field(default=Path("attempts.jsonl"), description="The file that gets a line for each.")
    outcomes: tuple[Verdict, ...] = Field(default=tuple(Verdict), description="The outcomes that are told of.")
