"""`ion-core serve` and conmon, which holds its containers, are killed at every step: the job comes back."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from ion_podman.testing import BUSYBOX
from tests.containers.home import PATIENCE, Home
from tests.support.containers import RuntimeUnderTest, control_groups, holders

CONFIG = """
runtimes: {{default: {runtime}}}
modules:
  work:
    image: {image}
    command: ["sh", "-c", "cd /ion/in/data; cat note > /ion/out/data/copy; while [ -e long ]; do sleep 0.1; done"]
    subscribes: [work.asked]
    retries: 0
"""


def test_a_dispatcher_killed_at_every_step_of_an_event_commits_once_and_leaves_nothing(
    tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    home = Home(tmp_path, tested, CONFIG.format(runtime=tested.written(), image=BUSYBOX))
    home.ion("event", "publish", "work.asked", "--file", "note")
    earlier: set[str] = set()
    ids: list[str] = []
    for step in ("S3", "S5", "S7", "S9"):  # made, started, ended, committed
        assert home.serve("--until-idle", ION_TESTING="1", ION_CRASH_AT=step).wait(PATIENCE) == 137
        left = set(tested.containers())
        assert len(left) == 1, step
        assert not left & earlier, "what an earlier one left is removed first"
        earlier = left
        ids += tested.ids()
    assert home.serve("--until-idle").wait(PATIENCE) == 0
    (commit,) = [it for it in home.documents() if it["context"]["documentType"] == "commit"]
    assert [file["name"] for file in commit["outputs"]] == ["copy"]
    assert tested.containers() == []
    assert tested.mounts() == []
    assert [id for id in ids if control_groups(id) or holders(id)] == []


def test_a_job_whose_container_nobody_holds_any_more_is_given_out_again(
    tested: RuntimeUnderTest, tmp_path: Path
) -> None:
    """conmon is killed, whose exit code nobody will know."""
    home = Home(tmp_path, tested, CONFIG.format(runtime=tested.written(), image=BUSYBOX))
    (tmp_path / "long").touch()
    home.ion("event", "publish", "work.asked", "--file", "note", "--file", "long")
    serving = home.serve("--until-idle")
    home.until(lambda: len(tested.in_state("running")) == 1, "the job")
    (name,), (id,) = tested.containers(), tested.ids()
    (held,) = holders(name)
    os.kill(held, signal.SIGKILL)
    home.until(lambda: len(set(tested.containers()) - {name}) == 1, "the job is there again")
    for word in ("draining", "hurrying"):
        serving.send_signal(signal.SIGTERM)
        home.until(partial(home.has_said, f"SIGTERM received, {word}"), word)
    assert serving.wait(PATIENCE) == 143
    assert [it for it in home.documents() if it["context"]["documentType"] == "commit"] == []
    assert tested.containers() == []
    assert tested.mounts() == []
    assert control_groups(id) == holders(id) == []
