from collections.abc import Iterable
from datetime import datetime

from ion_core.contracts.provider import ObserverSettings
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Attempt, Outcome
from ion_sample.settings import SampleSettings


@hookimpl
def ion_observer_settings() -> Iterable[ObserverSettings]:
    return [ObserverSettings(name="sample", settings=SampleSettings, contract="@CONTRACT@")]


@hookimpl
def ion_job_finished(attempt: Attempt, outcome: Outcome, at: datetime, settings: SampleSettings) -> None:
    from ion_sample import lines

    if outcome.verdict in settings.outcomes:
        lines.add(settings.path, lines.of(attempt, outcome, at))
