"""What ``check`` refuses, and what the command prints, with the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import commands

HEAD = """modules:
  report: {command: [sh, -c, ":"], source: ., subscribes: [report.asked]}
services:
  schedule:
    schedules:
"""


def ion(directory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")} | more
    return commands.run(*arguments, cwd=directory, environ=environment)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("x: {type: a.b}", "schedules.x: cron or every is required"),
        ('x: {cron: "0 2 * * *", every: 1h, type: a.b}', "schedules.x: cron or every is required, and only one"),
        ("x: {every: 1h, zone: Europe/Berlin, type: a.b}", "zone is for cron"),
        ("x: {every: 100ms, type: a.b}", "every: must be at least 1s"),
        ('x: {cron: "0 0 30 2 *", type: a.b}', "schedules.x.cron: '0 0 30 2 *'"),
        ('x: {cron: "0 2 * * *", zone: Mars, type: a.b}', "schedules.x.zone: no time zone called 'Mars'"),
        ("x: {every: 1h, type: Report}", "schedules.x.type"),
        ("Ä: {every: 1h, type: a.b}", "lower-case letters"),
        ("x: {every: 1h, type: a.b, missed: some}", "schedules.x.missed"),
        ("x: {every: 1h, type: report.askd}", 'no module takes "report.askd", so it would be refused. Did you mean'),
    ],
)
def test_check_names_what_cannot_be_planned(tmp_path: Path, schedule: str, says: str) -> None:
    (tmp_path / "ion.yaml").write_text(f"{HEAD}      {schedule}\n", encoding="utf-8")
    checked = ion(tmp_path, "check")
    assert checked.returncode == 78
    assert says in checked.stdout + checked.stderr


def test_what_a_schedule_publishes_comes_from_no_outside(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(HEAD + "      x: {every: 1h, type: report.asked}\n")
    checked = ion(tmp_path, "check")
    assert checked.returncode == 0, checked.stderr
    assert "comes from outside" not in checked.stdout + checked.stderr


def test_the_coming_times_are_printed(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(
        HEAD + '      nightly: {cron: "0 2 * * *", zone: Asia/Kolkata, type: report.asked}\n'
        "      often: {every: 1m, type: report.asked}\n"
    )
    printed = ion(tmp_path, "schedule", "next", "nightly", "--count", "2")
    assert printed.returncode == 0, printed.stderr
    head, *lines = [line.split() for line in printed.stdout.splitlines()]
    assert head == ["SCHEDULE", "TIME", "UTC", "TYPE"]
    assert [(line[0], line[3], line[4], line[5][11:]) for line in lines] == [
        ("nightly", "02:00:00", "IST", "20:30:00Z")
    ] * 2
    every = ion(tmp_path, "schedule", "next").stdout.splitlines()
    starts = {(line.index("Z  ") + 3, line.split()[-1]) for line in every[1:]}
    assert starts == {(every[0].index("TYPE"), "report.asked")}, (
        "one below the other, though zones and names are not as long"
    )
    refused = ion(tmp_path, "schedule", "next", "weekly")
    assert refused.returncode == 2
    assert 'no schedule "weekly". There are: nightly, often.' in refused.stderr
    (tmp_path / "ion.yaml").unlink()
    assert ion(tmp_path, "schedule", "next").returncode == 78


def test_what_is_planned_runs_its_module(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(HEAD + "      often: {every: 1s, type: report.asked}\n")
    serve = subprocess.Popen(
        [sys.executable, "-m", "ion_core", "serve"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert serve.stderr is not None
        committed = next(line for line in iter(serve.stderr.readline, "") if "job committed" in line)
    finally:
        serve.terminate()
        serve.communicate(timeout=60)
    assert "eventId=schedule.often." in committed


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("ion-core schedule next ", ["nightly", "hourly"]),
        ("ion-core schedule next ni", ["nightly"]),
        ("ion-core schedule next nightly h", ["hourly"]),
        ("ion-core schedule next --config other.yaml ", ["other"]),
        ("ion-core schedule next --config nowhere.yaml ", []),
    ],
)
def test_names_of_schedules_are_completed(tmp_path: Path, line: str, answer: list[str]) -> None:
    every = "{every: 1h, type: report.asked}"
    (tmp_path / "ion.yaml").write_text(f"{HEAD}      nightly: {every}\n      hourly: {every}\n")
    (tmp_path / "other.yaml").write_text(f"{HEAD}      other: {every}\n")
    done = ion(tmp_path, _ION_CORE_COMPLETE="bash_complete", COMP_WORDS=line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"plain,{name}" for name in answer]
