"""A module of 2018 runs unchanged: by hand, and under the process runtime. (Under Podman: the plugin's tests.)"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

OLD_MODULE = Path(__file__).parent / "modules" / "old_module.py"
CONFIG = """
modules:
  old:
    command: [python3, old_module.py]
    source: modules
    subscribes: [frontapi.new_link]
    publishes: [files.listed]
"""


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    init = [*ION, "dev", "module", "init", "--files", "a.txt"]
    root = subprocess.check_output(init, cwd=tmp_path, env=environment(), text=True).strip().rpartition(" ")[2]
    ids = ["--context.eventid", "one", "--context.correlationid", "dev", "--context.parenteventid", root]
    serve = ["handler", "serve", "--development=true", "--serverport", "0", "--sharedsecret", "s", "--basedir", "ion"]
    with subprocess.Popen(
        [*ION, *serve, *ids, "--valideventtypes", "files.listed"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as handler:
        try:
            assert handler.stderr is not None
            port = re.search(r"localhost:(\d+)", handler.stderr.readline())
            assert port is not None
            needed = {"HANDLER_PORT": port[1], "SHARED_SECRET": "s", "HANDLER_BASE_DIR": str(tmp_path / "ion")}
            said = subprocess.check_output(
                [sys.executable, OLD_MODULE], env=environment(**needed), text=True, timeout=TIMEOUT
            )
        finally:
            handler.terminate()
    assert said == "done 1 files\n"
    place = tmp_path / ".dev" / root / "one"
    assert (place / "committed").read_text() == "{}"
    assert (place / "_blobs/listing.txt").read_text() == "a.txt"
    assert json.loads((place / "_events/event0.json").read_text())["type"] == "files.listed"


def test_under_the_process_runtime(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={})
    shutil.copy(OLD_MODULE, pipeline.home / "modules")
    (pipeline.home / "b.txt").write_text("b")
    link = ["frontapi.new_link", "--data", "url=https://example.org/", "--file", "b.txt"]
    pipeline.ion("event", "publish", *link)
    pipeline.ion("serve", "--until-idle")
    [commit] = pipeline.documents("commit")
    assert [file["name"] for file in commit["outputs"]] == ["listing.txt"]
    [event] = [document for document in pipeline.documents("eventMeta") if document["type"] == "files.listed"]
    assert {"key": "url", "value": "https://example.org/"} in event["data"]
    assert "done 1 files" in pipeline.documents("modulelogs")[0]["logs"]
