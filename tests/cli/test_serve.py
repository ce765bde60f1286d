"""``serve`` as a real process, and the whole way of an event through the other commands."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.running import Ion, command


def test_the_whole_way_of_an_event(ion: Ion) -> None:
    assert ion.process("event", "publish", "start", "--file", "note.txt", "--correlation-id", "c").code == 0
    served = ion.process("serve", "--until-idle")
    assert served.code == 1
    assert served.out == ""
    assert "\x1b" not in served.err
    assert re.search(r"^\S+Z INFO job committed .*module=up .*attempt=1 seconds=\d", served.err, re.MULTILINE)
    assert re.search(r"^\S+Z ERROR job dead-lettered: exit code 3 .*module=fails", served.err, re.MULTILINE)

    drawn = ion("trace", "flow", "c").out
    documents = ion("trace", "flow", "c", "--json").json
    [made] = [it["id"] for it in documents if it.get("type") == "made"]
    assert "2 events · 3 jobs: 2 committed, 1 dead-lettered" in drawn
    assert [line.strip(" │├└─").split(" in ")[0] for line in drawn.splitlines()[2:]] == [
        "up: committed",
        "insight lines=3",
        f"made  {made[:8]}  note.txt n=1",
        "fails: dead-lettered",
        "attempt 1 retried",
        "attempt 2 dead-lettered",
        "takes: committed",
    ]

    [letter] = ion("dlq", "list", "--json").json
    assert (letter["module"], letter["type"], letter["attempts"]) == ("fails", "made", 2)
    assert "oh no" in ion("dlq", "show", letter["id"]).out
    assert ion("logs", letter["eventId"], "--module", "fails").out.count("Worker logs\noh no\n") == 2

    (ion.home / "mended").touch()
    assert ion("dlq", "redrive", letter["id"]).code == 0
    assert ion.process("serve", "--until-idle").code == 0
    assert "3 jobs: 3 committed" in ion("trace", "flow", "c").out


def test_nothing_to_do_ends_at_once_and_logs_can_be_json(ion: Ion) -> None:
    result = ion.process("serve", "--until-idle", "--log-format", "json", "--log-level", "info")
    assert (result.code, result.out) == (0, "")
    lines = [json.loads(line) for line in result.err.splitlines()]
    [serving] = [line for line in lines if line["message"] == "serving"]
    assert (serving["level"], serving["modules"]) == ("INFO", ["fails", "takes", "up"])


def test_with_json_logs_also_warnings_about_plugins_are_json(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text("raise ImportError('no libgreeting')")
    environ = {"PYTHONPATH": str(site)}
    result = ion.process("serve", "--until-idle", "--log-format", "json", environ=environ)
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert lines[0]["message"] == "plugin cannot be used"
    assert lines[0]["distribution"] == "ion-greeting"


def test_the_log_level_is_what_is_logged(ion: Ion) -> None:
    assert ion.process("serve", "--until-idle", "--log-level", "error").err == ""


class Terminal:
    """A process whose stderr is a terminal, and all it has written there."""

    def __init__(self, ion: Ion, *arguments: str, term: str = "xterm") -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ion.home,
            env={**os.environ, "TERM": term, "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, condition: Callable[[str], bool]) -> None:
        """Read on until it holds; fails when the process ends before."""
        deadline = time.monotonic() + 60
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            try:
                self.text += os.read(self._ours, 4096).decode()
            except OSError:  # what a terminal says once nobody has its other side open
                assert condition(self.text), self.text

    def end(self) -> int:
        try:
            while more := os.read(self._ours, 4096):
                self.text += more.decode()
        except OSError:
            pass
        os.close(self._ours)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def screen(self) -> list[str]:
        """Its lines as one sees them: each erased line begins anew."""
        return [line.rpartition("\x1b[K")[2].rstrip("\r") for line in self.text.replace("\r\n", "\n").split("\n")]


def test_on_a_terminal_a_live_line_stays_below_the_log(ion: Ion) -> None:
    terminal = Terminal(ion, "serve")
    terminal.read_until(lambda text: "0 running | 0 waiting | 0 committed | 0 retried | 0 dead" in text)
    assert ion("event", "publish", "start", "--file", "note.txt").code == 0
    terminal.read_until(lambda text: "0 running | 0 waiting | 2 committed | 1 retried | 1 dead" in text)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    screen = terminal.screen()
    assert screen[-1] == "", "the live line is gone at the end"
    logged = [re.sub(r"\x1b\[\d*m", "", line) for line in screen[:-1]]
    assert all(re.match(r"\d\d:\d\d:\d\dZ |  ", line) for line in logged), "log lines are whole"
    assert [line for line in logged if len(line) >= 80 and " " in line.strip()] == [], "a long path is not broken"
    for colour, begun in (("33", "job retried: exit code 3  fails "), ("31", "job dead-lettered: exit code 3 ")):
        assert any(re.match(rf"\x1b\[{colour}m\S+Z {begun}", line) for line in screen)


def test_on_a_terminal_that_cannot_erase_a_line_there_are_logs_only(ion: Ion) -> None:
    terminal = Terminal(ion, "serve", "--until-idle", term="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "waiting" not in terminal.text


def test_a_second_serve_names_the_first_one_and_says_try_later(ion: Ion) -> None:
    first = Terminal(ion, "serve", term="dumb")
    first.read_until(lambda text: "serving" in text)
    second = ion.process("serve")
    assert second.code == 75
    assert f"pid {first.process.pid}" in second.err
    assert second.err.count("ion-core: ") == 1
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 143


def test_crash_points_want_to_be_asked_for(ion: Ion) -> None:
    result = ion.process("serve", "--until-idle", environ={"ION_CRASH_AT": "S5"})
    assert result.code == 2
    assert result.err.startswith("ion-core: ION_CRASH_AT")


OBSERVES = """\
from pathlib import Path
from ion_core.hookspecs import hookimpl

def note(line):
    with Path("observed").open("a") as file:
        file.write(line + "\\n")

@hookimpl
def ion_serve_started(state, modules):
    note(f"started {state.name} {','.join(modules)}")

@hookimpl
def ion_job_dead_lettered(attempt, outcome):
    note(f"dead {attempt.job.module}: {outcome.reason}")

@hookimpl
def ion_serve_stopped():
    note("stopped")
"""


def test_observers_are_told_when_it_begins_of_dead_letters_and_when_it_ends(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text(OBSERVES)
    environ = {"PYTHONPATH": str(site)}
    assert ion.process("event", "publish", "start", "--file", "note.txt", environ=environ).code == 0
    assert not (ion.home / "observed").exists(), "only serve serves"
    assert ion.process("serve", "--until-idle", environ=environ).code == 1
    first, *dead, last = (ion.home / "observed").read_text().splitlines()
    assert first == "started .ion fails,takes,up"
    assert [line.partition(": ")[0] for line in dead] == ["dead fails"]
    assert "exit code 3" in dead[0]
    assert last == "stopped"
