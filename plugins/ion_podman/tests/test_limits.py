"""What is known of a container without asking Podman."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ion_podman.limits import ExitFile


async def test_an_exit_code_is_waited_for_a_moment(tmp_path: Path) -> None:
    file = tmp_path / "id"
    asking = asyncio.create_task(ExitFile(file).soon())
    await asyncio.sleep(0)  # it has looked, and found nothing
    assert not asking.done()
    file.write_text("3")
    assert await asking == 3


@pytest.mark.parametrize("file", [None, "absent", "garbled"])
async def test_without_one_to_be_read_the_service_is_asked(tmp_path: Path, file: str | None) -> None:
    (tmp_path / "garbled").write_text("not a number")
    assert await ExitFile(tmp_path / file if file else None).soon() is None
