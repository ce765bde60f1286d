"""``debug``: the workspace of an attempt, and a shell in it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ion_core.app import App
from tests.cli.running import Ion, Result, command
from tests.conformance.test_embedded_providers import bubblewrap_works

CALLS = """\
import os, urllib.request
for path in ("ready", "done"):
    request = urllib.request.Request("http://localhost:%s/%s" % (os.environ["HANDLER_PORT"], path))
    request.add_header("secret", os.environ["SHARED_SECRET"])
    print(path, urllib.request.urlopen(request).status)
"""


@pytest.fixture
def failed(ion: Ion) -> str:
    """The id of the event that `fails` failed for, twice; `takes` has committed it."""
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text().replace("retries: 1\n", 'retries: 1\n    env: {COLOUR: "two  words"}\n'))
    (ion.home / "fails.sh").write_text('echo half > "$HANDLER_BASE_DIR"/out/data/half.txt; echo oh no >&2; exit 3')
    assert ion("event", "publish", "start", "--file", "note.txt").code == 0
    assert ion.process("serve", "--until-idle").code == 1
    [letter] = ion("dlq", "list", "--json").json
    event_id: str = letter["eventId"]
    return event_id


def shell(ion: Ion, commands: str, *arguments: str) -> Result:
    done = subprocess.run(
        command("debug", *arguments, "--shell"),
        cwd=ion.home,
        input=commands,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def nothing_is_left(ion: Ion) -> bool:
    return not list((ion.home / ".ion" / "rehearsals").iterdir()) and not list((ion.home / ".ion" / "run").iterdir())


def test_a_shell_in_the_workspace_that_the_failed_attempt_left(ion: Ion, failed: str) -> None:
    done = shell(ion, 'cd "$HANDLER_BASE_DIR"; ls in/data out/data; cat out/data/half.txt', failed[:8])
    assert done.code == 0, done.err
    assert done.out == "in/data:\nnote.txt\n\nout/data:\nhalf.txt\nhalf\n"
    assert "as attempt 2 left it (exit code 3)" in done.err
    assert "command    sh fails.sh" in done.err
    assert nothing_is_left(ion)


def test_it_is_the_modules_own_place_and_environment(ion: Ion, failed: str) -> None:
    done = shell(ion, "pwd; echo $COLOUR; sh fails.sh; echo $?; exit 7", failed)
    assert done.code == 7
    assert done.out == f"{ion.home}\ntwo words\n3\n"
    assert "oh no" in done.err


def test_inputs_can_be_prepared_again_and_nothing_is_left_of_that(ion: Ion, failed: str) -> None:
    done = shell(ion, 'cd "$HANDLER_BASE_DIR"; ls out/data; cat in/data/note.txt in/eventmeta.json', failed, "--fresh")
    assert done.code == 0, done.err
    assert done.out.startswith('remember\n[{"key":"n","value":"1"}')
    assert "prepared again, gone at the end" in done.err
    assert nothing_is_left(ion)


def test_an_attempt_can_be_chosen(ion: Ion, failed: str) -> None:
    assert "as attempt 1 left it" in shell(ion, "true", failed, "--attempt", "1").err
    result = ion("debug", failed, "--attempt", "3")
    assert (result.code, result.out) == (2, "")
    assert "the workspace of attempt 3 is not kept. Kept of this job: 1, 2." in result.err


def test_a_log_does_not_name_a_workspace_that_is_gone(ion: Ion, failed: str) -> None:
    first, second = sorted((ion.home / ".ion/failed/fails").iterdir())
    elsewhere = "workspace kept in /another/machine/failed/fails/x, until 3 newer ones of fails are"

    async def add(app: App) -> None:
        documents = await app.documents()
        async for log in documents.find("modulelogs"):
            if log.body["context"]["name"] == "fails":
                body = {**log.body, "logs": log.body["logs"] + elsewhere}
                await documents.put(replace(log, body=body))

    ion.in_app(add)
    shutil.rmtree(first)
    told = ion("logs", failed, "--module", "fails").out
    assert str(first) not in told
    assert told.count("workspace not kept any more: newer ones of the module are") == 1
    assert f"workspace kept in {second}, until 3 newer ones of fails are" in told
    assert told.count(elsewhere) == 2, "what another machine keeps nobody here can tell"


def test_without_a_shell_it_says_what_there_is(ion: Ion, failed: str) -> None:
    shown = ion("debug", failed)
    assert shown.code == 0, shown.err
    [home] = (ion.home / ".ion" / "failed" / "fails").glob("*-2-*")
    lines = shown.out.splitlines()
    assert lines[:3] == [
        f"workspace  {home / 'ion'}  (as attempt 2 left it: exit code 3)",
        "module     fails: sh fails.sh",
        f"source     {ion.home}",
    ]
    assert ["out/data/half.txt", "5"] in [line.split() for line in lines]
    assert "== attempt 2: dead-lettered: exit code 3 (attempt 2, the last)" in lines
    assert "oh no" in lines
    assert f"workspace kept in {home}, until 3 newer ones of fails are" in lines
    assert "until 3 newer ones of fails are kept" in shown.err

    found = ion("debug", failed, "--json").json
    assert (found["module"], found["kept"], found["attempt"]) == ("fails", True, 2)
    assert {"name": "in/data/note.txt", "size": 9} in found["files"]


def test_a_workspace_made_for_looking_stays_until_it_is_removed(ion: Ion, failed: str) -> None:
    shown = ion("debug", failed, "--module", "takes")
    home = Path(shown.out.split()[1]).parent
    assert home.parent == ion.home / ".ion" / "debug"
    assert f"rm -r {home}" in shown.err
    assert (home / "ion" / "in" / "data" / "note.txt").read_text() == "remember\n"
    assert ion.process("serve", "--until-idle").code == 0
    assert home.exists(), "serve leaves it alone"
    found = ion("debug", failed, "--module", "takes", "--json").json
    assert (found["kept"], found["attempt"], found["module"]) == (False, None, "takes")


def test_a_module_may_call_its_handler_as_often_as_it_is_run(ion: Ion, failed: str) -> None:
    (ion.home / "calls.py").write_text(CALLS)
    done = shell(ion, "python3 calls.py && python3 calls.py", failed)
    assert done.code == 0, done.err
    assert done.out == "ready 200\ndone 200\n" * 2
    assert done.err.count("/done: 1 file, 0 insights and 0 events would be committed") == 2


def test_a_module_that_clears_its_workspace_before_it_calls_gets_its_inputs(ion: Ion, failed: str) -> None:
    (ion.home / "calls.py").write_text(CALLS)
    clear = 'rm -r "$HANDLER_BASE_DIR"/in/data "$HANDLER_BASE_DIR"/out/data'
    done = shell(ion, f'{clear} && python3 calls.py && cat "$HANDLER_BASE_DIR"/in/data/*', failed)
    assert done.code == 0, done.err
    assert done.out.endswith("done 200\nremember\n")
    assert "/done: 0 files" in done.err


def test_on_a_terminal_the_shell_has_it(ion: Ion, failed: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("debug", failed, "--shell"),
        cwd=ion.home,
        env={**os.environ, "SHELL": "/bin/sh", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, b"test -t 0 && test -t 1 && echo on a $TERM\nexit 4\n")
    text = b""
    try:
        while more := os.read(ours, 4096):
            text += more
    except OSError:  # what a terminal says once nobody has its other side open
        pass
    os.close(ours)
    assert process.wait(60) == 4
    assert b"on a xterm\r\n" in text


if bubblewrap_works():  # where it does not, the setting is refused, which has a test of its own

    def test_under_bubblewrap_the_shell_sees_what_the_module_would(ion: Ion, failed: str) -> None:
        config = ion.home / "ion.yaml"
        config.write_text("runtimes: {default: {provider: process, isolation: bubblewrap}}\n" + config.read_text())
        elsewhere = ion.home.parent / "elsewhere"
        elsewhere.mkdir()
        done = shell(
            ion,
            f"echo $HANDLER_BASE_DIR; ls /ion/in/data; touch /ion/in/x || echo kept; ls -d {elsewhere} || echo not",
            failed,
        )
        assert done.out == "/ion/\nnote.txt\nkept\nnot\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent"], 1, "no event 'absent'"),
        (["FAILED", "--module", "fail"], 2, "no module called 'fail'. Did you mean 'fails'?"),
        (["FAILED", "--module", "up"], 2, "module up takes no events of type 'made', only start."),
        (["FAILED", "--shell", "--json"], 2, "give one of them"),
        (["FAILED", "--fresh", "--attempt", "1"], 2, "give one of them"),
        (["FAILED", "--runtime", "podmn"], 78, 'no container runtime called "podmn"'),
        (["FAILED", "--shell", "--runtime", "memory"], 78, "image is required"),
    ],
)
def test_misuse_says_what_is_wrong(ion: Ion, failed: str, arguments: list[str], code: int, said: str) -> None:
    result = ion("debug", *(failed if it == "FAILED" else it for it in arguments))
    assert result.code == code, result.err
    assert said in result.err
    assert result.out == ""


def test_where_two_modules_could_be_meant_it_asks(ion: Ion, failed: str) -> None:
    (ion.home / "mended").touch()
    (ion.home / "fails.sh").write_text("true")
    [letter] = ion("dlq", "list", "--json").json
    assert ion("dlq", "redrive", letter["id"]).code == 0
    assert ion.process("serve", "--until-idle").code == 0
    result = ion("debug", failed)
    assert result.code == 2
    assert "which module? Give --module. It is taken by fails, takes." in result.err


def test_debug_shows_the_log_of_the_round_whose_workspace_it_is(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text().replace("retries: 1\n", "retries: 0\n    keep_failed: 2\n"))
    assert ion("event", "publish", "start", "--file", "note.txt").code == 0
    for number in (1, 2):
        (ion.home / "fails.sh").write_text(f"echo round {number}; exit 3")
        assert ion.process("serve", "--until-idle").code == 1
        [letter] = ion("dlq", "list", "--json").json
        if number == 1:
            assert ion("dlq", "redrive", "--all").code == 0
    newest = sorted((ion.home / ".ion/failed/fails").iterdir())[-1]
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    assert "round 1" in ion("debug", letter["eventId"], "--module", "fails").out
