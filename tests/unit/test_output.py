"""What a module left in ``out/`` is not trusted: refused by name, never followed, never waited for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ion_core.errors import OutputRefused
from ion_core.events import MAX_EVENT_BYTES
from ion_core.handler.output import Output, read_output
from ion_core.handler.workspace import TooMuch, Workspace
from ion_core.modules import Module, OutputLimits

MODULE = Module(name="detect", publishes=("face.detected", "face.lost"))
Pairs = list[tuple[str, str]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path, "job")


def put(workspace: Workspace, name: str, content: bytes = b"content") -> Path:
    path = workspace.out / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def emit(workspace: Workspace, *pairs: tuple[str, str], name: str = "event0.json", **known: str) -> None:
    found = [("eventType", known.get("type", "face.detected")), *pairs]
    if "files" in known:
        found.append(("files", known["files"]))
    raw = json.dumps([{"key": key, "value": value} for key, value in found])
    (workspace.out / "events" / name).write_text(raw)


def refusal(workspace: Workspace, module: Module = MODULE) -> str:
    with pytest.raises(OutputRefused) as refused:
        read_output(workspace, module)
    return str(refused.value)


def limited(**limits: int) -> Module:
    return replace(MODULE, limits=OutputLimits(**limits))


# What is fine


def test_nothing_at_all_is_fine(workspace: Workspace) -> None:
    assert read_output(workspace, MODULE) == Output(files={}, insights=(), events=())


@pytest.mark.parametrize("gone", ["out/data", "out/events", "out/insights.json", "out"])
def test_what_the_module_removed_is_as_if_empty(gone: str, workspace: Workspace) -> None:
    path = workspace.root / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert read_output(workspace, MODULE) == Output(files={}, insights=(), events=())


def test_files_insights_and_events_are_read(workspace: Workspace) -> None:
    put(workspace, "b.txt")
    put(workspace, "frames/0001.png", b"123")
    (workspace.out / "insights.json").write_text('[{"key": "faces", "value": "2"}]')
    emit(workspace, ("x", "1"), ("x", "2"), files="frames/0001.png, b.txt")

    output = read_output(workspace, MODULE)

    assert output.files == {"b.txt": 7, "frames/0001.png": 3}
    assert output.insights == (("faces", "2"),)
    [event] = output.events
    assert (event.file, event.type) == ("event0.json", "face.detected")
    assert event.data == (("x", "1"), ("x", "2")), (
        "order and repetition are kept, eventType and files are not passed on"
    )
    assert event.files == ("frames/0001.png", "b.txt")


def test_events_come_in_lexical_order(workspace: Workspace) -> None:
    for name in ("b", "a10", "a9", "ä", ".hidden", "Z"):
        emit(workspace, name=name)
    assert [event.file for event in read_output(workspace, MODULE).events] == [".hidden", "Z", "a10", "a9", "b", "ä"]


def test_read_as_a_map_the_last_one_wins(workspace: Workspace) -> None:
    put(workspace, "a")
    emit(workspace, ("eventType", "face.lost"), ("files", "missing"), ("files", "a"))
    [event] = read_output(workspace, MODULE).events
    assert event.type == "face.lost"
    assert event.files == ("a",)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("a", ("a",)),
        ("a,", ("a",)),
        ("a, ", ("a",)),
        (" a ,\tsub/b ", ("a", "sub/b")),
        ("a,a,sub/b,a", ("a", "sub/b")),
        ("~", ("~",)),
    ],
)
def test_files_is_a_list_with_commas(files: str, expected: tuple[str, ...], workspace: Workspace) -> None:
    for name in ("a", "sub/b", "~"):
        put(workspace, name)
    emit(workspace, files=files)
    [event] = read_output(workspace, MODULE).events
    assert event.files == expected


@pytest.mark.parametrize("content", [b"", b"  \n", b"[]"])
def test_insights_may_be_empty(content: bytes, workspace: Workspace) -> None:
    (workspace.out / "insights.json").write_bytes(content)
    assert read_output(workspace, MODULE).insights == ()


# Entries of `files`


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("../secret", "segment '..'"),
        ("sub/../../secret", "segment '..'"),
        ("..", "segment '..'"),
        ("a/./b", "segment '.'"),
        ("/etc/passwd", "segment ''"),
        ("sub//b", "segment ''"),
        ("sub/", "segment ''"),
        ("a\\b", "backslash"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("~", "'~', which is not in out/data"),
        ("~/a", "'~/a', which is not in out/data"),
        ("~root/.ssh/id", "'~root/.ssh/id', which is not in out/data"),
        ("missing", "'missing', which is not in out/data"),
        ("sub", "'sub', which is not in out/data"),
        ("A", "'A', which is not in out/data"),
        ("x" * 256, "more than 255 bytes"),
        ("ä/" * 400 + "x", "1,201 bytes"),
    ],
)
def test_an_entry_of_files_that_is_no_file_of_out_data_is_named(entry: str, said: str, workspace: Workspace) -> None:
    put(workspace, "a")
    put(workspace, "sub/b")
    emit(workspace, files=f"a,{entry}")
    message = refusal(workspace)
    assert message.startswith("out/events/event0.json: files")
    assert said in message


@pytest.mark.parametrize("files", [",a", "a,,sub/b", "a, ,sub/b", "a,,", ","])
def test_empty_entries_are_refused_but_for_one_comma_at_the_end(files: str, workspace: Workspace) -> None:
    put(workspace, "a")
    put(workspace, "sub/b")
    emit(workspace, files=files)
    assert "out/events/event0.json: files: key '': is empty" in refusal(workspace)


# What is no file


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


HOSTILE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "link to a file outside": ("a symbolic link", lambda path: path.symlink_to("/etc/passwd")),
    "link to a directory outside": ("a symbolic link", lambda path: path.symlink_to("/etc")),
    "link inside": ("a symbolic link", lambda path: path.symlink_to("../../in/data")),
    "dangling link": ("a symbolic link", lambda path: path.symlink_to("nowhere")),
    "link to itself": ("a symbolic link", lambda path: path.symlink_to(path.name)),
    "FIFO": ("a FIFO", lambda path: os.mkfifo(path)),
    "socket": ("a socket", make_socket),
}
if os.geteuid() == 0:
    HOSTILE |= {
        "character device": ("a character device", lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))),
        "block device": ("a block device", lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 0))),
    }
hostile = pytest.mark.parametrize(("kind", "make"), HOSTILE.values(), ids=HOSTILE)


@hostile
@pytest.mark.timeout(10)
def test_in_out_data_only_files_and_directories_are_taken(
    kind: str, make: Callable[[Path], None], workspace: Workspace
) -> None:
    put(workspace, "sub/good")
    make(workspace.out / "data" / "sub" / "bad")
    emit(workspace, files="sub/good")
    assert refusal(workspace) == f"out/data/sub/bad: is {kind}; only files and directories are taken"


@hostile
@pytest.mark.timeout(10)
def test_in_out_events_only_files_are_taken(kind: str, make: Callable[[Path], None], workspace: Workspace) -> None:
    emit(workspace)
    make(workspace.out / "events" / "bad")
    assert refusal(workspace) == f"out/events/bad: is {kind}; it must be a file"


@hostile
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["out/data", "out/events", "out/insights.json", "out"])
def test_what_takes_a_directory_s_place_is_refused(
    name: str, kind: str, make: Callable[[Path], None], workspace: Workspace
) -> None:
    path = workspace.root / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
    make(path)
    assert refusal(workspace).startswith(f"{name}: is {kind}")


@pytest.mark.parametrize("name", ["out/data", "out/events", "out"])
def test_a_file_in_place_of_a_directory_is_refused(name: str, workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / name)
    (workspace.root / name).touch()
    assert refusal(workspace) == f"{name}: is a file, not a directory"


def test_a_link_in_place_of_the_whole_workspace_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    workspace.root.rename(tmp_path / "elsewhere")
    workspace.root.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link, not a directory" in refusal(workspace)


@pytest.mark.parametrize("name", ["out/insights.json", "out/events/event0.json"])
def test_a_directory_in_place_of_a_file_is_refused(name: str, workspace: Workspace) -> None:
    path = workspace.root / name
    path.unlink(missing_ok=True)
    path.mkdir()
    assert refusal(workspace) == f"{name}: is a directory; it must be a file"


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"a\nb", r"'a\nb'"),
        (b"a\x1b[31m", r"'a\x1b[31m'"),
        (b"a\\b", r"'a\\b'"),
        (b"\xff\xfe", r"'\udcff\udcfe'"),
        (b"caf\xe9", r"'caf\udce9'"),
    ],
)
@pytest.mark.parametrize("where", ["data", "events"])
def test_names_that_others_could_not_read_are_refused(name: bytes, said: str, where: str, workspace: Workspace) -> None:
    with open(os.path.join(os.fsencode(workspace.out / where), name), "wb"):  # noqa: PTH118, PTH123
        pass
    message = refusal(workspace)
    assert message.startswith(f"out/{where}: key {said}")
    assert message.isprintable()


def test_a_path_of_many_long_names_is_refused(workspace: Workspace) -> None:
    put(workspace, "/".join(["x" * 200] * 4))
    assert "has a name of more than 768 bytes" in refusal(workspace)


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "-rf", " ", "a b", "😀", "*", "con", "a:b", "~"])
def test_other_names_are_ordinary(name: str, workspace: Workspace) -> None:
    put(workspace, name)
    assert list(read_output(workspace, MODULE).files) == [name]


# Limits


def test_one_file_more_than_allowed_is_refused(workspace: Workspace) -> None:
    for name in ("a", "b", "sub/c"):
        put(workspace, name)
    assert len(read_output(workspace, limited(max_files=3)).files) == 3
    message = refusal(workspace, limited(max_files=2))
    assert message == "out/data: holds more than 2 files. Raise modules.detect.limits.max_files if that is right"


def test_directories_without_files_are_counted_too(workspace: Workspace) -> None:
    for n in range(7):
        (workspace.out / "data" / str(n)).mkdir()
    assert "out/data: holds more files and directories than 6" in refusal(workspace, limited(max_files=3))


def test_one_level_more_than_allowed_is_refused(workspace: Workspace) -> None:
    put(workspace, "a/b/c")
    assert read_output(workspace, limited(max_depth=3)).files == {"a/b/c": 7}
    message = refusal(workspace, limited(max_depth=2))
    assert (
        message == "out/data/a/b/c: is nested more than 2 deep. Raise modules.detect.limits.max_depth if that is right"
    )


@pytest.mark.timeout(20)
def test_thousands_of_levels_are_refused(workspace: Workspace) -> None:
    deepen(workspace.out / "data", 3_000)
    assert "is nested more than 16 deep" in refusal(workspace)
    workspace.remove()


def deepen(directory: Path, levels: int) -> None:
    """More levels than a path can name."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_one_byte_more_than_allowed_is_refused(workspace: Workspace) -> None:
    put(workspace, "a", b"x" * 600)
    put(workspace, "b", b"x" * 500)
    assert len(read_output(workspace, limited(max_output=1_100)).files) == 2
    message = refusal(workspace, limited(max_output=1_099))
    assert "out/data: holds 1,100 bytes, 1,099 are allowed" in message
    assert "limits.max_output" in message


def test_a_file_is_as_large_as_it_says_though_it_is_all_holes(workspace: Workspace) -> None:
    with put(workspace, "a").open("r+b") as file:
        file.truncate(20 * 1024**3)
    assert "21,474,836,480 bytes" in refusal(workspace)


def test_an_event_of_the_largest_size_is_read_and_one_byte_more_refused(workspace: Workspace) -> None:
    emit(workspace)
    path = workspace.out / "events" / "event0.json"
    path.write_bytes(path.read_bytes().ljust(MAX_EVENT_BYTES))
    assert len(read_output(workspace, MODULE).events) == 1

    path.write_bytes(path.read_bytes() + b" ")
    assert refusal(workspace) == (
        "out/events/event0.json: is 262,145 bytes long, the limit is 262,144. Pass large data as files"
    )


def test_a_thousand_events_are_read_and_one_more_refused(workspace: Workspace) -> None:
    for n in range(1_000):
        emit(workspace, name=f"{n:04}")
    assert len(read_output(workspace, MODULE).events) == 1_000
    emit(workspace, name="one more")
    message = refusal(workspace)
    assert (
        message == "out/events: holds more than 1,000 events. Raise modules.detect.limits.max_events if that is right"
    )


def test_all_events_together_have_a_limit(workspace: Workspace) -> None:
    for n in range(70):
        emit(workspace, ("x", "y" * 250_000), name=f"{n:04}")
    assert "out/events: holds more than 16,777,216 bytes" in refusal(workspace)


def test_insights_have_a_limit(workspace: Workspace) -> None:
    (workspace.out / "insights.json").write_bytes(b"[]".ljust(101))
    assert "out/insights.json: is 101 bytes long, the limit is 100" in refusal(workspace, limited(max_insights=100))


# Events


def test_a_type_that_is_not_declared_is_named_with_those_that_are(workspace: Workspace) -> None:
    emit(workspace, type="face.blurred")
    assert refusal(workspace) == (
        "out/events/event0.json: module detect may not publish 'face.blurred' (declared: face.detected, face.lost). "
        "Add it to modules.detect.publishes"
    )


@pytest.mark.parametrize("wrong", ["face.detcted", "face.detected2", "face-detected"])
def test_of_a_type_that_is_spelt_wrong_the_one_that_is_meant_is_named(workspace: Workspace, wrong: str) -> None:
    emit(workspace, type=wrong)
    assert refusal(workspace) == (
        f"out/events/event0.json: module detect may not publish {wrong!r} (declared: face.detected, face.lost). "
        "Did you mean 'face.detected'? If not, add it to modules.detect.publishes"
    )


def test_a_module_that_declares_nothing_is_told_so(workspace: Workspace) -> None:
    emit(workspace)
    assert "(declared: none)" in refusal(workspace, replace(MODULE, publishes=()))


@pytest.mark.parametrize("content", [b"[]", b'[{"key": "x", "value": "y"}]', b'[{"key": "eventType", "value": ""}]'])
def test_a_type_that_is_missing_is_required(content: bytes, workspace: Workspace) -> None:
    (workspace.out / "events" / "event0.json").write_bytes(content)
    assert refusal(workspace).startswith("out/events/event0.json: eventType is required. Add")


def test_a_type_that_cannot_be_is_explained(workspace: Workspace) -> None:
    emit(workspace, type="Face Detected")
    assert "out/events/event0.json: event type 'Face Detected' must be lower-case" in refusal(workspace)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", ":1:2: is not JSON"),
        (b"1", "must be an array"),
        (b"{}", "must be an array"),
        (b'{"eventType": "face.detected"}', "(got an object)"),
        (b"[1]", "[0]: must be an object"),
        (b'[{"key": "eventType", "value": 1}]', "[0].value: must be a string (got a number)"),
        (b'[{"key": "eventType", "value": "face.detected", "type": "s"}]', "[0].type: unknown"),
        (b'[{"key": "a", "key": "b", "value": ""}]', "'key' appears twice"),
        (b"\xef\xbb\xbf[]", "byte order mark"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("name", ["out/events/event0.json", "out/insights.json"])
def test_what_is_no_array_of_pairs_is_named_by_its_path(
    name: str, content: bytes, said: str, workspace: Workspace
) -> None:
    (workspace.root / name).write_bytes(content)
    message = refusal(workspace)
    assert message.startswith(name)
    assert said in message


def test_an_empty_event_is_refused(workspace: Workspace) -> None:
    (workspace.out / "events" / "event0.json").touch()
    assert refusal(workspace) == "out/events/event0.json: is empty, not JSON"


# All of it at once


def test_everything_wrong_is_said_in_one_error(workspace: Workspace) -> None:
    (workspace.out / "data" / "link").symlink_to("/etc")
    put(workspace, "good")
    (workspace.out / "insights.json").write_text("{}")
    emit(workspace, name="a", type="no.such", files="good,../bad,absent")
    (workspace.out / "events" / "b").write_text("[1, 2]")

    assert refusal(workspace).split("; ") == [
        "out/data/link: is a symbolic link",
        "only files and directories are taken",
        'out/insights.json: must be an array of {"key": "…", "value": "…"} (got an object)',
        "out/events/a: module detect may not publish 'no.such' (declared: face.detected, face.lost). "
        "Add it to modules.detect.publishes",
        "out/events/a: files: key '../bad': has the segment '..'. Use a relative name such as frames/0001.png.",
        "out/events/a: files names 'absent', which is not in out/data",
        'out/events/b[0]: must be an object {"key": "…", "value": "…"} (got a number)',
        'out/events/b[1]: must be an object {"key": "…", "value": "…"} (got a number)',
    ]


def test_of_very_many_problems_the_first_twenty_are_named(workspace: Workspace) -> None:
    emit(workspace, files=",".join(f"absent{n}" for n in range(10_000)))
    message = refusal(workspace)
    assert message.count("which is not in out/data") == 20
    assert message.endswith("and 9,980 more problems")
    assert len(message) < 10_000


# Modes and links


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o4755, 0o6777, 0o1777])
def test_modes_of_files_do_not_matter(mode: int, workspace: Workspace) -> None:
    put(workspace, "a").chmod(mode)
    emit(workspace, files="a")
    (workspace.out / "events" / "event0.json").chmod(mode)
    (workspace.out / "insights.json").chmod(mode)
    output = read_output(workspace, MODULE)
    assert output.files == {"a": 7}
    assert len(output.events) == 1


AS_AN_ORDINARY_USER = """
import os, sys
from pathlib import Path
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.modules import Module

if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
workspace = Workspace.make(Path(sys.argv[1]), "job")
(workspace.out / "data" / "a" / "b").mkdir(parents=True)
(workspace.out / "data" / "a" / "b" / "file").write_bytes(b"123")
event = '[{"key": "eventType", "value": "t"}, {"key": "files", "value": "a/b/file"}]'
(workspace.out / "events" / "event0").write_text(event)
(workspace.out / "insights.json").chmod(0)
for path in ("events/event0", "data/a/b/file", "data/a/b", "data/a", "data", "events", "."):
    (workspace.out / path).chmod(0)
output = read_output(workspace, Module(name="m", publishes=("t",)))
print(output.files, [event.files for event in output.events])
for path in ("data/a/b/file", "data/a/b", "data/a", "data", "events", "."):
    (workspace.out / path).chmod(0)
workspace.root.chmod(0)
workspace.remove()
print(list(Path(sys.argv[1]).iterdir()))
"""


def test_closed_directories_and_files_are_opened_read_and_removed_by_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", AS_AN_ORDINARY_USER, base], capture_output=True, text=True, check=False
        )
    assert done.stderr == ""
    assert done.stdout == "{'a/b/file': 3} [('a/b/file',)]\n[]\n"


OF_ANOTHER_USER = """
import os, sys
from pathlib import Path
from ion_core.errors import OutputRefused
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.modules import Module

os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    read_output(Workspace(Path(sys.argv[1])), Module(name="m", publishes=("t",)))
except OutputRefused as error:
    print(error)
"""


def test_what_a_container_s_user_closed_to_us_is_refused_by_name(workspace: Workspace) -> None:
    """Where we cannot become somebody else, this user's own files are opened instead, which the test above shows."""
    if os.geteuid() != 0:
        return
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        there = Workspace.make(Path(base), "job")
        there.home.chmod(0o755)  # whatever our umask, for somebody else to enter
        put(there, "closed/a").parent.chmod(0o700)
        emit(there, name="closed")
        (there.out / "events" / "closed").chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", OF_ANOTHER_USER, str(there.home)], capture_output=True, text=True, check=False
        )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "out/data/closed: cannot be opened, it is another user's. Leave it readable; "
        "out/events/closed: cannot be opened, it is another user's. Leave it readable"
    ]


def test_a_hard_link_is_a_file(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x" * 10)
    os.link(tmp_path / "outside", workspace.out / "data" / "a")
    assert read_output(workspace, MODULE).files == {"a": 10}


# How much is looked at


def nine_files(workspace: Workspace) -> None:
    for number in range(9):
        put(workspace, f"{number}")


def nine_events(workspace: Workspace) -> None:
    for number in range(9):
        emit(workspace, name=f"{number}.json")


def a_long_event(workspace: Workspace) -> None:
    emit(workspace, ("text", "x" * 200_000))


def long_insights(workspace: Workspace) -> None:
    (workspace.out / "insights.json").write_text(json.dumps([{"key": "text", "value": "x" * 200_000}]))


@pytest.mark.parametrize("fill", [nine_files, nine_events, a_long_event, long_insights])
def test_more_than_was_to_be_looked_at_is_neither_read_nor_refused(
    fill: Callable[[Workspace], None], workspace: Workspace
) -> None:
    put(workspace, "a")
    emit(workspace, name="b.json")
    assert read_output(workspace, MODULE, most=8) == read_output(workspace, MODULE)
    fill(workspace)
    with pytest.raises(TooMuch):
        read_output(workspace, MODULE, most=8)
    read_output(workspace, MODULE)
