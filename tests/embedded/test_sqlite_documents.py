"""What the embedded document store does beyond the rules every one keeps."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest

from ion_core.contracts.storage import Document
from ion_core.embedded.settings import SqliteDocumentsSettings
from ion_core.embedded.sqlite.database import Access
from ion_core.embedded.sqlite.documents import SCHEMA, SqliteDocuments, find_statement, open_sqlite_documents
from ion_core.embedded.sqlite.schema import migrate
from ion_core.errors import DocumentExists, PermanentError, passing_over_damage
from tests.support.documents import counted_steps


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[SqliteDocuments]:
    async with open_sqlite_documents(SqliteDocumentsSettings(path=tmp_path / "db")) as documents:
        yield documents


def document(id: str, kind: str = "insight", correlation_id: str = "flow", **body: object) -> Document:
    return Document(kind=kind, id=id, correlation_id=correlation_id, body=body)


async def ids(found: AsyncIterator[Document]) -> list[str]:
    return [document.id async for document in found]


async def transactions(documents: SqliteDocuments) -> list[str]:
    seen: list[str] = []
    await documents.database.call(lambda connection: connection.set_trace_callback(seen.append), Access.READ)
    return seen


@pytest.mark.parametrize("verb", ["put", "create"])
async def test_concurrent_calls_take_few_transactions(documents: SqliteDocuments, verb: str) -> None:
    seen = await transactions(documents)
    await asyncio.gather(*(getattr(documents, verb)(document(f"{n}", n=n)) for n in range(1000)))
    assert 1 <= seen.count("COMMIT") <= 20
    assert len(await ids(documents.find())) == 1000


async def test_of_concurrent_creators_one_wins(documents: SqliteDocuments) -> None:
    creating = [documents.create(document("fence", attempt=n)) for n in range(50)]
    results = await asyncio.gather(*creating, return_exceptions=True)
    assert [type(result) for result in results].count(DocumentExists) == 49
    (winner,) = [n for n, result in enumerate(results) if result is None]
    assert (await documents.get("insight", "fence")).body == {"attempt": winner}


async def test_the_order_of_keys_makes_no_other_document_but_types_do(documents: SqliteDocuments) -> None:
    await documents.create(document("one", a=1, b={"c": [1, 2], "d": None}))
    await documents.create(document("one", b={"d": None, "c": [1, 2]}, a=1))
    for other in (
        document("one", a=True, b={"c": [1, 2], "d": None}),
        document("one", a=1, b={"c": [2, 1], "d": None}),
    ):
        with pytest.raises(DocumentExists, match="insight 'one': is stored already, with other content"):
            await documents.create(other)
    assert list((await documents.get("insight", "one")).body) == ["a", "b"]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_find_goes_through_many_pages_and_ends_where_it_began(
    documents: SqliteDocuments, newest_first: bool
) -> None:
    for n in range(0, 450, 150):
        await asyncio.gather(*(documents.put(document(f"{m}", kind=f"k{m % 2}")) for m in range(n, n + 150)))
    await documents.put(document("7", kind="k1", changed=True))  # keeps its place
    expected = [f"{n}" for n in range(1, 450, 2)]
    found: list[str] = []
    async for each in documents.find("k1", newest_first=newest_first):
        found.append(each.id)
        await documents.put(document(f"later {len(found)}", kind="k1"))
        if len(found) == 50:
            await documents.delete("k1", "301")
            await documents.delete("k1", "149")
    gone = {"301", "149"} - set(found)
    assert found == [id for id in (expected[::-1] if newest_first else expected) if id not in gone]


async def test_every_find_is_in_order_of_storing_by_an_index(documents: SqliteDocuments) -> None:
    """So that the time of an event does not depend on how many documents are stored."""
    for kind, flow, pending, newest in product((None, "k"), (None, "f"), (None, False, True), (False, True)):
        statement, values = find_statement(kind=kind, correlation_id=flow, pending=pending, newest_first=newest)
        values |= {"low": 0, "high": 9, "most": 9}
        explain = f"EXPLAIN QUERY PLAN {statement}"
        (row,) = await documents.database.call(lambda c, e=explain, v=values: c.execute(e, v).fetchall(), Access.READ)  # type: ignore[misc]
        plan = row[3]
        if pending:
            assert "INDEX documents_pending (pending=? AND rowid" in plan
        elif flow:
            assert "INDEX documents_of_correlation (correlation_id=? AND rowid" in plan
        elif kind:
            assert "INDEX documents_of_kind (kind=? AND rowid" in plan
        else:
            assert "INTEGER PRIMARY KEY (rowid" in plan


async def test_the_beginning_of_a_time_is_found_by_looking_at_few(documents: SqliteDocuments) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        rows = [(n, f"{n}", n * 10**6) for n in range(1, 5001) if n % 3]  # a third is gone
        connection.executemany(
            "INSERT INTO documents (seq, kind, id, correlation_id, pending, body, stored_at) "
            "VALUES (?, 'k', ?, 'f', 0, '{}', ?)",
            rows,
        )

    await documents.database.call(fill, Access.WRITE)
    beginning = datetime(1970, 1, 1, tzinfo=UTC)
    for first, last in ((1, 5000), (300, 400), (299, 301), (4999, 9999), (0, 1), (5001, 6000)):
        since, until = (beginning + timedelta(seconds=at) for at in (first, last))
        expected = [f"{n}" for n in range(max(first, 1), min(last, 5001)) if n % 3]
        async with counted_steps(documents) as so_far:
            found = await ids(documents.find(since=since, until=until, limit=1000))
            assert found == expected[:1000]
            assert so_far() < 2_000 + 40 * len(found)
        found = await ids(documents.find(since=since, until=until, newest_first=True, limit=2))
        assert found == expected[::-1][:2]


async def test_the_first_of_a_time_is_looked_for_by_the_key(documents: SqliteDocuments) -> None:
    seen = await transactions(documents)
    await documents.put(document("one"))
    assert await ids(documents.find(since=datetime(2000, 1, 1, tzinfo=UTC))) == ["one"]
    (asked,) = [it for it in seen if "stored_at FROM documents WHERE seq >=" in it]
    rows = await documents.database.call(lambda c: c.execute(f"EXPLAIN QUERY PLAN {asked}").fetchall(), Access.READ)
    assert ["INTEGER PRIMARY KEY (rowid>?)" in row[3] for row in rows] == [True]


@pytest.mark.parametrize("clock", [-3600, 3600])
async def test_time_never_goes_back_where_the_clock_does(
    documents: SqliteDocuments, clock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await documents.put(document("before"))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + clock * 10**9)
    await documents.put(document("after"))
    before, after = [it.stored_at async for it in documents.find()]
    assert before is not None
    assert after is not None
    assert after - before >= timedelta(seconds=max(clock, 0))
    assert await ids(documents.find(since=after)) == ["before", "after"] if clock < 0 else ["after"]


async def test_a_file_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its documents have the time of the last attempt that had ended by then, or the last commit."""
    path = tmp_path / "db"
    bodies: list[str | bytes] = [
        '{"type": "first"}',
        '{"committedAt": "2026-01-01T10:00:00.250+00:00"}',
        '{"type": "second"}',
        '{"finishedAt": "2026-01-01T09:00:00.000+00:00"}',  # another host's clock
        '{"finishedAt": "2026-01-02T10:00:00.125+01:00"}',
        '{"finishedAt": "9999-01-01T00:00:00+00:00", "was": "set by somebody"}',
        '{"finishedAt": "soon"}',
        '{"finishedAt": 17, "committedAt": null}',
        "[1]",
        '{"a": ',
        b"\xff\xfe{}",
    ]
    with closing(sqlite3.connect(path)) as connection:
        migrate(connection, SCHEMA._replace(migrations=SCHEMA.migrations[:1]), path)
        connection.executemany(
            "INSERT INTO documents (kind, id, correlation_id, pending, body) VALUES ('k', ?, 'f', ?, ?)",
            [(f"{n}", n % 2, body) for n, body in enumerate(bodies)],
        )
        connection.commit()
    begun = datetime.now(UTC)
    async with open_sqlite_documents(SqliteDocumentsSettings(path=path)) as documents:
        await documents.create(document("new", kind="k"))
        found: dict[str, datetime | None] = {}
        damaged: list[str] = []
        with passing_over_damage(damaged.extend):
            async for each in documents.find(kind="k"):
                found[each.id] = each.stored_at
        assert len(damaged) == 3
        assert list(found) == ["0", "1", "2", "3", "4", "5", "6", "7", "new"]
        assert found["0"] is None
        assert found["1"] == found["2"] == found["3"] == datetime(2026, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC)
        assert found["4"] == datetime(2026, 1, 2, 9, 0, 0, 125_000, tzinfo=UTC)
        for id in ("5", "6", "7", "new"):
            at = found[id]
            assert at is not None
            assert begun - timedelta(seconds=1) <= at <= datetime.now(UTC)
        assert await ids(documents.find(until=datetime(2026, 1, 1, 10, tzinfo=UTC))) == ["0"]
        pending = await ids(documents.find(pending=True, since=datetime(2026, 1, 2, 9, tzinfo=UTC), limit=2))
        assert pending == ["5", "7"]


async def test_get_create_and_clear_use_the_key(documents: SqliteDocuments) -> None:
    for statement in (
        "SELECT body FROM documents WHERE kind = ? AND id = ?",
        "UPDATE documents SET pending = 0 WHERE kind = ? AND id = ?",
        "DELETE FROM documents WHERE kind = ? AND id = ?",
    ):
        explain = f"EXPLAIN QUERY PLAN {statement}"
        rows = await documents.database.call(lambda c, e=explain: c.execute(e, ("k", "i")).fetchall(), Access.READ)  # type: ignore[misc]
        assert ["(kind=? AND id=?)" in row[3] for row in rows] == [True]


async def test_text_of_any_kind_is_an_id_but_not_what_is_no_unicode(documents: SqliteDocuments) -> None:
    for id in ("", "a/b", "nul \0 inside", "naïve 🙂", "x" * 10_000, "'; DROP TABLE documents"):
        await documents.put(document(id, was=id))
        assert (await documents.get("insight", id)).body == {"was": id}
    with pytest.raises(PermanentError, match="is not valid Unicode"):
        await documents.get("insight", "half \ud800")


async def test_putting_again_replaces_everything_but_the_place(documents: SqliteDocuments) -> None:
    await documents.put(Document(kind="commit", id="one", correlation_id="a", body={"n": 1}, pending=True))
    await documents.put(Document(kind="commit", id="two", correlation_id="b", body={}))
    replaced = Document(kind="commit", id="one", correlation_id="b", body={"m": 2})
    await documents.put(replaced)
    assert await documents.get("commit", "one") == replaced
    assert await ids(documents.find(pending=True)) == await ids(documents.find(correlation_id="a")) == []
    assert await ids(documents.find(correlation_id="b")) == ["one", "two"]


@pytest.mark.parametrize("body", ['{"a": ', "\x00\x00", b"\xff\xfe{}"], ids=["cut off", "zeros", "no UTF-8"])
async def test_a_document_that_is_damaged_is_an_error_of_the_store_which_names_it(
    documents: SqliteDocuments, body: str | bytes
) -> None:
    """It was a JSONDecodeError, which a job takes for a bug of ours."""
    await documents.create(document("one", a=1))

    def damage(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE documents SET body = ?", (body,))

    await documents.database.call(damage, Access.WRITE)
    with pytest.raises(PermanentError, match="insight 'one': is damaged, it is no document"):
        await documents.get("insight", "one")
    with pytest.raises(PermanentError, match="insight 'one': is damaged"):
        await ids(documents.find())
    with pytest.raises(PermanentError, match="insight 'one': is damaged"):
        await documents.create(document("one", a=1))
    await documents.delete("insight", "one")
    assert await ids(documents.find()) == []
