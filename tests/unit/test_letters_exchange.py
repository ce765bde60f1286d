"""Dead letters in a file: written as they come."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from ion_core.contracts.messaging import DeadLetter
from ion_core.letters import export, read_export

MANY, SIZE = 1_000, 20_000


async def many() -> AsyncIterator[DeadLetter]:
    for n in range(MANY):
        body = b"%d" % n + b"x" * SIZE
        yield DeadLetter(
            id=str(n), queue="up", body=body, headers={}, reason="r", attempts=1, log_tail=(), died_at=datetime.now(UTC)
        )


async def test_of_many_letters_few_are_held(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        told = await export(many(), tmp_path / "dead.jsonl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MANY * SIZE / 10
    assert told.letters == MANY
    assert [letter.id for letter in read_export(tmp_path / "dead.jsonl").letters] == [str(n) for n in range(MANY)]
