import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ion_core.events import Context, Event
from ion_core.jobs import Attempt, Job, Outcome, Verdict
from ion_core.testing import ObserverConformance
from ion_sample import plugin
from ion_sample.settings import SampleSettings


class TestSample(ObserverConformance):
    @pytest.fixture
    def observer(self) -> object:
        return plugin

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample" / "attempts.jsonl"}


def test_it_tells_of_the_outcomes_that_are_asked_for(tmp_path: Path) -> None:
    settings = SampleSettings(path=tmp_path / "attempts.jsonl", outcomes=(Verdict.DEAD_LETTERED,))
    event = Event(context=Context(name="gateway", event_id="e", correlation_id="c"), type="file.received")
    for verdict in Verdict:
        attempt = Attempt(job=Job(event=event, module="copy"), number=1)
        outcome = Outcome(verdict=verdict, reason="exit code 1", seconds=0.5)
        plugin.ion_job_finished(attempt, outcome, datetime.now(UTC), settings)
    (line,) = map(json.loads, settings.path.read_text().splitlines())
    assert (line["module"], line["outcome"], line["reason"]) == ("copy", "dead-lettered", "exit code 1")
