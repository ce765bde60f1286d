"""ion_module.sh, the file that shell modules may source: with the shells and the awk of Debian, and all of busybox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ion_core.handler.live import clear
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.module_library import library
from ion_core.modules import Module
from tests.support.handler_api import HandlerApi
from tests.unit.test_module_library import GATHERED

MODULE = Module(name="m", publishes=("thing.made", "thing.seen"))
HARD = [
    "plain",
    'a "quoted" word',
    "back\\slash \\n \\u0041 & \\1",
    "two\nlines",
    "tab\tand \x01\x1f\x7f control\r",
    "Zoë 日本 🙂 \u2028",
    "[{brackets}]: ,",
    "%s %d $HOME `id` $(id)",
    "\\",
    '"',
    '\\"',
    "x\\\\",
    "",
    "key",
    "value",
    "message",
]


@dataclass(frozen=True)
class Shell:
    program: str
    path: str
    workspace: Workspace

    def run(self, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """``script`` after the library, as a script of its own."""
        file = self.workspace.home / "module.sh"
        (self.workspace.home / "ion_module.sh").write_text(library("sh"), encoding="utf-8")
        file.write_text(f". {self.workspace.home}/ion_module.sh\n{script}\n", encoding="utf-8")
        base = {"PATH": self.path, "HANDLER_BASE_DIR": str(self.workspace.root), **environ}
        done = subprocess.run([self.program, file], env=base, capture_output=True, timeout=60, check=False)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def well(self, script: str, **environ: str) -> str:
        done = self.run(script, **environ)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory in which every program is busybox."""
    programs = tmp_path_factory.mktemp("busybox")
    found = shutil.which("busybox")
    assert found is not None
    subprocess.run([found, "--install", "-s", programs], check=True)
    return str(programs)


@pytest.fixture(scope="module")
def without_curl(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with what the library needs, and wget."""
    programs = tmp_path_factory.mktemp("programs")
    for name in ("awk", "cat", "find", "mkdir", "sort", "sleep", "wc", "wget"):
        found = shutil.which(name)
        assert found is not None, f"{name} is not installed"
        (programs / name).symlink_to(found)
    return str(programs)


@pytest.fixture(params=["dash", "bash", "busybox", "wget"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, busybox: str, without_curl: str) -> Shell:
    workspace = Workspace.make(tmp_path, "work")
    if request.param == "busybox":
        return Shell(f"{busybox}/sh", busybox, workspace)
    program = shutil.which("dash" if request.param == "wget" else request.param)
    assert program is not None
    return Shell(program, without_curl if request.param == "wget" else os.environ["PATH"], workspace)


def give(workspace: Workspace, pairs: list[tuple[str, str]], **layout: object) -> None:
    text = json.dumps([{"key": key, "value": value} for key, value in pairs], **layout)  # type: ignore[arg-type]
    workspace.eventmeta.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("layout", [{"ensure_ascii": True}, {"ensure_ascii": False, "indent": 2}])
def test_pairs_are_read_whatever_is_in_them(shell: Shell, layout: Mapping[str, object]) -> None:
    pairs = [(text, f"{text}, the value") for text in HARD] + [("plain", "the last")]
    give(shell.workspace, pairs, **layout)

    printed = shell.well('ion_meta "$KEY"; ion_meta back || echo " none"', KEY="plain")
    assert printed == "the last none\n"
    for key, value in pairs[1:-1]:
        assert shell.well('ion_meta "$KEY"', KEY=key) == value
    lines = shell.well("ion_pairs").split("\n")
    assert lines.pop() == ""
    decoded = [
        tuple(field.encode().decode("unicode_escape").encode("latin-1").decode() for field in line.split("\t"))
        for line in lines
    ]
    assert decoded == pairs


def test_keys_may_stand_in_any_order_and_pairs_may_be_missing(shell: Shell) -> None:
    assert shell.well("ion_pairs; ion_meta x || echo none") == "none\n"
    shell.workspace.eventmeta.write_text(' [ { "value" : "1", "key" : "x" } ,\n{"key":"y","value":""}]\n')
    assert shell.well("ion_pairs; ion_meta x; ion_meta y") == "x\t1\ny\t\n1"
    shell.workspace.eventmeta.write_text("[]")
    assert shell.well("ion_pairs; ion_meta x || echo none") == "none\n"


def test_a_nul_that_no_shell_can_hold_is_no_value(shell: Shell) -> None:
    shell.workspace.eventmeta.write_text('[{"key": "x", "value": "a\\u0000b"}]')
    done = shell.run("ion_meta x")
    assert (done.returncode, done.stdout) == (2, "")


def test_what_it_writes_is_what_the_committer_reads(shell: Shell) -> None:
    script = """
    set -eu
    echo b >"$(ion_output a/b.txt)"
    ion_emit thing.made a/b.txt "$TEXT" 1 text "$TEXT"
    ion_emit thing.seen ''
    ion_insight "$TEXT" 2 text "$TEXT"
    ion_insight last 3
    """
    for n, text in enumerate(HARD):
        shell.well(script, TEXT=text)
        output = read_output(shell.workspace, MODULE)
        made, seen = output.events[2 * n :]
        assert (made.type, made.files, made.data) == ("thing.made", ("a/b.txt",), ((text, "1"), ("text", text)))
        assert (seen.type, seen.files, seen.data) == ("thing.seen", (), ())
        assert output.insights[3 * n :] == ((text, "2"), ("text", text), ("last", "3"))
    assert output.files == {"a/b.txt": 2}


def test_inputs_are_all_files_by_name(shell: Shell) -> None:
    for name in ("b.txt", "a b/z.txt"):
        (shell.workspace.in_data / name).parent.mkdir(exist_ok=True)
        (shell.workspace.in_data / name).touch()
    data = shell.workspace.in_data
    assert shell.well("ion_inputs") == f"{data}/a b/z.txt\n{data}/b.txt\n"


def test_the_span_above_is_that_of_the_file_and_none_without_it(shell: Shell) -> None:
    told = 'set -eu; printf "<%s>" "$(ion_traceparent)"'
    assert shell.well(told) == "<>"
    (shell.workspace.root / "in/traceparent").write_text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert shell.well(told) == "<00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01>"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", "./a"])
def test_an_output_stays_in_its_directory(shell: Shell, name: str) -> None:
    done = shell.run('path=$(ion_output "$NAME") || exit 9; echo "$path"', NAME=name)
    assert (done.returncode, done.stdout) == (9, "")
    assert "out/data" in done.stderr


def test_a_key_without_its_value_is_refused_and_nothing_is_written(shell: Shell) -> None:
    assert shell.run("ion_emit thing.made '' x 1 y").returncode == 1
    assert shell.run("ion_insight x").returncode == 1
    assert list((shell.workspace.out / "events").iterdir()) == []
    assert (shell.workspace.out / "insights.json").read_text() == ""


def test_ready_and_done_call_the_handler(shell: Shell) -> None:
    with HandlerApi() as api:
        shell.well("set -eu; ion_ready; ion_done", **api.environment(shell.workspace.root), http_proxy="http://[::1]:9")
    assert api.calls == ["/ready", "/done"]


def test_what_the_handler_refuses_is_said(shell: Shell) -> None:
    with HandlerApi() as api:
        environ = api.environment(shell.workspace.root)
        early = shell.run("ion_done", **environ)
        wrong = shell.run("ion_ready", **{**environ, "SHARED_SECRET": "wrong"})
    assert (early.returncode, wrong.returncode) == (1, 1)
    if shell.program.endswith("/sh"):  # its wget does not show what came with the status
        assert "400 Bad Request" in early.stderr
        assert "401 Unauthorized" in wrong.stderr
    else:
        assert early.stderr == 'ion_module: handler: GET /done: called /done before /ready: nothing "was" prepared\n'
        # The wget of GNU keeps what came with a 401 to itself.
        said = "the secret is missing or wrong", "Username/Password Authentication Failed."
        assert wrong.stderr in [f"ion_module: handler: GET /ready: {it}\n" for it in said]


def test_ready_waits_for_a_handler_that_is_not_up_yet(shell: Shell) -> None:
    """`sleep` is ours here: it brings the handler up at the third pause, and never sleeps."""
    api = HandlerApi().bind()
    port = api.port
    api.close()
    script = """
    sleep() {
        pauses=$((${pauses:-0} + 1))
        [ "$pauses" -lt 3 ] || HANDLER_PORT=$LATER
    }
    ion_ready && echo "$pauses pauses"
    """
    with HandlerApi() as late:
        environ = {**late.environment(shell.workspace.root), "HANDLER_PORT": str(port), "LATER": str(late.port)}
        assert shell.well(script, **environ) == "3 pauses\n"


def test_a_handler_that_never_comes_up_is_an_error(shell: Shell) -> None:
    api = HandlerApi().bind()
    api.close()
    environ = api.environment(shell.workspace.root)
    for script in ("ion_ready", "while ion_next; do :; done"):
        done = shell.run(f"sleep() {{ :; }}\nion__tries_at_first=2\n{script}", **environ)
        assert done.returncode == 1
        assert f"nobody answers on port {api.port}" in done.stderr
    assert "HANDLER_PORT is not a port number" in shell.run("ion_ready").stderr


@pytest.mark.parametrize("end", ["410", "400", "hangs up", "gone"])
def test_events_come_one_after_another_until_the_handler_is_gone(shell: Shell, end: Any) -> None:
    left: list[tuple[tuple[str, str], ...]] = []

    def prepare(number: int) -> None:
        give(shell.workspace, [("n", str(number))])

    def commit(number: int) -> None:
        [event] = read_output(shell.workspace, MODULE).events
        left.append(event.data)
        assert clear(shell.workspace)

    script = 'set -eu\nwhile ion_next; do ion_emit thing.made "" n "$(ion_meta n)"; done\necho over'
    with HandlerApi(events=3, end=end, prepare=prepare, commit=commit) as api:
        assert shell.well(script, **api.environment(shell.workspace.root)) == "over\n"
    assert left == [(("n", "0"),), (("n", "1"),), (("n", "2"),)]


def test_an_error_in_the_loop_commits_nothing(shell: Shell) -> None:
    with HandlerApi(events=2) as api:
        done = shell.run("set -e\nwhile ion_next; do false; done", **api.environment(shell.workspace.root))
    assert done.returncode == 1
    assert api.calls == ["/ready"]


def test_a_commit_that_fails_ends_the_script(shell: Shell) -> None:
    def refuse(number: int) -> None:
        raise ValueError("no")

    with HandlerApi(events=2, commit=refuse) as api:
        done = shell.run("while ion_next; do :; done; echo over", **api.environment(shell.workspace.root))
    assert (done.returncode, done.stdout) == (1, "")
    assert api.calls == ["/ready", "/done"]


def test_no_event_at_all_is_the_end_too(shell: Shell) -> None:
    with HandlerApi(events=0) as api:
        environ = api.environment(shell.workspace.root)
        assert shell.well("while ion_next; do echo never; done; echo over", **environ) == "over\n"


@pytest.mark.parametrize(("events", "end"), [(0, "400"), (0, "hangs up"), (0, "broken"), (1, "broken")])
def test_a_handler_that_fails_ends_the_script_and_not_the_loop(shell: Shell, events: int, end: Any) -> None:
    with HandlerApi(events=events, end=end) as api:
        script = "sleep() { :; }\nwhile ion_next; do :; done; echo over"
        done = shell.run(script, **api.environment(shell.workspace.root))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ion_module: handler: GET /ready: ")


def test_what_a_gatherer_is_given_is_a_line_each(shell: Shell) -> None:
    (shell.workspace.root / "in" / "gathered.json").write_text(json.dumps(GATHERED), encoding="utf-8")
    assert shell.well("ion_gathered") == "0001\tthing.made\te1\n0002\tthing.seen\te2\n"
    assert shell.well("ion_missing") == 'm\te3\tit said "no"\\tto it\n'
    assert shell.well("ion_gathered_meta 0001 x") == '"2"\t'
    assert shell.well("ion_gathered_meta 0001 directory") == "0002"
    assert shell.run("ion_gathered_meta 0002 x").returncode == 1
