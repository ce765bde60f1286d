"""Event loop and thread of a database: group commit, errors, versions, where a file may lie."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ion_core.embedded.sqlite import database as sqlite
from ion_core.embedded.sqlite import files as sqlite_files
from ion_core.embedded.sqlite.database import Access, Database, open_database
from ion_core.embedded.sqlite.files import file_system_of, prepare_file
from ion_core.embedded.sqlite.schema import Schema
from ion_core.errors import StateError, StorageFull, TransientError

ONE = "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"
TWO = "ALTER TABLE things ADD COLUMN size INTEGER DEFAULT 7"
SCHEMA = Schema(name="thing", application_id=0x74657374, migrations=[[ONE]])
NEWER = Schema(
    name="thing", application_id=0x74657374, migrations=[[ONE], [TWO, "CREATE INDEX sizes ON things (size)"]]
)


def add(name: str | None) -> sqlite.Work[None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things (name) VALUES (?)", (name,))

    return work


def names(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM things").fetchall()}


async def on_each(database: Database, work: sqlite.Work[object]) -> None:
    """Do it with every connection there is."""
    for short in (False, True):
        await database.call(work, Access.READ, short=short)
    await database.call(work, Access.DURABLE, short=True)


async def statements(database: Database) -> list[str]:
    """Every statement the connections run from now on, as it runs."""
    seen: list[str] = []
    await on_each(database, lambda connection: connection.set_trace_callback(seen.append))
    seen.clear()
    return seen


SHORT = pytest.mark.parametrize("short", [False, True], ids=["long", "short"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's transaction on the file, as far as SQLite can tell."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@SHORT
async def test_concurrent_writes_share_few_transactions(tmp_path: Path, short: bool) -> None:
    async with open_database(tmp_path / "db", SCHEMA) as database:
        seen = await statements(database)
        await asyncio.gather(*(database.call(add(f"{n}"), Access.DURABLE, short=short) for n in range(1000)))
        assert 1 <= seen.count("COMMIT") <= 20
        assert len(await database.call(names, Access.READ)) == 1000


async def test_where_several_share_flushes_those_who_come_a_few_turns_later_share_them_too(tmp_path: Path) -> None:
    """As requests do that are read one by one; a lone caller waits for nobody."""

    async def later(database: Database, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await database.call(add(None), Access.DURABLE, short=True)

    async with open_database(tmp_path / "db", SCHEMA) as database:
        await asyncio.gather(*(later(database, 0) for _ in range(2)))
        seen = await statements(database)
        await asyncio.gather(*(later(database, 0) for _ in range(2)))  # what was asked for the statements was alone
        assert seen.count("COMMIT") == 1
        await asyncio.gather(*(later(database, sqlite.QUIET_TURNS * n) for n in range(8)))
        assert seen.count("COMMIT") == 2
        await later(database, 0)
        await asyncio.gather(*(later(database, 0) for _ in range(sqlite.MAX_SHORT)))
        assert seen.count("COMMIT") == 4
        assert len(await database.call(rows, Access.READ)) == 2 + 2 + 8 + 1 + sqlite.MAX_SHORT


def rows(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM things").fetchall()]


async def test_short_calls_are_done_by_the_event_loop_but_for_the_flush(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", SCHEMA) as database:
        for access in Access:
            for short, ours in ((True, True), (False, False)):
                thread = await database.call(lambda connection: threading.current_thread(), access, short=short)
                assert (thread is threading.current_thread()) is ours
        flushing = database.submit(add("one"), Access.DURABLE, short=True)
        await asyncio.sleep(0)  # now it is under way
        assert await database.call(names, Access.READ, short=True) <= {"one"}  # reading waits for no flush
        await asyncio.gather(flushing, *(database.call(add(f"{n}"), Access.WRITE, short=True) for n in range(3)))
        assert await database.call(names, Access.READ) == {"one", "0", "1", "2"}


async def test_what_the_event_loop_commits_is_written_back_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_UNFLUSHED", 50)
    log = tmp_path / "db-wal"
    async with open_database(tmp_path / "db", SCHEMA) as database:
        for n in range(3000):
            await database.call(add(f"{n}" * 100), Access.WRITE, short=True)
        assert log.stat().st_size < 3000 * 4096


@SHORT
async def test_one_call_that_fails_undoes_itself_only(tmp_path: Path, short: bool) -> None:
    def half(connection: sqlite3.Connection) -> None:
        add("half done")(connection)
        raise ValueError("changed its mind")

    async with open_database(tmp_path / "db", SCHEMA) as database:
        calls = [add("one"), half, add("one"), add("two")]
        results = await asyncio.gather(
            *(database.call(c, Access.DURABLE, short=short) for c in calls), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), ValueError, StateError, type(None)]
        with pytest.raises(ValueError, match="changed its mind"):
            await database.call(half, Access.DURABLE, short=short)
        assert await database.call(names, Access.READ) == {"one", "two"}


@SHORT
async def test_only_what_is_durable_is_flushed(tmp_path: Path, short: bool) -> None:
    def synchronous(connection: sqlite3.Connection) -> int:
        level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return level

    async with open_database(tmp_path / "db", SCHEMA) as database:
        for _ in range(2):
            assert await database.call(synchronous, Access.DURABLE, short=short) == 2
            assert await database.call(synchronous, Access.WRITE, short=short) == 1
        both = [
            database.call(synchronous, access, short=short) for access in (Access.DURABLE, Access.WRITE, Access.WRITE)
        ]
        assert await asyncio.gather(*both) == [2, 2, 2]


@SHORT
async def test_nobody_writes_between_what_a_call_reads_and_what_it_writes(tmp_path: Path, short: bool) -> None:
    def work(connection: sqlite3.Connection) -> None:
        names(connection)
        with (
            closing(sqlite3.connect(tmp_path / "db", timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("INSERT INTO things (name) VALUES ('theirs')")
        add("ours")(connection)

    async with open_database(tmp_path / "db", SCHEMA) as database:
        await database.call(work, Access.DURABLE, short=short)
        assert await database.call(names, Access.READ) == {"ours"}


@SHORT
async def test_reading_waits_for_no_writer(tmp_path: Path, short: bool) -> None:
    async with open_database(tmp_path / "db", SCHEMA, busy=60) as database:
        await database.call(add("one"), Access.DURABLE)
        with locked(database.path):
            assert await database.call(names, Access.READ, short=short) == {"one"}


@SHORT
async def test_a_file_that_stays_locked_is_transient(tmp_path: Path, short: bool) -> None:
    async with open_database(tmp_path / "db", SCHEMA, busy=0.05) as database:
        with locked(database.path), pytest.raises(TransientError, match=r"/db: stayed locked for 0\.05 s") as raised:
            await database.call(add("one"), Access.DURABLE, short=short)
        assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
        await database.call(add("two"), Access.DURABLE, short=short)
        assert await database.call(names, Access.READ) == {"two"}


async def test_while_others_hold_the_file_it_is_the_thread_that_waits(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", SCHEMA, busy=60) as database:
        with locked(database.path):
            waiting = [
                database.submit(add(access.value), access, short=True) for access in (Access.WRITE, Access.DURABLE)
            ]
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(future.done() for future in waiting)
        await asyncio.gather(*waiting)
        assert await database.call(names, Access.READ, short=True) == {"write", "durable"}


@SHORT
async def test_a_full_disk_loses_nothing_and_is_left_when_there_is_space(tmp_path: Path, short: bool) -> None:
    def limit(pages: int) -> sqlite.Work[object]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    async with open_database(tmp_path / "db", SCHEMA) as database:
        await database.call(add("before"), Access.DURABLE)
        await on_each(database, limit(1))  # SQLite takes what is there for the limit
        with pytest.raises(StorageFull, match="no space is left"):
            await database.call(add("x" * 100_000), Access.DURABLE, short=short)
        big = [database.call(add(f"{n}" * 100_000), Access.DURABLE, short=short) for n in range(3)]
        results = await asyncio.gather(*big, return_exceptions=True)
        assert [type(result) for result in results] == [StorageFull] * 3
        assert await database.call(names, Access.READ) == {"before"}
        await on_each(database, limit(1_000_000))
        await database.call(add("after"), Access.DURABLE, short=short)
    async with open_database(tmp_path / "db", SCHEMA) as database:
        assert await database.call(names, Access.READ) == {"before", "after"}
        assert await database.call(lambda c: c.execute("PRAGMA integrity_check").fetchall(), Access.READ) == [("ok",)]


@SHORT
async def test_when_sqlite_undoes_the_whole_batch_every_call_of_it_fails(tmp_path: Path, short: bool) -> None:
    def undone(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")  # what SQLite does by itself on some errors
        connection.execute("INSERT INTO nowhere VALUES (1)")

    def mistaken(connection: sqlite3.Connection) -> None:
        raise ValueError("its own affair")

    async with open_database(tmp_path / "db", SCHEMA) as database:
        calls = [
            database.call(work, Access.DURABLE, short=short) for work in (add("one"), mistaken, undone, add("two"))
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StateError, ValueError, StateError, StateError]
        assert await database.call(names, Access.READ) == set()
        await database.call(add("three"), Access.DURABLE)
        assert await database.call(names, Access.READ) == {"three"}


@pytest.mark.parametrize(
    "content", [b"this is no database at all, it is a text" * 200, b"SQLite format 3\0" + b"\xff" * 8000]
)
async def test_a_damaged_file_says_which_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"/db: is damaged, or no database .*Move it aside"):
        async with open_database(path, SCHEMA):
            pass
    assert path.read_bytes() == content


async def test_a_file_damaged_further_in_is_found_when_read(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with open_database(path, SCHEMA) as database:
        await database.call(lambda c: [add(f"{n}" * 100)(c) for n in range(1000)], Access.DURABLE)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * 8 * 4096)
    async with open_database(path, SCHEMA) as database:
        for short in (False, True):
            with pytest.raises(StateError, match="damaged"):
                await database.call(names, Access.READ, short=short)
        with pytest.raises(StateError, match="damaged"):
            await database.call(add("more"), Access.DURABLE, short=True)


async def test_an_older_file_is_brought_forward_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with open_database(path, SCHEMA) as database:
        await database.call(add("old"), Access.DURABLE)
    for _ in range(2):
        async with open_database(path, NEWER) as database:
            rows = await database.call(lambda c: c.execute("SELECT name, size FROM things").fetchall(), Access.READ)
            assert rows == [("old", 7)]
    with pytest.raises(StateError, match=r"/db: is an Ion thing of version 2; this Ion knows up to 1"):
        async with open_database(path, SCHEMA):
            pass


async def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with open_database(path, SCHEMA) as database:
        await database.call(add("old"), Access.DURABLE)
    broken = Schema(name="thing", application_id=SCHEMA.application_id, migrations=[[ONE], [TWO, "CREATE NONSENSE"]])
    with pytest.raises(StateError, match="NONSENSE"):
        async with open_database(path, broken):
            pass
    async with open_database(path, SCHEMA) as database:
        columns = await database.call(lambda c: c.execute("SELECT * FROM things").fetchall(), Access.READ)
        assert columns == [(1, "old")]


async def test_another_kind_of_database_is_not_touched(tmp_path: Path) -> None:
    async with open_database(tmp_path / "ours", SCHEMA):
        pass
    with closing(sqlite3.connect(tmp_path / "theirs")) as theirs:
        theirs.execute("CREATE TABLE accounts (id)")
    other = Schema(name="stuff", application_id=1, migrations=[["CREATE TABLE stuff (id)"]])
    for name in ("ours", "theirs"):
        with pytest.raises(StateError, match=f"/{name}: is a database, but not an Ion stuff"):
            async with open_database(tmp_path / name, other):
                pass


async def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "directory", tmp_path / "file" / "db"):
        with pytest.raises(StateError, match=f"{path}: cannot be"):
            async with open_database(path, SCHEMA):
                pass


async def test_directory_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "db"
    async with open_database(path, SCHEMA) as database:
        await database.call(add("one"), Access.DURABLE)
        assert {stat.S_IMODE(d.stat().st_mode) for d in (path.parent, path.parent.parent)} == {0o700}
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert files == {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600}


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/my\\040share rw shared:1 - cifs //server/share rw
33 22 0:42 / /over rw - ext4 /dev/sdc1 rw
34 33 0:43 / /over rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/ion/db", "ext4"),
        ("/home/anna/.ion/db", "nfs4"),
        ("/home/local/db", "xfs"),
        ("/homework/db", "ext4"),
        ("/mnt/my share/db", "cifs"),
        ("/over/db", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_innermost_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind
    assert file_system_of(Path(path), "") == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:1 / {tmp_path} rw - {kind} server:/x rw\n")
    monkeypatch.setattr(sqlite_files, "_MOUNTS", mounts)
    with pytest.raises(StateError, match=rf"lies on a network file system \({kind}\).*Name a local path"):
        prepare_file(tmp_path / "db")
    assert not (tmp_path / "db").exists()


async def test_a_closed_database_refuses_calls(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", SCHEMA) as database:
        pending = [
            database.submit(add(f"before the end: {short}"), Access.DURABLE, short=short) for short in (True, False)
        ]
    assert all(future.done() for future in pending)
    for short in (False, True):
        with pytest.raises(TransientError, match="is closed"):
            await database.call(names, Access.READ, short=short)
    async with open_database(tmp_path / "db", SCHEMA) as database:
        assert await database.call(names, Access.READ) == {"before the end: True", "before the end: False"}


async def test_a_caller_that_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db", SCHEMA) as database:
        leaving = asyncio.create_task(database.call(add("one"), Access.DURABLE))
        staying = asyncio.create_task(database.call(add("two"), Access.DURABLE))
        await asyncio.sleep(0)
        leaving.cancel()
        await staying
        assert leaving.cancelled()
        assert await database.call(names, Access.READ) == {"one", "two"}


def test_a_database_left_open_does_not_keep_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_ORPHAN_SECONDS", 0.01)

    async def leave() -> None:
        database = Database(tmp_path / "db", SCHEMA, busy=1)
        database.start()
        await database.opened()

    asyncio.run(leave())
    for thread in threading.enumerate():
        if thread.name == "sqlite db":
            thread.join(timeout=30)
    assert "sqlite db" not in [thread.name for thread in threading.enumerate()]


def open_and_add(path: Path) -> None:
    async def run() -> None:
        async with open_database(path, SCHEMA) as database:
            await database.call(add(f"{os.getpid()}"), Access.DURABLE)

    asyncio.run(run())


async def test_many_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=open_and_add, args=(path,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 6
    async with open_database(path, SCHEMA) as database:
        assert len(await database.call(names, Access.READ)) == 6
