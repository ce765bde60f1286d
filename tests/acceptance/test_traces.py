"""One flow under each runtime of this machine: the same trace, with which modules go on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ion_core.module_library import library
from ion_podman.testing import BUSYBOX, PodmanService, podman_service
from plugins.ion_opentelemetry.tests.otlp import Receiver, receiving
from tests.acceptance.pipeline import Pipeline, environment
from tests.docs.blocks import blocks

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
SAYS = """
cd $0 && echo "told $(cat in/traceparent), and by $(env | grep -ci -e ^trace -e "$(cat in/traceparent)") variables"
"""
EMITS = """printf '[{"key": "eventType", "value": "face.detected"}]' > out/events/0.json"""


@dataclass(frozen=True)
class Traced:
    """A pipeline whose commands run below ``opentelemetry-instrument``, and the receiver that they export to."""

    pipeline: Pipeline
    receiver: Receiver

    @classmethod
    def make(cls, home: Path, receiver: Receiver, modules: Mapping[str, Any], **runtime: str) -> Traced:
        home.mkdir(exist_ok=True)
        said = {"runtimes": {"default": runtime}, "modules": modules}
        (home / "ion.yaml").write_text(json.dumps(said), encoding="utf-8")
        return cls(Pipeline(home), receiver)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.url,
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "all",
        }

    def ion(self, *arguments: str, code: int = 0) -> str:
        command = [INSTRUMENT, sys.executable, "-m", "ion_core", *arguments]
        given = environment(**self.variables, OTEL_SERVICE_NAME="ion")
        done = subprocess.run(
            command, cwd=self.pipeline.home, env=given, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def spans(self) -> Mapping[bytes, Span]:
        return {span.span_id: span for _, span in self.receiver.spans}

    def named(self, name: str) -> Span:
        [found] = [span for span in self.spans().values() if span.name == name]
        return found

    def shape(self) -> list[tuple[str, str, int, int]]:
        """Of each span its name, that of its parent, its kind and status: all but ids and times."""
        spans = self.spans()
        names = {b"": "", **{span_id: span.name for span_id, span in spans.items()}}
        return sorted((it.name, names[it.parent_span_id], it.kind, it.status.code) for it in spans.values())

    def told(self) -> list[str]:
        """What the modules were told, as they printed it. It is in no variable of theirs."""
        logs = [it["logs"] for it in self.pipeline.documents("modulelogs")]
        found = [re.findall("told (.*), and by 0 variables", it) for it in logs]
        assert all(len(it) == 1 for it in found), logs
        return [said for [said] in found]


def faces(place: str, **image: str) -> Mapping[str, Any]:
    """A photo's face is found, and cropped neither at first nor at the second attempt."""
    says = SAYS.replace("$0", place)
    detect = {"command": ["sh", "-c", says + EMITS], "subscribes": ["photo.received"], "publishes": ["face.detected"]}
    crop = {"command": ["sh", "-c", f"{says}exit 3"], "subscribes": ["face.detected"], "retries": 1}
    return {"detect": {**detect, **image}, "crop": {**crop, **image, "retry": {"initial": "10ms"}}}


def run(traced: Traced) -> list[tuple[str, str, int, int]]:
    """The shape of its flow's trace."""
    traced.ion("event", "publish", "photo.received")
    traced.ion("serve", "--until-idle", code=1)  # there is a dead letter
    steps = [it for it in traced.spans().values() if it.name == "module"]
    assert len(steps) == 3
    assert sorted(traced.told()) == sorted(f"00-{it.trace_id.hex()}-{it.span_id.hex()}-01" for it in steps)
    return traced.shape()


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanService]:
    with (
        tempfile.TemporaryDirectory(prefix="ion-podman-") as directory,
        podman_service(Path(directory) / "podman") as service,
    ):
        service.build_busybox()
        yield service


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_each_runtime_leaves_the_same_trace_and_tells_modules_of_it(tmp_path: Path, podman: PodmanService) -> None:
    shapes = {}
    for runtime in ("process", "subprocess"):
        with receiving() as receiver:
            shapes[runtime] = run(
                Traced.make(tmp_path / runtime, receiver, faces('"$HANDLER_BASE_DIR"'), provider=runtime)
            )
    with receiving() as receiver:
        contained = faces("/ion", image=BUSYBOX)
        shapes["podman"] = run(Traced.make(tmp_path / "podman", receiver, contained, provider="podman", url=podman.url))
    assert shapes["podman"] == shapes["process"]
    assert shapes["subprocess"] == shapes["process"]
    assert [(name, parent) for name, parent, _, _ in shapes["process"]] == [
        ("commit", "job detect"),
        ("job crop", "publish face.detected"),
        ("job crop", "publish face.detected"),
        ("job detect", "publish photo.received"),
        ("module", "job crop"),
        ("module", "job crop"),
        ("module", "job detect"),
        ("prepare", "job crop"),
        ("prepare", "job crop"),
        ("prepare", "job detect"),
        ("publish face.detected", "job detect"),
        ("publish photo.received", ""),
    ]


def test_a_module_as_the_docs_have_it_goes_on_with_the_trace(tmp_path: Path, receiver: Receiver) -> None:
    [program] = [it.text for it in blocks("docs/modules.md") if "ion_module.traceparent()" in it.text]
    (tmp_path / "main.py").write_text(program, encoding="utf-8")
    (tmp_path / "ion_module.py").write_text(library("python"), encoding="utf-8")
    traced = Traced.make(tmp_path, receiver, {}, provider="process")
    module = {"command": [INSTRUMENT, sys.executable, "main.py"], "source": ".", "subscribes": ["photo.received"]}
    variables = traced.variables | {"OTEL_SERVICE_NAME": "detect"}
    Traced.make(tmp_path, receiver, {"detect": {**module, "env": variables}}, provider="process")
    traced.ion("event", "publish", "photo.received")
    traced.ion("serve", "--until-idle")
    step, inner = traced.named("module"), traced.named("find faces")
    assert (inner.trace_id, inner.parent_span_id) == (step.trace_id, step.span_id)
    assert {service for service, span in receiver.spans if span.name == inner.name} == {"detect"}
    assert step.start_time_unix_nano <= inner.start_time_unix_nano
    assert inner.end_time_unix_nano <= step.end_time_unix_nano
