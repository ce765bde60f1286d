"""Lists on a real terminal of 80 columns: no line is longer, whatever names are."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence

import pytest

from tests.cli.running import Ion, command

NAME, TYPE = "m" * 63, "t" * 120
PIPELINE = f"""\
modules:
  {NAME}:
    command: [sh, -c, "cd $HANDLER_BASE_DIR; cp in/data/* out/data/; exit $(cat in/data/*)"]
    source: .
    subscribes: [{TYPE}]
    retries: 0
"""


def _on_a_terminal(ion: Ion, *arguments: str, **variables: str) -> str:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "PYTHONUTF8": "1", **variables}
    shown = b""
    with subprocess.Popen(command(*arguments), cwd=ion.home, env=environ, stdout=theirs, stderr=subprocess.PIPE) as run:
        os.close(theirs)
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:  # Linux: nobody has the other end any more
            pass
        assert run.stderr is not None
        said = run.stderr.read().decode()
    os.close(ours)
    assert run.returncode == 0, said
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def wide(ion: Ion) -> Ion:
    """Under names as long as they may be: a dead letter, a flow that is done, and an event that waits."""
    (ion.home / "ion.yaml").write_text(PIPELINE)
    for name, code in (("f" * 200, "0"), ("g" * 200, "3")):
        (ion.home / name).write_text(code)
        assert ion("event", "publish", TYPE, "--file", name, "--data", f"k={'v' * 200}").code == 0
    ion.process("serve", "--until-idle")
    for id in ("planner.nightly-report.2026-11-28T06:00:00Z", "planner.nightly-report.2026-11-29T06:00:00Z"):
        ids = ("--event-id", id, "--correlation-id", id)
        assert ion("event", "publish", TYPE, "--file", "g" * 200, *ids).code == 0
    return ion


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("dlq", "list"), 2),
        (("event", "peek", "--module", NAME), 3),
        (("trace", "list"), 5),
        (("module", "list"), 2),
        (("files", "planner.nightly-report.2026-11-28T06:00:00Z"), 2),
    ],
)
def test_a_list_fits_a_terminal(wide: Ion, arguments: Sequence[str], lines: int) -> None:
    shown = _on_a_terminal(wide, *arguments).splitlines()
    assert len(shown) == lines
    assert max(map(len, shown)) <= 80, "\n".join(shown)
    assert max(map(len, _on_a_terminal(wide, *arguments, "--verbose").splitlines())) > 80


def test_all_that_a_flow_brings_is_shown_where_that_is_asked_for_or_piped(ion: Ion) -> None:
    pairs = [f"k{n}={'v' * 200}" for n in range(25)]
    data = [it for pair in pairs for it in ("--data", pair)]
    files = [f"file-{n}" for n in range(5)]
    for name in files:
        (ion.home / name).touch()
    named = [it for name in files for it in ("--file", name)]
    assert ion("event", "publish", "start", *named, *data).code == 0
    brings = " ".join([*files, *pairs])
    assert brings in ion("trace", "list").out
    assert brings in _on_a_terminal(ion, "trace", "list", "--verbose")
    assert "k1=" not in _on_a_terminal(ion, "trace", "list")
    assert "file-2 ... k0=" in _on_a_terminal(ion, "trace", "list", PYTHONIOENCODING="ascii")


def test_what_is_cut_in_a_tree_ends_with_an_ellipsis(ion: Ion) -> None:
    for data in (["--data", "k=" + "v" * 77], ["--data", "k=" + "v" * 79], [f"--data=k{n}=" for n in range(21)]):
        assert ion("event", "publish", "start", *data, "--json").code == 0
    shown = [ion("trace", "flow", it["correlationId"]).out for it in ion("trace", "list", "--json").json]
    assert ["…" in it for it in shown] == [True, True, False]


def test_what_is_shown_of_a_flow_is_enough_for_the_next_command(wide: Ion) -> None:
    for line in _on_a_terminal(wide, "trace", "list").splitlines()[1:]:
        assert wide("trace", "flow", line.split()[0]).code == 0, line


def test_what_is_piped_is_not_cut(ion: Ion) -> None:
    (ion.home / "ion.yaml").write_text(PIPELINE.replace("exit $(", f"echo '{{}}' > out/events/{'e' * 120}.txt; : $("))
    (ion.home / "f").write_text("0")
    assert ion("event", "publish", TYPE, "--file", "f", "--data", f"k={'v' * 80}").code == 0
    assert ion.process("serve", "--until-idle").code == 1
    [letter] = ion("dlq", "list", "--json").json
    assert len(letter["reason"]) > 160
    for arguments in (("dlq", "list"), ("dlq", "list", "--by", "reason")):
        assert letter["reason"] in ion(*arguments).out
    assert TYPE in ion("trace", "list").out
    assert f"k={'v' * 80}" in ion("trace", "list").out
    assert letter["reason"] in ion("trace", "flow").out
