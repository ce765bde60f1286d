"""Rules of the executor kit: what is kept of what the steps of a job print."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from ion_core.contracts.executor import Executor, Step
from ion_core.testing.jobs import ExecutorKit, together


class JobLogRules(ExecutorKit):
    """Lines, each with its step."""

    async def test_logs_are_complete_and_tell_their_step(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            event = await jobs.event()
            ran = await jobs.run(self.prints_lines(3000), event=event)
            assert ran.text(Step.MODULE) == [f"line {n}" for n in range(3000)]
            for step in (Step.PREPARE, Step.COMMIT):
                assert ran.text(step), f"nothing is kept of what step {step.value} said"
            assert any(event.context.event_id in text for text in ran.text(Step.PREPARE)), "as that step said it"
            assert [it.step for it in ran.lines] == sorted((it.step for it in ran.lines), key=[*Step].index)

    async def test_logs_of_what_failed_are_kept(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            stopped = await jobs.running(self.hangs(on_term=0))
            await self.within(executor.stop(stopped.ref, grace=self.short), "stop")
            assert (await jobs.ran(stopped)).text(Step.MODULE, "stdout") == ["ready"]  # a shell may say how it ended
            refused = await jobs.run(self.leaves({"out/events/one.json": b"{"}))
            assert any("one.json" in text for text in refused.text(Step.COMMIT)), "why step 3 failed is in its log"

    async def test_logs_of_jobs_side_by_side_are_complete(self, executor: Executor, tmp_path: Path) -> None:
        printed = [f"line {n}" for n in range(300)]
        async with self.jobs(executor, tmp_path) as jobs:
            for ran in await together(*(jobs.run(self.prints_lines(len(printed))) for _ in range(4))):
                assert ran.text(Step.MODULE) == printed
                assert any(ran.made.ticket.event_id in text for text in ran.text(Step.PREPARE)), "that of another job"
                assert ran.text(Step.COMMIT), "nothing is kept of what step commit said"

    async def test_streams_are_told_apart_where_offered(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints(stdout=b"out\n\n  out again\t\n", stderr=b"err\nerr again\n"))
            out, err = ["out", "", "  out again\t"], ["err", "err again"]
            if executor.capabilities.streams:
                assert (ran.text(Step.MODULE, "stdout"), ran.text(Step.MODULE, "stderr")) == (out, err)
            else:
                assert sorted(ran.text(Step.MODULE, "stdout")) == sorted(out + err)

    async def test_a_last_line_needs_no_newline(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints(stdout=b"one\ntwo"))
            assert ran.text(Step.MODULE) == ["one", "two"]

    async def test_bytes_that_are_no_utf8_are_replaced(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints(stdout="grüß 🙂 ".encode() + b"\xff\xfe|\ngood\n"))
            lines = ran.text(Step.MODULE)
            assert lines[1:] == ["good"]
            assert re.fullmatch("grüß 🙂 \ufffd+\\|", lines[0]), lines[0]

    async def test_a_long_line_stays_one_line(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints_long_line(300_000))
            assert [len(text) for text in ran.text(Step.MODULE)] == [300_000]
            assert set(ran.text(Step.MODULE)[0]) == {"x"}

    async def test_output_beyond_the_limit_loses_its_middle(self, executor: Executor, tmp_path: Path) -> None:
        limit, printed = 4096, [f"line {n}" for n in range(3000)]
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints_lines(3000), log_limit=limit)
            texts = ran.text(Step.MODULE)
            kept = [text for text in texts if text in set(printed)]
            assert kept == sorted(kept, key=printed.index), "what is kept stays in order"
            assert (texts[0], texts[-1]) == (printed[0], printed[-1])
            size = sum(len(text) + 1 for text in kept)
            assert limit // 2 <= size <= limit, f"{size} bytes are kept of a limit of {limit}"
            cut = next(n for n, text in enumerate(texts) if text != printed[n])
            assert texts[cut] not in printed, "where lines were dropped a line must say so"
            assert texts[cut + 1 :] == printed[-len(texts) + cut + 1 :], "one piece is dropped, no more"
            assert ran.text(Step.COMMIT), "the limit is the module's, not that of the steps around it"

    async def test_following_shows_lines_as_they_come(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs, self.reopen() as another:
            made = await jobs.running(self.hangs(on_term=0))  # which follows until the first line
            for looking in (executor, another):
                lines = [line async for line in looking.logs(made.ref)]
                assert [it.text for it in lines if it.step is Step.MODULE] == ["ready"], "what it printed so far"
                assert any(it.step is Step.PREPARE for it in lines)

    async def test_following_ends_with_the_job(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(100))
            following = asyncio.create_task(jobs.lines(made.ref, follow=True))
            await asyncio.sleep(0)  # it follows before the start
            await executor.start(made.ref, made.ticket)
            await jobs.end(made.ref)
            followed = await self.within(following, "the end of the log")
            assert [it.text for it in followed if it.step is Step.MODULE] == [f"line {n}" for n in range(100)]
            for afterwards in (await jobs.lines(made.ref, follow=True), await jobs.lines(made.ref)):
                assert [(it.step, it.text) for it in afterwards] == [(it.step, it.text) for it in followed]

    async def test_each_line_tells_its_time(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            before = time.time()
            ran = await jobs.run(self.prints_lines(3))
            times = [it.at for it in ran.lines if it.step is Step.MODULE]
            assert len(times) == 3, "lines are missing"
            assert times == sorted(times)
            assert before - 1 <= times[0] <= times[-1] <= time.time() + 1
