"""Real `ion-core serve` processes that watch a folder: as the README has it, killed, and stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FILES = 100
WITHIN = 90.0
CONFIG = """
modules:
  take:
    command: [sh, -c, 'cat "$HANDLER_BASE_DIR"/in/data/* >> "{runs}"']
    source: .
    subscribes: [photo.received]
    concurrency: 4
services:
  watch:
    folders:
      photos: {{path: inbox, type: photo.received, stable: 0s, every: 2s, {after}}}
"""
ION = [sys.executable, "-m", "ion_core"]


class Home:
    """With an empty ``inbox``, and photos that are not in it yet."""

    def __init__(self, home: Path, config: str) -> None:
        self.home = home
        (home / "inbox").mkdir()
        (home / "photos").mkdir()
        for number in range(FILES):
            (home / "photos" / f"{number}.jpg").write_text(f"{number}\n")
        (home / "ion.yaml").write_text(config, encoding="utf-8")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}

    def move(self, first: int, last: int) -> None:
        for number in range(first, last):
            (self.home / "photos" / f"{number}.jpg").rename(self.home / "inbox" / f"{number}.jpg")

    def flows(self) -> list[dict[str, Any]]:
        command = [*ION, "trace", "list", "--limit", "1000", "--json"]
        done = subprocess.run(
            command, cwd=self.home, env=self.environ, capture_output=True, text=True, timeout=60, check=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    @contextmanager
    def serving(self) -> Iterator[Serve]:
        """Killed at the end."""
        log = self.home / f"log{len(list(self.home.glob('log*')))}"
        with log.open("wb") as output:
            process = subprocess.Popen([*ION, "serve"], cwd=self.home, env=self.environ, stderr=output)
        try:
            serve = Serve(process, log)
            serve.until(lambda: "INFO serving" in log.read_text())
            yield serve
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Serve:
    process: subprocess.Popen[bytes]
    log: Path

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN
        while not reached():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def committed(self) -> int:
        return self.log.read_text().count("job committed")


@pytest.mark.parametrize("after", ["after: keep", "after: move, to: taken"])
def test_a_hundred_photos_are_a_hundred_flows_though_serve_is_killed_twice(tmp_path: Path, after: str) -> None:
    home = Home(tmp_path, CONFIG.format(runs=tmp_path / "runs", after=after))
    for first, enough in ((0, 5), (FILES // 2, 20)):
        with home.serving() as serve:
            moving = threading.Thread(target=home.move, args=(first, first + FILES // 2))
            moving.start()
            serve.until(lambda serve=serve, enough=enough: serve.committed() >= enough)
        moving.join()
    with home.serving() as serve:
        serve.until(lambda: len(flows := home.flows()) == FILES and all(it["jobs"] == {"committed": 1} for it in flows))
        if "move" in after:
            serve.until(lambda: not list((tmp_path / "inbox").iterdir()))
    flows = home.flows()
    assert len(flows) == FILES
    assert sorted(it["files"] for it in flows) == sorted([f"{number}.jpg"] for number in range(FILES))
    lines = Counter((tmp_path / "runs").read_text().split())
    assert sorted(lines) == sorted(f"{number}" for number in range(FILES)), "each with what is in its file"
    assert len(list((tmp_path / "taken").iterdir() if "move" in after else (tmp_path / "inbox").iterdir())) == FILES


def test_the_example_of_the_readme_takes_a_photo(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"<!-- file: watch/ion\.yaml -->\n```yaml\n(.*?)```", readme, re.S)
    home = Home(tmp_path, config)
    with home.serving() as serve:
        shutil.copy(tmp_path / "photos" / "7.jpg", tmp_path / "inbox" / "photo.jpg")
        serve.until(lambda: serve.committed() == 1)
        serve.until(lambda: (tmp_path / "taken" / "photo.jpg").exists() and not list((tmp_path / "inbox").iterdir()))
    (flow,) = home.flows()
    assert flow["files"] == ["photo.jpg"]
    assert flow["data"] == [{"key": "folder", "value": "photos"}, {"key": "path", "value": "photo.jpg"}]


HANGING = """
modules:
  take: {{command: [sh, -c, ":"], source: ., subscribes: [photo.received]}}
services:
  watch:
    folders:
      far:
        url: s3://bucket/in
        type: photo.received
        options:
          endpoint_url: http://127.0.0.1:{port}
          key: testing
          secret: testing-secret
          config_kwargs: {{connect_timeout: 3600, read_timeout: 3600}}
"""


def test_a_server_that_never_answers_keeps_serve_from_nothing_and_least_from_ending(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hanging:  # which takes connections, and no more
        home = Home(tmp_path, HANGING.format(port=hanging.getsockname()[1]))
        with home.serving() as serve:
            serve.until(lambda: "does not answer; it is waited for" in serve.log.read_text())
            serve.process.send_signal(signal.SIGTERM)
            assert serve.process.wait(WITHIN) == 128 + signal.SIGTERM
            assert "does not end" not in serve.log.read_text()
