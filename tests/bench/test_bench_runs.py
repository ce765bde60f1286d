"""The benchmarks run and say what they promise. What the figures are is no matter of a test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import Benchmark, Goal, Row, Unavailable, at_least, at_most, measure, row
from bench.rows import (
    BENCHMARKS,
    backlog,
    console_cost,
    console_flow,
    console_pages,
    embedded_event,
    events_many,
    executor_cost,
    files,
    gateway_upload,
    gather,
    gc,
    growth_commands,
    listing,
    s3_big,
    s3_files,
)

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"name", "ratio", "goal", "met", "ours", "theirs", "unit", "runs", "min", "max"}


def check(line: str, name: str, runs: int) -> None:
    value = json.loads(line)
    assert value.keys() == KEYS
    assert value["name"] == name
    assert value["runs"] == runs
    assert value["ours"] > 0
    assert value["theirs"] > 0
    assert value["min"] <= value["ratio"] <= value["max"]
    assert (value["met"] is None) == (value["goal"] is None)


def test_the_command_prints_one_object_a_line_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "help", "--pairs", "1", "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    check(line, "help", 1)
    assert "help" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "hlep"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "hlep" in done.stderr
    assert "help, growth" in done.stderr


async def test_an_event_is_measured_from_its_publication_to_its_acknowledgement(tmp_path: Path) -> None:
    check((await measure(embedded_event.benchmark(), tmp_path, pairs=1)).to_json(), "embedded_event", 1)


async def test_gathering_is_measured_however_many_events_there_are(tmp_path: Path) -> None:
    check((await measure(gather.benchmark(events=20), tmp_path, pairs=1)).to_json(), "gather", 1)
    check((await measure(gather.many(events=40, few=20), tmp_path, pairs=1)).to_json(), "gather_many", 1)


async def test_what_history_costs_commands_is_measured_however_much_there_is(tmp_path: Path) -> None:
    for benchmark, name in (
        (growth_commands.serve, "growth_serve"),
        (growth_commands.trace, "growth_trace"),
        (growth_commands.dlq, "growth_dlq"),
        (growth_commands.logs, "growth_logs"),
    ):
        check((await measure(benchmark((30, 20)), tmp_path, pairs=1)).to_json(), name, 1)


async def test_a_long_queue_is_measured_however_long_it_is(tmp_path: Path) -> None:
    check((await measure(backlog.benchmark(many=60, few=40, events=20), tmp_path, pairs=1)).to_json(), "backlog", 1)


async def test_gc_is_measured_however_much_there_is(tmp_path: Path) -> None:
    check((await measure(gc.benchmark(many=20, few=10), tmp_path, pairs=1)).to_json(), "gc", 1)
    check((await measure(gc.memory(waiting=20, flows=10), tmp_path, pairs=1)).to_json(), "gc_memory", 1)


async def test_listing_is_measured_however_many_flows_there_are(tmp_path: Path) -> None:
    check((await measure(listing.benchmark(flows=21), tmp_path, pairs=1)).to_json(), "listing", 1)


async def test_a_console_is_asked_for_pages_and_a_page_is_open_on_it(tmp_path: Path) -> None:
    check((await measure(console_pages.benchmark(1_000, 1_000), tmp_path, pairs=1)).to_json(), "console_pages", 1)
    check((await measure(console_flow.benchmark(20), tmp_path, pairs=1)).to_json(), "console_flow", 1)
    check((await measure(console_cost.benchmark(events=20), tmp_path, pairs=1)).to_json(), "console_cost", 1)


@pytest.mark.parametrize("benchmark", [executor_cost.benchmark(3, 0.1), executor_cost.printing(3, 0.1)])
async def test_the_wait_for_jobs_elsewhere_is_measured(benchmark: Benchmark, tmp_path: Path) -> None:
    check((await measure(benchmark, tmp_path, pairs=1)).to_json(), benchmark.name, 1)


@pytest.mark.parametrize(
    "benchmark", [gateway_upload.benchmark(10_000), gateway_upload.body(10_000), gateway_upload.memory(10_000)]
)
async def test_an_upload_is_measured_through_a_gateway_that_serves(benchmark: Benchmark, tmp_path: Path) -> None:
    check((await measure(benchmark, tmp_path, pairs=1)).to_json(), benchmark.name, 1)


@pytest.mark.parametrize("benchmark", [s3_big.benchmark(20_000_000), s3_big.memory(20_000_000)])
async def test_a_large_file_is_measured_to_s3_and_back(benchmark: Benchmark, tmp_path: Path) -> None:
    check((await measure(benchmark, tmp_path, pairs=1)).to_json(), benchmark.name, 1)


async def test_a_commit_to_s3_is_measured_against_a_server_that_costs_little(tmp_path: Path) -> None:
    check((await measure(s3_files.benchmark(3), tmp_path, pairs=1)).to_json(), "s3_files", 1)


async def test_a_row_whose_server_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="apt-get install nginx-light"):
        await measure(s3_files.benchmark(3), tmp_path, pairs=1)


@pytest.mark.parametrize("benchmark", [events_many.benchmark(events=3), files.many(3), files.big_copied(10_000)])
async def test_the_handler_is_measured_whatever_the_size(benchmark: Benchmark, tmp_path: Path) -> None:
    check((await measure(benchmark, tmp_path, pairs=2)).to_json(), benchmark.name, 2)


@pytest.mark.parametrize(("goal", "ratio", "met"), [(at_most(2.0), 2.1, False), (at_least(2.0), 2.1, True)])
def test_a_goal_knows_its_direction(goal: Goal, ratio: float, met: bool) -> None:
    assert goal.met(ratio) is met
    assert goal.met(2.0)


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    found: Row = row(BENCHMARKS["help"], [(1.0, 1.0), (2.0, 10.0), (9.0, 1.0)])
    assert (found.ratio, found.min, found.max) == (1.0, 0.2, 9.0)
    assert (found.ours, found.theirs, found.runs) == (2.0, 1.0, 3)
