"""Modules that call their handler, in real processes: /ready, /done and one event after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.pipeline import Pipeline

MODULE = """
import json, os, pathlib, time, urllib.error, urllib.request

base = pathlib.Path(os.environ["HANDLER_BASE_DIR"])


def call(path, secret=os.environ["SHARED_SECRET"]):
    url = f"http://localhost:{os.environ['HANDLER_PORT']}{path}"
    request = urllib.request.Request(url, headers={"secret": secret})
    for _ in range(50):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["message"]
        except urllib.error.URLError:
            time.sleep(0.1)
    raise SystemExit("there is no handler")


print("started", os.getpid(), flush=True)
assert call("/ready", "wrong")[0] == 401
assert call("/done")[0] == 400
rounds = 0
while call("/ready")[0] == 200:
    rounds += 1
    text = (base / "in/data/input0.txt").read_text()
    (base / "out/data/copy.txt").write_text(f"{rounds} {text}")
    pairs = [{"key": "eventType", "value": "made"}, {"key": "files", "value": "copy.txt"}]
    (base / "out/events/0.json").write_text(json.dumps(pairs))
    print("round", rounds, flush=True)
    assert call("/done") == (200, ""), "not committed"
    assert call("/done")[0] == 400
    if not os.environ.get("GO_ON"):
        break
print("ends", flush=True)
"""
CONFIG = """
runtimes: {{{{default: {{{{provider: process, isolation: {isolation}}}}}}}}}
modules:
  work:
    command: [python3, work.py]
    source: modules
    subscribes: [asked]
    publishes: [made]
    reuse: {reuse}
    env: {{{{GO_ON: "{go_on}"}}}}
"""


@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_module_calls_its_handler(tmp_path: Path, isolation: str, reuse: bool) -> None:
    """Under bubblewrap it has no network but its own loopback interface."""
    config = CONFIG.format(isolation=isolation, reuse=str(reuse).lower(), go_on="yes" if reuse else "")
    pipeline = Pipeline.make(tmp_path / "home", config=config, modules={})
    (pipeline.home / "modules/work.py").write_text(MODULE, encoding="utf-8")
    flows = [pipeline.publish("asked") for _ in range(3)]
    pipeline.ion("serve", "--until-idle")
    logs = "\n".join(document["logs"] for document in pipeline.documents("modulelogs"))
    assert logs.count("started") == (1 if reuse else 3)
    assert logs.count("round") == 3
    commits = pipeline.documents("commit")
    assert {commit["context"]["correlationId"] for commit in commits} == set(flows)
    assert all([file["name"] for file in commit["outputs"]] == ["copy.txt"] for commit in commits)
    flow = json.loads(pipeline.ion("trace", "flow", flows[0], "--json").stdout)
    assert sum(document["context"]["documentType"] == "eventMeta" for document in flow) == 2
    assert list((pipeline.state / "work").iterdir()) == []
