from pathlib import Path

from pydantic import Field

from ion_core.contracts.settings import Settings, StatePath


class SampleSettings(Settings):
    """Modules as plain processes."""

    path: StatePath = Field(default=Path("sample"), description="Where running modules are noted.")
