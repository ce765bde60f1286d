"""What is printed: tables, JSON, and foreign text that would steer the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from ion_core.cli.ids import fits
from ion_core.cli.logging_setup import JsonFormatter, TerminalFormatter, TextFormatter, log_to
from ion_core.cli.output import (
    RED,
    YELLOW,
    coloured,
    encodes,
    out_array,
    out_table,
    plain,
    short_id,
    short_ids,
    shortened,
    shown_ids,
    to_json,
)
from ion_core.words import plain_lines

NASTY = "a\x1b[2Jb\x07\x9b\u202ec\nd\te"


def test_control_characters_of_others_are_escaped() -> None:
    assert plain(NASTY) == r"a\x1b[2Jb\x07\x9b\u202ec\nd\te"
    assert plain_lines(NASTY) == "a\\x1b[2Jb\\x07\\x9b\\u202ec\nd\te"


def test_json_stays_the_same_value_and_steers_no_terminal() -> None:
    text = to_json({"é": NASTY})
    assert json.loads(text) == {"é": NASTY}
    assert plain(text) == text


def test_json_fits_an_ascii_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = to_json("é…")
    assert text.isascii()
    assert json.loads(text) == "é…"
    assert not encodes("é")


def test_an_array_is_one_element_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    out_array([{"a": 1}, {"a": 2}])
    out_array([])
    assert capsys.readouterr().out == '[\n{"a":1},\n{"a":2}\n]\n[]\n'


def test_a_table_is_as_wide_as_it_needs_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    out_table(["ID", "LAST"], [["long one", "x\n"], ["1", ""]])
    out_table(["ID"], [])
    assert capsys.readouterr().out == "ID        LAST\nlong one  x\\n\n1\n"


def test_long_text_is_shortened() -> None:
    assert shortened("x" * 20, 5) == "xxxx…"
    assert shortened("x" * 5, 5) == "xxxxx"
    assert len(shortened("\x1b" * 100, 10)) <= 10


def _record(level: int, message: str, **fields: object) -> logging.LogRecord:
    return logging.getLogger("ion_core.x").makeRecord("ion_core.x", level, "f", 1, message, (), None, extra=fields)


def test_a_log_line_has_the_fields_behind_the_message() -> None:
    record = _record(logging.INFO, "job committed", moduleName="detect", attempt=1, reason='a "b" c\n', seconds=0.03)
    time, level, rest = TextFormatter().format(record).split(" ", 2)
    assert time.endswith("Z")
    assert (level, rest) == ("INFO", 'job committed module=detect attempt=1 reason="a \\"b\\" c\\n" seconds=0.03')


def test_a_log_line_is_one_line_whatever_is_in_it() -> None:
    assert TextFormatter().format(_record(logging.ERROR, NASTY, a=NASTY)).isprintable()


def test_a_json_log_line_has_fields_and_exception() -> None:
    try:
        raise ValueError("kaputt")
    except ValueError as error:
        record = _record(logging.ERROR, "failed", moduleName="detect", modules=["a"])
        record.exc_info = (ValueError, error, error.__traceback__)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"], line["module"], line["modules"]) == ("ERROR", "failed", "detect", ["a"])
    assert "kaputt" in line["exception"]


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("DEBUG", ["ours", "of a plugin", "a request", "looks like ours", "a warning"]),
        ("INFO", ["ours", "of a plugin", "a warning"]),
        ("WARNING", ["a warning"]),
    ],
)
def test_of_libraries_that_ion_uses_only_warnings_are_told_unless_all_is_asked_for(
    site: Path, monkeypatch: pytest.MonkeyPatch, level: str, told: list[str]
) -> None:
    monkeypatch.syspath_prepend(site)
    told_before, output = logging.getLogger().level, io.StringIO()
    log_to(logging.StreamHandler(output), getattr(logging, level))
    try:
        logging.getLogger("ion_core.app").info("ours")
        logging.getLogger("ion_greeting").info("of a plugin")
        logging.getLogger("httpx").info("a request")
        logging.getLogger("ion_corelike").info("looks like ours")
        logging.getLogger("httpx").warning("a warning")
    finally:
        log_to(logging.NullHandler(), told_before)
    assert output.getvalue().splitlines() == told


ID = "8000fe0c-1e56-5bc4-8ea6-50d8ab3db51d"


class _Terminal(io.StringIO):
    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def isatty(self) -> bool:
        return True


def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """80 columns wide, in colour, as standard output and error from here on."""
    shown = _Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown


def _of_job(level: int, message: str, attempt: int = 1) -> str:
    fields = {"eventId": ID, "correlationId": ID, "moduleName": "detect", "attempt": attempt, "seconds": 0.0301}
    return TerminalFormatter().format(_record(level, message, **fields))


def test_a_log_line_of_a_job_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_terminal(monkeypatch)
    assert _of_job(logging.INFO, "job committed")[9:] == " job committed  detect 8000fe0c 0.0301 s"
    retried = _of_job(logging.WARNING, "job retried: " + "x" * 200, attempt=2)
    assert retried.startswith("\x1b[33m")
    assert retried.endswith("x…  detect 8000fe0c attempt 2 0.0301 s\x1b[0m")
    assert len(retried.removeprefix("\x1b[33m").removesuffix("\x1b[0m")) < 80


def test_nothing_is_cut_off_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_terminal(monkeypatch)
    lines = _of_job(logging.ERROR, "job dead-lettered: " + "why not " * 20).split("\n")
    assert all(line.startswith("\x1b[31m") and len(line) < 80 + len("\x1b[31m\x1b[0m") for line in lines)
    assert "".join(lines).count("why") == 20
    assert "detect 8000fe0c" in lines[-1]


def test_other_log_lines_are_wrapped_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_terminal(monkeypatch)
    lines = TerminalFormatter().format(_record(logging.INFO, ("word " * 40).strip(), path="/a b")).split("\n")
    assert all(len(line) < 80 for line in lines)
    assert " ".join(line.strip() for line in lines)[10:] == "word " * 40 + 'path="/a b"'


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_there_is_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    _on_a_terminal(monkeypatch)
    assert coloured("x", RED) == "\x1b[31mx\x1b[0m"
    assert coloured("x", None) == "x"
    monkeypatch.setenv(name, value)
    assert coloured("x", RED) == "x"
    assert "\x1b" not in _of_job(logging.ERROR, "job dead-lettered: no")


def test_there_is_no_colour_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert coloured("x", RED) == "x"


def test_a_table_fits_a_terminal_where_it_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _on_a_terminal(monkeypatch)
    out_table(["A", "B"], [["1", "y" * 100]], fit=True, colours=[YELLOW])
    out_table(["A", "B"], [["1", "y" * 100]])
    assert terminal.getvalue() == ("A  B\n\x1b[33m1  " + "y" * 76 + "…\x1b[0m\nA  B\n1  " + "y" * 100 + "\n")


def test_where_the_last_column_would_have_no_room_others_are_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _on_a_terminal(monkeypatch)
    rows = [[ID, "m" * 60, "t" * 63, "y" * 100], [ID, "m", "t", "y"]]
    out_table(["ID", "MODULE", "TYPE", "REASON"], rows, fit=True, cuttable=["MODULE", "TYPE"])
    [headers, first, second] = terminal.getvalue().splitlines()
    assert [len(first), first.count("…"), first.count("y")] == [80, 3, 15]
    assert first.startswith(f"{ID}  mmm")
    assert headers.index("REASON") == second.index("y") == first.index("y")


def test_an_id_is_short_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_ids([ID]) == {ID: ID}
    _on_a_terminal(monkeypatch)
    assert [shown_ids([ID]), shown_ids([ID], whole=True)] == [{ID: "8000fe0c"}, {ID: ID}]


def test_a_short_id_is_the_beginning_of_a_uuid_and_else_its_beginning_and_end() -> None:
    assert short_id(ID) == "8000fe0c"
    assert short_id("order-2024-0017") == "order-2024-0017"
    assert short_id("x" * 28) == "x" * 28
    assert short_id("planner.nightly-report.2026-11-29T06:00:00Z") == "planner…2026-11-29T06:00:00Z"
    assert list(short_ids(MIDDLE).values()) == [
        "planner.nightly-l…2026-11-28T06:00:00Z",
        "planner.nightly-s…2026-11-28T06:00:00Z",
    ]


PLANNED = [f"planner.nightly-report.2026-11-{day}T06:00:00Z" for day in (28, 29)]
MIDDLE = [f"planner.nightly-{kind}-report.of-all.2026-11-28T06:00:00Z" for kind in ("small", "large")]
TWINS = [ID, ID[:12] + "f" + ID[13:], ID[:-1] + "e", ID[:9] + "no-uuid"]


@pytest.mark.parametrize(
    "ids",
    [
        PLANNED,
        MIDDLE,
        TWINS,
        [*PLANNED, *MIDDLE, *TWINS, "8000fe0c", "a", "abcd", "a...d", MIDDLE[0][-20:], MIDDLE[0][1:]],
    ],
)
def test_what_is_shown_of_ids_is_unlike_and_stands_for_each_as_input(ids: list[str]) -> None:
    shown = short_ids(ids)
    assert len(set(shown.values())) == len(ids)
    for id, text in shown.items():
        assert text in ids or [it for it in ids if fits(it, text)] == [id], text
        assert text not in ids or text == id


def test_ids_are_shortened_without_the_mark_that_a_terminal_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    [one, other] = short_ids(PLANNED).values()
    assert (one, other) == ("planner...2026-11-28T06:00:00Z", "planner...2026-11-29T06:00:00Z")
    assert [fits(it, other) for it in PLANNED] == [False, True]
