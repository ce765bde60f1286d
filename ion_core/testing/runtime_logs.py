"""The runtime kit's rules for output."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.testing.programs import RuntimeKit


class LogRules(RuntimeKit):
    """What is kept of what a container prints."""

    async def test_logs_are_complete_and_in_order(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints_lines(3000))
        assert ran.text("stdout") == [f"line {n}" for n in range(3000)]
        assert ran.text("stderr") == []

    async def test_both_streams_are_told_apart(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(
            runtime, tmp_path, self.prints(stdout=b"out\n\n  out again\t\n", stderr=b"err\nerr again\n")
        )
        assert ran.text("stdout") == ["out", "", "  out again\t"]
        assert ran.text("stderr") == ["err", "err again"]

    async def test_a_last_line_needs_no_newline(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints(stdout=b"one\ntwo", stderr=b"three"))
        assert (ran.text("stdout"), ran.text("stderr")) == (["one", "two"], ["three"])

    async def test_bytes_that_are_no_utf8_are_replaced(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints(stdout="grüß 🙂 ".encode() + b"\xff\xfe|\ngood\n"))
        lines = ran.text("stdout")
        assert lines[1:] == ["good"]
        assert re.fullmatch("grüß 🙂 \ufffd+\\|", lines[0]), lines[0]

    async def test_a_long_line_stays_one_line(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        ran = await self.run(runtime, tmp_path, self.prints_long_line(300_000))
        assert [len(text) for text in ran.text("stdout")] == [300_000]
        assert set(ran.text("stdout")[0]) == {"x"}

    async def test_output_beyond_the_limit_loses_its_middle(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        limit, printed = 4096, [f"line {n}" for n in range(3000)]
        ran = await self.run(runtime, tmp_path, self.prints_lines(3000), log_limit=limit)
        texts = [line.text for line in ran.lines]
        kept = [text for text in texts if text in set(printed)]
        assert kept == sorted(kept, key=printed.index), "what is kept stays in order"
        assert (texts[0], texts[-1]) == (printed[0], printed[-1])
        size = sum(len(text) + 1 for text in kept)
        assert limit // 2 <= size <= limit, f"{size} bytes are kept of a limit of {limit}"
        cut = next(n for n, text in enumerate(texts) if text != printed[n])
        assert texts[cut] not in printed, "where lines were dropped a line must say so"
        assert texts[cut + 1 :] == printed[-len(texts) + cut + 1 :], "one piece is dropped, no more"

    async def test_following_shows_lines_as_they_come(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, self.hangs(on_term=0))
        async with self.running(runtime, spec) as ref:  # which follows until the first line
            assert [line.text for line in await self.lines(runtime, ref)] == ["ready"], "what it printed so far"

    async def test_following_ends_with_the_container(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.made(runtime, self.spec(tmp_path, self.prints_lines(100))) as ref:
            following = asyncio.create_task(self.lines(runtime, ref, follow=True))
            await asyncio.sleep(0)  # it follows before the start
            await runtime.start(ref)
            await self.ended(runtime, ref)
            expected = [f"line {n}" for n in range(100)]
            assert [line.text for line in await self.within(following, "the end of the log")] == expected
            assert [line.text for line in await self.lines(runtime, ref, follow=True)] == expected

    async def test_each_line_tells_its_time(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        before = time.time()
        ran = await self.run(runtime, tmp_path, self.prints_lines(3))
        times = [line.at for line in ran.lines]
        assert times == sorted(times)
        assert before - 1 <= times[0] <= times[-1] <= time.time() + 1
