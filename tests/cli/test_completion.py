"""What shells complete: asked as their scripts ask, and in real shells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ion_core.app import App
from ion_core.cli.completing import SHELLS
from ion_core.contracts.messaging import RetryPolicy
from tests.cli.running import Ion, command

FLOW = "8000fe0c-1e56-5bc4-8ea6-50d8ab3db51d"
WITHIN = 60.0

HAVE_SHELLS = [shell for shell in SHELLS if shutil.which(shell)]
"""Those of this machine: on others the scripts are printed, and that is all that can be seen of them."""


async def _with_a_queue_of_nobody(app: App) -> None:
    await (await app.broker()).declare("gone", topics=(), retry=RetryPolicy())


@pytest.fixture
def published(ion: Ion) -> Ion:
    ids = ("--correlation-id", FLOW, "--event-id", "an-event")
    for case in ("up/first", "up/second", "gone/first"):
        (ion.home / "cases" / case).mkdir(parents=True)
    ion.in_app(_with_a_queue_of_nobody)
    assert ion("event", "publish", "start", "--file", "note.txt", *ids).code == 0
    return ion


def _asked(ion: Ion, line: str) -> list[str]:
    """As bash asks; nothing but the answer may be printed, whatever is wrong."""
    words = line.split(" ")
    environ = {"_ION_CORE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = ion.process(environ=environ)
    assert (result.code, result.err) == (0, "")
    return [item.partition(",")[2] for item in result.out.splitlines() if item]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("ion-core t", ["trace"]),
        ("ion-core trace ", ["flow", "list"]),
        ("ion-core trace list --fa", ["--failed"]),
        ("ion-core trace flow 8", [FLOW]),
        ("ion-core files 80", [FLOW]),
        ("ion-core files an", ["an-event"]),
        ("ion-core logs ", ["an-event"]),
        ("ion-core logs --module ", ["up", "fails", "takes"]),
        ("ion-core module run ta", ["takes"]),
        ("ion-core module rename ta", ["takes"]),
        ("ion-core module remove fa", ["fails"]),
        ("ion-core event republish --module ta", ["takes"]),
        ("ion-core event republish --type st", ["start"]),
        ("ion-core event publish ", ["made", "start"]),
        ("ion-core completion z", ["zsh"]),
        ("ion-core docs oper", ["operating"]),
        ("ion-core docs contracts/blo", ["contracts/blobs"]),
        ("ion-core module test ", ["up"]),
        ("ion-core module test up/", ["up/first", "up/second"]),
        ("ion-core module test up/first up/s", ["up/second"]),
        ("ion-core module drain ", ["gone"]),
        ("ion-core module drop g", ["gone"]),
        ("ion-core module move ", ["gone"]),
        ("ion-core module move gone ta", ["takes"]),
        ("ion-core nothing ", []),
    ],
)
def test_a_line_is_completed_from_commands_configuration_and_state(
    published: Ion, line: str, answer: list[str]
) -> None:
    assert _asked(published, line) == answer


def test_dead_letters_are_completed(published: Ion) -> None:
    published.process("serve", "--until-idle")
    [letter] = published("dlq", "list", "--json").json
    assert _asked(published, "ion-core dlq show ") == [letter["id"]]


def test_the_configuration_of_the_line_is_the_one(published: Ion) -> None:
    (published.home / "other.yaml").write_text("modules: {other: {command: [sh], source: ., subscribes: [x]}}\n")
    assert _asked(published, "ion-core logs --config other.yaml --module ") == ["other"]


BROKEN = ["modules: [", "modules: {a: {}}", "storage: {documents: {provider: nix}}", ""]


@pytest.mark.parametrize("configuration", BROKEN)
def test_where_something_is_wrong_there_is_nothing_to_say(ion: Ion, configuration: str) -> None:
    (ion.home / "ion.yaml").write_text(configuration)
    for line in ("trace flow ", "logs --module ", "event publish ", "dlq show ", "unknown ", "unk"):
        assert _asked(ion, f"ion-core {line}") == []


def test_a_plugin_that_prints_and_warns_is_not_heard(ion: Ion, site: Path) -> None:
    noisy = "import sys, logging\nprint('noise')\nprint('noise', file=sys.stderr)\nlogging.getLogger().error('noise')\n"
    (site / "ion_greeting.py").write_text(noisy + (site / "ion_greeting.py").read_text())
    environ = {"_ION_CORE_COMPLETE": "bash_complete", "COMP_WORDS": "ion-core gre", "COMP_CWORD": "1"}
    result = ion.process(environ={**environ, "PYTHONPATH": str(site)})
    assert (result.code, result.out, result.err) == (0, "plain,greet\n", "")


def test_an_id_that_a_shell_would_read_something_into_is_left_out(ion: Ion) -> None:
    ion("event", "publish", "start", "--file", "note.txt", "--correlation-id", "$(reboot)", "--event-id", "* *")
    assert _asked(ion, "ion-core trace flow ") == []
    assert _asked(ion, "ion-core logs ") == []


def test_nothing_is_made_by_asking(ion: Ion) -> None:
    assert _asked(ion, "ion-core trace flow ") == []
    assert not (ion.home / ".ion").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell(ion: Ion, shell: str) -> None:
    result = ion("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert "_ION_CORE_COMPLETE" in result.out


def test_a_shell_that_is_none_of_them_is_misuse(ion: Ion) -> None:
    assert ion("completion", "cmd").code == 2


START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(ion-core completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(ion-core completion zsh)"'),
    "fish": (["fish", "--no-config", "--interactive"], "ion-core completion fish | source"),
}


class Terminal:
    """A shell in a terminal: typed into, and read until something is on it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._shown = b""

    def types(self, keys: str) -> None:
        os.write(self._number, keys.encode())

    def shows(self, text: str) -> None:
        """Wait for ``text``, and forget what was before it."""
        while text.encode() not in self._shown:
            ready, _, _ = select.select([self._number], [], [], WITHIN)
            assert ready, f"{text!r} did not come after: {self._shown[-2000:]!r}"
            self._shown += os.read(self._number, 65536)
        self._shown = self._shown.partition(text.encode())[2]


@contextmanager
def _terminal(ion: Ion, arguments: list[str], path: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}", "HOME": str(ion.home), "TERM": "dumb"}
    shell = subprocess.Popen(
        arguments, cwd=ion.home, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(ours)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", [it for it in HAVE_SHELLS if it != "fish"])
def test_a_real_shell_completes_commands_and_values(published: Ion, tmp_path: Path, shell: str) -> None:
    arguments, start = START[shell]
    program = tmp_path / "bin" / "ion-core"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    with _terminal(published, arguments, program.parent) as terminal:
        terminal.types(f"{start}; echo re''ady\n")
        terminal.shows("ready")
        terminal.types("ion-core trac\t")
        terminal.shows("trace ")
        terminal.types("flow 80\t")
        terminal.shows(FLOW[2:])


BEGUN = ("order:", "order:20", "'order:20", "--correlation-id=order:20")


@pytest.mark.parametrize("shell", [it for it in HAVE_SHELLS if it != "fish"])
@pytest.mark.parametrize("begun", BEGUN)
def test_a_real_shell_completes_ids_that_have_colons(ion: Ion, tmp_path: Path, shell: str, begun: str) -> None:
    """At which bash cuts words, and puts in only what comes behind the last of them."""
    id = "order:2024:017"
    assert ion("event", "publish", "start", "--file", "note.txt", "--correlation-id", id).code == 0
    arguments, start = START[shell]
    program = tmp_path / "bin" / "ion-core"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    with _terminal(ion, arguments, program.parent) as terminal:
        terminal.types(f"{start}; echo re''ady\n")
        terminal.shows("ready")
        terminal.types(f"ion-core trace flow {begun}\t")
        terminal.shows("017")
        terminal.types("; echo do''ne\n")
        terminal.shows(f"\nflow {id}")
        terminal.shows("done")


@pytest.mark.parametrize("shell", [it for it in HAVE_SHELLS if it == "fish"])
def test_fish_completes_commands_and_values(published: Ion, tmp_path: Path, shell: str) -> None:
    program = tmp_path / "bin" / "ion-core"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    asks = "ion-core completion fish | source; complete -C 'ion-core trac'; complete -C 'ion-core trace flow 80'"
    environ = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [shell, "-c", asks], cwd=published.home, env=environ, capture_output=True, text=True, timeout=WITHIN
    )
    assert done.stdout.splitlines()[0].startswith("trace\t")
    assert FLOW in done.stdout
