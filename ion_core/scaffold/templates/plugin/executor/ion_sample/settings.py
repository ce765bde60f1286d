from datetime import timedelta
from pathlib import Path

from pydantic import Field

from ion_core.contracts.executor import ExecutorCapabilities
from ion_core.contracts.provider import Reach
from ion_core.contracts.settings import Duration, Settings, StatePath


class SampleSettings(Settings):
    """Whole jobs as processes that outlive `serve`."""

    path: StatePath = Field(default=Path("sample"), description="Where jobs lie, each with its workspace.")
    allowance: Duration = Field(
        default=timedelta(minutes=30), description="How long each of the steps around a module may take."
    )

    def capabilities(self) -> ExecutorCapabilities:
        return ExecutorCapabilities(
            images=False,
            isolates=False,
            inputs_read_only=False,
            memory_limit=False,
            cpu_limit=False,
            pids_limit=False,
            gpus=False,
            handler_api=False,
            networks=frozenset({"none", "bridge", "host"}),
            notice="The sample executor isolates nothing: a module can do what this user can, and its network is ours.",
            reach=Reach.MACHINE,
        )
