"""The service ``watch`` over real folders of this machine: each file is one event, whatever happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from watching import Host, serving, settings, until

from ion_core.errors import ConfigError, InvalidEvent, IonError, PermanentError, StateError, StorageFull, TransientError
from ion_core.testing import ServiceConformance
from ion_gateway.watch import Watch, open_watch
from ion_gateway.watching import folder as folder_module
from ion_gateway.watching.hints import Hints
from ion_gateway.watching.local import LocalFolder
from ion_gateway.watching.notes import Notes
from ion_gateway.watching.settings import WatchSettings

HOUR = "1h"
"""So seldom that within a test nothing is found by listing again."""


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once."""
    from datetime import timedelta

    from ion_core.contracts.messaging import RetryPolicy

    monkeypatch.setattr(
        folder_module, "AGAIN", RetryPolicy(initial=timedelta(milliseconds=5), maximum=timedelta(milliseconds=50))
    )


def move_in(inbox: Path, path: str, content: bytes = b"x") -> Path:
    """As a program does that writes elsewhere first."""
    beside = inbox.parent / "beside"
    beside.write_bytes(content)
    target = inbox / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return beside.rename(target)


async def test_what_is_there_and_what_comes_is_published(tmp_path: Path, inbox: Path) -> None:
    move_in(inbox, "first.jpg", b"first")
    made = settings(
        tmp_path, photos={"path": "inbox", "type": "photo.received", "data": {"from": "camera"}, "every": HOUR}
    )
    host = Host()
    async with serving(made, host):
        await host.paths(1)
        move_in(inbox, "b/c/second.jpg", b"second")  # in directories that are new
        await host.paths(2)
    first, second = host.taken
    assert first.type == "photo.received"
    assert first.data == {"from": "camera", "folder": "photos", "path": "first.jpg"}
    assert first.files == {"first.jpg": b"first"}
    assert second.path == "b/c/second.jpg"
    assert second.files == {"second.jpg": b"second"}
    assert first.id.startswith("watch.photos.")
    assert not list(host.work.iterdir())


async def test_what_the_kernel_never_tells_of_is_found_by_listing(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", refuse)
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        move_in(inbox, "a")
        await host.paths(1)
    assert "the kernel does not tell of" in caplog.text


async def test_a_file_is_taken_once_it_has_not_changed_for_long_enough(tmp_path: Path, inbox: Path) -> None:
    host = Host()
    with (inbox / "a").open("wb", buffering=0) as writing:
        writing.write(b"the begin")
        async with serving(settings(tmp_path, photos={"path": "inbox", "stable": "300ms", "every": HOUR}), host):
            writing.write(b"ning, and the end")
            await host.paths(1)
    assert host.taken[0].files == {"a": b"the beginning, and the end"}


async def test_with_marks_nothing_else_completes_a_file(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Counted(monkeypatch, LocalFolder, "look")
    host = Host()
    made = settings(tmp_path, photos={"path": "inbox", "stable": None, "done": ".done", "every": HOUR})
    async with serving(made, host):
        move_in(inbox, "a", b"not yet")
        move_in(inbox, "b")
        move_in(inbox, "b.done")
        await host.paths(1)
        seen = looked.count
        move_in(inbox, "a", b"complete")
        await until(lambda: looked.count > seen)
        move_in(inbox, "a.done")
        await host.paths(2)
    assert [(it.path, it.files) for it in host.taken] == [("b", {"b": b"x"}), ("a", {"a": b"complete"})]


async def test_an_empty_file_is_a_file(tmp_path: Path, inbox: Path) -> None:
    host = Host()
    move_in(inbox, "empty", b"")
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        await host.paths(1)
    assert host.taken[0].files == {"empty": b""}


async def test_after_a_restart_nothing_is_published_again(tmp_path: Path, inbox: Path) -> None:
    made = settings(tmp_path, photos={"path": "inbox"})
    first, second = Host(), Host()
    move_in(inbox, "a")
    async with serving(made, first):
        await first.paths(1)
    move_in(inbox, "b")
    async with serving(made, second):
        assert await second.paths(1) == ["b"]
    assert second.asked == ["b"]


async def test_a_file_that_changed_is_another_event(tmp_path: Path, inbox: Path) -> None:
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox", "every": HOUR}), host):
        move_in(inbox, "a", b"first")
        await host.paths(1)
        move_in(inbox, "a", b"other")
        await host.paths(2)
    assert [it.files["a"] for it in host.taken] == [b"first", b"other"]
    assert host.taken[0].id != host.taken[1].id


async def test_a_file_that_changes_while_it_is_published_is_another_event(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Counted(monkeypatch, LocalFolder, "look")
    host = Host(hold=asyncio.Event())
    async with serving(settings(tmp_path, photos={"path": "inbox", "after": "delete", "every": HOUR}), host):
        move_in(inbox, "a", b"first")
        await host.paths(1)
        seen = looked.count
        move_in(inbox, "a", b"other")
        await until(lambda: looked.count > seen)
        assert host.hold is not None
        host.hold.set()
        await host.paths(2)
        await until(lambda: not (inbox / "a").exists())
    assert [it.files["a"] for it in host.taken] == [b"first", b"other"]


async def test_a_file_that_is_again_what_was_published_is_not_asked_for_without_end(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Counted(monkeypatch, LocalFolder, "look")
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox", "stable": "200ms", "every": HOUR}), host):
        path = move_in(inbox, "a")
        before = path.stat()
        await host.paths(1)
        seen = looked.count
        path.write_bytes(b"other")
        await until(lambda: looked.count > seen)
        path.write_bytes(b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        for number, name in enumerate("bc"):
            move_in(inbox, name)
            assert len(await host.paths(2 + number)) == 2 + number
    assert host.asked == ["a", "b", "c"]
    assert looked.count < 50


async def test_two_hosts_name_the_same_events(tmp_path: Path, inbox: Path) -> None:
    hosts = Host(), Host()
    for name in ("a", "b/c", "ü"):
        move_in(inbox, name)
    for number, host in enumerate(hosts):
        state = tmp_path / str(number)
        state.mkdir()
        async with serving(settings(state, photos={"path": str(inbox)}), host):
            await host.paths(3)
    assert {it.id for it in hosts[0].taken} == {it.id for it in hosts[1].taken}
    assert len({it.id for it in hosts[0].taken}) == 3


@pytest.mark.parametrize("after", ["keep", "move", "delete"])
async def test_killed_after_it_was_published_and_before_that_was_noted(tmp_path: Path, inbox: Path, after: str) -> None:
    more = {"to": "taken"} if after == "move" else {}
    made = settings(tmp_path, photos={"path": "inbox", "after": after, **more})
    move_in(inbox, "a")
    killed = Host(hold=asyncio.Event())
    async with open_watch(made) as service:
        running = asyncio.create_task(service.run(killed.at(made), asyncio.Event(), asyncio.Event()))
        await killed.paths(1)
        running.cancel()
        await asyncio.wait({running})
    assert (inbox / "a").exists()
    host = Host()
    async with serving(made, host):
        await host.paths(1)
        await until(lambda: (inbox / "a").exists() == (after == "keep"))
    assert host.taken == killed.taken
    assert (tmp_path / "taken/a").exists() == (after == "move")
    assert not list(host.work.iterdir())


@pytest.mark.parametrize("after", ["move", "delete"])
async def test_killed_after_that_was_noted_and_before_the_file_went(tmp_path: Path, inbox: Path, after: str) -> None:
    more = {"to": "taken"} if after == "move" else {}
    made = settings(tmp_path, photos={"path": "inbox", "after": after, **more})
    move_in(inbox, "a")
    folder = made.folders["photos"]
    (entry,) = LocalFolder(inbox, folder.compiled, made.section, "").list().entries.values()
    notes = Notes(made.path)
    notes.note("photos", "a", entry.version)
    notes.close()
    host = Host()
    async with serving(made, host):
        await until(lambda: not (inbox / "a").exists())
        move_in(inbox, "b")
        assert await host.paths(1) == ["b"]
    assert host.asked == ["b"]


async def test_what_was_moved_or_deleted_is_not_remembered(tmp_path: Path, inbox: Path) -> None:
    made = settings(tmp_path, photos={"path": "inbox", "after": "delete", "done": ".done", "stable": None})
    host = Host()
    for name in ("a", "a.done"):
        move_in(inbox, name)
    async with serving(made, host):
        await host.paths(1)
        await until(lambda: not list(inbox.iterdir()))
    notes = Notes(made.path)
    assert notes.published("photos") == {}
    notes.close()


async def test_what_cannot_go_is_said_once_and_not_published_again(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()  # where a directory is to be made
    made = settings(tmp_path, photos={"path": "inbox", "after": "move", "to": "taken"})
    tried = Counted(monkeypatch, LocalFolder, "move")
    host = Host()
    for name in "abc":
        move_in(inbox, name)
    async with serving(made, host):
        await until(lambda: tried.count >= 9)
        assert sorted(host.asked) == ["a", "b", "c"]
        (tmp_path / "taken").unlink()
        await until(lambda: not list(inbox.iterdir()))
    assert sorted(host.asked) == ["a", "b", "c"]
    assert caplog.text.count("cannot be moved") == 1


@pytest.mark.parametrize("error", [TransientError, StorageFull, StateError, ConfigError])
async def test_nothing_is_lost_while_the_broker_or_a_store_is_away_and_that_is_said_once(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, error: type[IonError]
) -> None:
    caplog.set_level("INFO")
    for number in range(20):
        move_in(inbox, f"{number}")
    host = Host(raising=[error("it is away.") for _ in range(40)])
    async with serving(settings(tmp_path, photos={"path": "inbox", "every": HOUR}), host):
        await host.paths(20)
        await until(lambda: "goes on" in caplog.text)
    assert len({it.id for it in host.taken}) == len(host.taken) == 20
    assert caplog.text.count("cannot be published now") == 1
    assert "it is away. It is tried again, 20 files in all" in caplog.text


async def test_files_wait_while_no_copy_of_them_can_be_made(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        host.work.rmdir()
        for name in "abc":
            move_in(inbox, name)
        await until(lambda: "cannot be published now" in caplog.text)
        host.work.mkdir()
        assert sorted(await host.paths(3)) == ["a", "b", "c"]
    assert caplog.text.count("cannot be published now") == 1


async def test_one_file_that_cannot_be_stored_holds_up_no_other(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(refusing=lambda path: TransientError("blob a: denied") if path == "a" else None)
    for number in range(folder_module.AT_ONCE * 3):
        move_in(inbox, f"{number}")
    move_in(inbox, "a")
    async with serving(settings(tmp_path, photos={"path": "inbox", "every": HOUR}), host):
        await host.paths(folder_module.AT_ONCE * 3)
        await host.until(lambda: host.asked.count("a") > 3)
        host.refusing = lambda path: None
        assert "a" in await host.paths(folder_module.AT_ONCE * 3 + 1)
    assert caplog.text.count("'a' cannot be published now") == 1


async def test_a_name_that_no_event_can_have_is_said_once_and_the_others_go_on(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Counted(monkeypatch, LocalFolder, "list")
    bad = os.fsdecode(b"\xff\n.jpg")
    move_in(inbox, bad)
    host = Host(refusing=lambda path: InvalidEvent("is not valid Unicode") if path == bad else None)
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        await host.until(lambda: host.asked)
        move_in(inbox, "good.jpg")
        await host.paths(1)
        seen = listed.count
        await until(lambda: listed.count >= seen + 2)
    assert host.asked.count(bad) == 1
    (said,) = [it for it in caplog.records if "was refused" in it.getMessage()]
    assert said.levelname == "ERROR"
    assert r"'\udcff\n.jpg' was refused: is not valid Unicode. It is left alone until it changes" in said.getMessage()


async def test_what_is_refused_is_tried_again_and_said_again_once_it_has_changed(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(refusing=lambda path: PermanentError("the store takes no such file.") if path == "a" else None)
    move_in(inbox, "a", b"first")
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        await host.until(lambda: host.asked == ["a"])
        move_in(inbox, "a", b"other")
        await host.until(lambda: host.asked == ["a", "a"])
        await until(lambda: caplog.text.count("'a' was refused: the store takes no such file. It is left") == 2)
        host.refusing = lambda path: None
        move_in(inbox, "a", b"yet another")
        await host.paths(1)
    assert host.taken[0].files == {"a": b"yet another"}


async def test_a_folder_that_vanishes_and_comes_back_is_watched_again(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    asked = Counted(monkeypatch, Hints, "start")
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox", "every": "1s"}), host):
        move_in(inbox, "a")
        await host.paths(1)
        shutil.rmtree(inbox)
        await until(lambda: "cannot be listed" in caplog.text)
        await asyncio.to_thread(inbox.mkdir)
        move_in(inbox, "b")
        assert await host.paths(2) == ["a", "b"]
        await until(lambda: "is there again" in caplog.text)
        assert asked.count == 2, "of the new directory the kernel is to tell, too"
    assert caplog.text.count("cannot be listed") == 1


async def test_a_folder_that_is_made_anew_under_its_number_is_watched_again(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems give the number of a directory that is gone to the next one."""
    monkeypatch.setattr(LocalFolder, "identity", lambda _: (1, 1))
    asked = Counted(monkeypatch, Hints, "start")
    async with serving(settings(tmp_path, photos={"path": "inbox"}), Host()):
        await until(lambda: asked.count == 1)
        shutil.rmtree(inbox)
        await asyncio.to_thread(inbox.mkdir)
        await until(lambda: asked.count == 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_what_may_not_be_read_is_said_once_and_taken_once_it_may(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Counted(monkeypatch, LocalFolder, "fetch")
    move_in(inbox, "a").chmod(0)
    move_in(inbox, "b")
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox"}), host):
        assert await host.paths(1) == ["b"]
        await until(lambda: tried.count >= 4)
        (inbox / "a").chmod(0o600)
        assert await host.paths(2) == ["a", "b"]
    assert caplog.text.count("'a' cannot be read: Permission denied") == 1


async def test_one_folder_holds_up_no_other(tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow").mkdir()
    move_in(inbox, "a")
    going_on = threading.Event()
    listed = LocalFolder.list

    def hang(source: LocalFolder) -> object:
        if source.place.endswith("slow"):
            assert going_on.wait(60)
        return listed(source)

    monkeypatch.setattr(LocalFolder, "list", hang)
    host = Host()
    try:
        async with serving(settings(tmp_path, slow={"path": "slow"}, photos={"path": "inbox"}), host):
            assert await host.paths(1) == ["a"]
            going_on.set()
    finally:
        going_on.set()


async def test_a_folder_that_hangs_keeps_nothing_from_starting_or_ending(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a file server does that is away."""
    going_on = threading.Event()

    def hang(*_: object) -> None:
        assert going_on.wait(60)
        raise TransientError("it is away")

    for method in ("check", "list"):
        monkeypatch.setattr(LocalFolder, method, hang)
    for bound in ("CHECKED_WITHIN", "FINISH_WITHIN"):
        monkeypatch.setattr(folder_module, bound, 0.05)
    try:
        async with serving(settings(tmp_path, photos={"path": "inbox"}), Host()) as running:
            pass
        assert running.done()
        assert not going_on.is_set()
        assert "does not answer; it is waited for" in caplog.text
    finally:
        going_on.set()


async def test_a_note_that_cannot_be_made_ends_the_service_with_the_place(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateError("published.sqlite: cannot be used: it is damaged")

    monkeypatch.setattr(Notes, "note", fail)
    move_in(inbox, "a")
    with pytest.raises(StateError, match="it is damaged"):
        async with serving(settings(tmp_path, photos={"path": "inbox"}), Host()) as running:
            await asyncio.wait({running}, timeout=30)


@pytest.mark.parametrize("after", ["keep", "delete"])
async def test_a_full_disk_under_the_notes_is_said_once_and_nothing_is_published_twice(
    tmp_path: Path,
    inbox: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    caplog.set_level("INFO")
    noted = Counted(monkeypatch, Notes, "note")
    made, host = settings(tmp_path, photos={"path": "inbox", "after": after}), Host()
    names = ["/".join(["d" * 200] * 8 + [str(n)]) for n in range(3)]  # so long that each needs a page of its own
    async with open_watch(made) as service:
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(host.at(made), stop, asyncio.Event()))
        database = service._notes._database
        database.execute("PRAGMA max_page_count = 1").fetchone()  # SQLite takes what is there for the limit
        for name in names:
            move_in(inbox, name)
        await until(lambda: "no space left" in caplog.text)
        seen = noted.count
        await until(lambda: noted.count >= seen + 9)
        assert all((inbox / name).exists() for name in names)
        database.execute("PRAGMA max_page_count = 1000000").fetchone()
        await host.paths(len(names))
        if after == "keep":
            await until(lambda: len(service._notes.published("photos")) == len(names))
        else:
            await until(lambda: not any((inbox / name).exists() for name in names))
        await until(lambda: "goes on" in caplog.text)
        stop.set()
        await running
    assert sorted(host.asked) == sorted(names)
    assert caplog.text.count("cannot be published now") == 1
    assert "no space left. Free some; work goes on by itself then" in caplog.text
    again = Host()
    async with serving(made, again):
        move_in(inbox, "last")
        assert await again.paths(1) == ["last"]
    assert again.asked == ["last"]


async def test_a_full_disk_keeps_no_file_that_was_published_from_going(
    tmp_path: Path, inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("published.sqlite: no space left.")

    for method in ("forget", "seen"):
        monkeypatch.setattr(Notes, method, full)
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox", "after": "delete"}), host):
        move_in(inbox, "a")
        await host.paths(1)
        await until(lambda: not list(inbox.iterdir()))
        await until(lambda: "which files are gone cannot be noted now" in caplog.text)


async def test_what_comes_is_looked_at_alone_however_many_files_there_are(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes is looked at for itself: to list all for each would be quadratic."""
    listed = Counted(monkeypatch, LocalFolder, "list")
    for number in range(2_000):
        (inbox / f"{number}").touch()
    host = Host()
    async with serving(settings(tmp_path, photos={"path": "inbox", "every": HOUR}), host):
        await host.paths(2_000)
        for number in range(20):
            move_in(inbox, f"later {number}")
            await host.paths(2_001 + number)
    assert listed.count == 1


class Counted:
    """How often a method was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.count = 0
        called = getattr(owner, name)

        def count(*given: object) -> object:
            self.count += 1
            return called(*given)

        monkeypatch.setattr(owner, name, count)


class TestWatchIsAService(ServiceConformance):
    made: WatchSettings
    cause_look = None
    number = 0

    @pytest_asyncio.fixture
    async def service(self, tmp_path: Path, inbox: Path) -> AsyncIterator[Watch]:
        self.made = settings(tmp_path, photos={"path": "inbox", "type": "photo.received"})
        async with AsyncExitStack() as self.open:
            yield await self.open.enter_async_context(open_watch(self.made))

    async def cause_event(self, service: Watch) -> str:
        self.number += 1
        path = self.made.folders["photos"].path
        assert path is not None
        move_in(path, f"{self.number}.jpg")
        return "photo.received"

    reloads = send = None

    def unservable(self) -> Watch:
        made = settings(Path("/nowhere"), photos={"path": "inbox"})
        notes = Notes(self.made.path)
        self.open.callback(notes.close)
        return Watch(made, notes)
