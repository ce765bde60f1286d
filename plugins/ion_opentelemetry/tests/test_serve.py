"""A real ``ion-core serve`` under ``opentelemetry-instrument``, and the spans that reach an OTLP receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ion_core.events import Context, Event
from ion_opentelemetry import ids
from plugins.ion_opentelemetry.tests.otlp import Receiver, receiving

PIPELINE = """
plugins: [ion-opentelemetry]
modules:
  detect:
    command: [sh, detect.sh]
    source: .
    subscribes: [photo.received]
    publishes: [face.detected]
    retries: 1
    retry: {initial: 10ms}
  crop: {command: ["false"], source: ., subscribes: [face.detected], retries: 0}
"""
DETECT = """
if [ ! -e %(tried)s ]; then touch %(tried)s; exit 3; fi
printf '[{"key": "eventType", "value": "face.detected"}]' > "$HANDLER_BASE_DIR/out/events/0.json"
"""
INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ion.yaml").write_text(PIPELINE)
    (tmp_path / "detect.sh").write_text(DETECT % {"tried": tmp_path / "tried"})
    return tmp_path


def ion(directory: Path, receiver: Receiver, *arguments: str, code: int = 0, **more: str) -> str:
    """A command as its users start it, exporting to ``receiver``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ION_", "OTEL_"))}
    environment |= {
        "OTEL_SERVICE_NAME": "ion",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "all",
    }
    ran = subprocess.run(
        [INSTRUMENT, sys.executable, "-m", "ion_core", *arguments],
        cwd=directory,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == code, ran.stderr
    return ran.stdout


def publish(directory: Path, receiver: Receiver) -> str:
    """The correlation id of the flow that it begins."""
    said = json.loads(ion(directory, receiver, "event", "publish", "photo.received", "--json"))
    return str(said["context"]["correlationId"])


def trace_of(flow: str) -> str:
    context = Context(name="cli", event_id="any", correlation_id=flow)
    return f"{ids.trace_of(Event(context=context, type='any')):032x}"


def one(receiver: Receiver, name: str) -> Span:
    """That span. What is published twice has it twice, with the same ids."""
    found = [span for _, span in receiver.spans if span.name == name]
    assert len({(span.span_id, span.parent_span_id) for span in found}) == 1, name
    return found[0]


def test_what_serve_does_is_a_trace_at_the_receiver(directory: Path, receiver: Receiver) -> None:
    flow = publish(directory, receiver)
    ion(directory, receiver, "serve", "--until-idle", code=1)  # there is a dead letter
    assert {service for service, _ in receiver.spans} == {"ion"}
    assert {span.trace_id.hex() for _, span in receiver.spans} == {trace_of(flow)}
    photo, face, crop = (one(receiver, it) for it in ("publish photo.received", "publish face.detected", "job crop"))
    failed, committed = sorted(
        (span for _, span in receiver.spans if span.name == "job detect"), key=lambda it: it.start_time_unix_nano
    )
    assert photo.parent_span_id == b""
    assert failed.parent_span_id == committed.parent_span_id == photo.span_id
    assert (face.parent_span_id, crop.parent_span_id) == (committed.span_id, face.span_id)
    assert failed.status.code == crop.status.code == Status.STATUS_CODE_ERROR
    assert "3" in failed.status.message
    assert committed.status.code == Status.STATUS_CODE_UNSET
    steps = [span for _, span in receiver.spans if span.parent_span_id == committed.span_id]
    steps = [span for span in steps if span.name != face.name]
    assert [span.name for span in steps] == ["prepare", "module", "commit"]
    for step in steps:
        assert committed.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        assert step.end_time_unix_nano <= committed.end_time_unix_nano


@pytest.mark.parametrize("step", ["S6", "S9", "S10"])
def test_killed_and_started_again_it_goes_on_with_the_trace(directory: Path, receiver: Receiver, step: str) -> None:
    """Killed at its first step like that: with the module's end, with the commit, with what it emitted published."""
    (directory / "tried").touch()
    flow = publish(directory, receiver)
    ion(directory, receiver, "serve", "--until-idle", code=137, ION_TESTING="1", ION_CRASH_AT=step)
    ion(directory, receiver, "serve", "--until-idle", code=1)  # there is a dead letter
    assert {span.trace_id.hex() for _, span in receiver.spans} == {trace_of(flow)}
    known = {span.span_id for _, span in receiver.spans}
    orphans = [span.name for _, span in receiver.spans if span.parent_span_id and span.parent_span_id not in known]
    assert orphans == []
    assert one(receiver, "job crop").parent_span_id == one(receiver, "publish face.detected").span_id
    assert one(receiver, "job detect").span_id == one(receiver, "publish face.detected").parent_span_id
