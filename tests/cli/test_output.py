"""What is printed: tables, JSON, and foreign text that would steer the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from ion_core.cli.logging_setup import JsonFormatter, TextFormatter
from ion_core.cli.output import encodes, out_array, out_table, plain, plain_lines, shortened, to_json

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
