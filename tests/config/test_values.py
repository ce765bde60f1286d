"""Values from elsewhere, what wins, and durations and sizes both ways."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.config import Config
from ion_core.config.interpolation import NotResolved, Resolved, escape, resolve
from ion_core.config.text import duration_text, size_text
from ion_core.contracts.settings import parse_duration, parse_size
from ion_core.errors import ConfigError

Load = Callable[..., Config]
Lines = Callable[..., list[str]]

MODULE = "modules: {m: {command: x, subscribes: [a]}}\n"


def resolved(text: str, environ: dict[str, str] | None = None, base: Path = Path()) -> str:
    return resolve(text, base=base, environ=environ or {}).text


@given(st.text())
def test_escaped_text_is_itself(text: str) -> None:
    assert resolve(escape(text), base=Path(), environ={}) == Resolved(text, [], [])


@given(before=st.text(), value=st.text(), after=st.text())
def test_a_variable_is_put_in_as_it_is(before: str, value: str, after: str) -> None:
    # A "$" right before would make the "${" a literal one.
    text = f"{escape(before)} ${{env:X}}{escape(after)}"
    found = resolve(text, base=Path(), environ={"X": value})
    assert found == Resolved(f"{before} {value}{after}", ["${env:X}"], [value])


@given(value=st.text(), default=st.text(st.characters(exclude_characters="}")))
def test_a_default_stands_for_what_is_not_set_or_empty(value: str, default: str) -> None:
    text = f"${{env:X:-{default}}}"
    assert resolve(text, base=Path(), environ={}) == Resolved(default, [], [])
    assert resolve(text, base=Path(), environ={"X": value}).text == (value or default)


def test_what_comes_out_is_not_interpolated_again() -> None:
    assert resolved("${env:X}", {"X": "${env:X} $${y}"}) == "${env:X} $${y}"
    assert resolved("$${env:X} $$${env:X} ${env:A}${env:A}", {"X": "x", "A": "a"}) == "${env:X} $${env:X} aa"


def test_a_file_is_read_without_its_last_line_end(tmp_path: Path) -> None:
    for content, value in {b"s3\n": "s3", b"s3\r\n": "s3", b"s3\n\n": "s3\n", b"s3": "s3", b"": "", b"\n": ""}.items():
        (tmp_path / "token").write_bytes(content)
        assert resolved("<${file:token}>", base=tmp_path) == f"<{value}>"
    assert resolved(f"${{file:{tmp_path}/token}}") == ""


def test_what_has_no_value_says_why(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (64 * 1024 + 1))
    (tmp_path / "latin").write_bytes(b"\xe9")
    os.mkfifo(tmp_path / "pipe")
    for text, why in {
        "${env:NOPE}": "the environment variable NOPE is not set. Set it, or write ${env:NOPE:-default}.",
        "a ${oops} b": '"${oops}" is neither ${env:NAME} nor ${file:PATH}. A literal "${" is written "$${".',
        "${env:}": '"${env:}" is neither ',
        "${env:A B}": '"${env:A B}" is neither ',
        "${file:}": '"${file:}" is neither ',
        "${}": '"${}" is neither ',
        "${env:X": 'has a "${" without its "}". A literal "${" is written "$${".',
        "${file:absent}": "${file:absent}: " + f"{tmp_path}/absent cannot be read: No such file or directory",
        "${file:.}": "${file:.}: " + f"{tmp_path} cannot be read: is a directory",
        "${file:pipe}": "${file:pipe}: " + f"{tmp_path}/pipe cannot be read: is not a regular file",
        "${file:big}": "${file:big}: " + f"{tmp_path}/big is larger than 64 KiB",
        "${file:latin}": "${file:latin}: " + f"{tmp_path}/latin is not UTF-8",
        "${file:~nobody-of-that-name/x}": "${file:~nobody-of-that-name/x}: ",
        "${file:a\0b}": "${file:a\0b}: ",
    }.items():
        with pytest.raises(NotResolved) as caught:
            resolved(text, base=tmp_path)
        assert str(caught.value).startswith(why), text


def test_an_empty_variable_is_set(load: Load) -> None:
    config = load("modules: {m: {command: x, subscribes: [a], env: {A: '${env:E}'}}}", environ={"E": ""})
    assert config.modules["m"].env == {"A": ""}


def test_values_are_interpolated_everywhere_and_then_validated(load: Load, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("photo.received\n")
    config = load(
        """
        storage: {blobs: {provider: "${env:P}", port: "${env:PORT}"}}
        modules:
          m:
            command: [sh, -c, "echo $${HOME}"]
            subscribes: ["${file:name}"]
            concurrency: ${env:N:-3}
            timeout: ${env:MINUTES}m
        """,
        environ={"P": "parcel", "PORT": "80", "MINUTES": "2"},
    )
    module = config.modules["m"]
    assert (module.subscribes, module.concurrency, module.timeout) == (("photo.received",), 3, timedelta(minutes=2))
    assert module.command == ("sh", "-c", "echo ${HOME}")
    assert config.blobs.settings.model_dump()["port"] == 80


def test_what_has_no_value_is_one_problem_at_its_place(problems: Lines) -> None:
    text = (
        "drain_timeout: ${env:A}\nmessaging: {provider: '${env:B}'}\nmodules: {m: {command: x, subscribes: ['${C}']}}\n"
    )
    assert problems(text) == [
        "ion.yaml:1:16: drain_timeout: the environment variable A is not set. Set it, or write ${env:A:-default}.",
        "ion.yaml:2:23: messaging.provider: the environment variable B is not set. Set it, or write ${env:B:-default}.",
        'ion.yaml:3:40: modules.m.subscribes[0]: "${C}" is neither ${env:NAME} nor ${file:PATH}. '
        'A literal "${" is written "$${".',
    ]


def test_a_flag_wins_over_a_variable_that_over_the_file_that_over_the_default(load: Load) -> None:
    text = "drain_timeout: 2s\n" + MODULE
    variable = {"ION_DRAIN_TIMEOUT": "3s"}
    flag = {"drain_timeout": "4s"}
    assert load(MODULE).drain_timeout.seconds == 30
    assert load(text).drain_timeout.seconds == 2
    assert load(text, environ=variable).drain_timeout.seconds == 3
    assert load(text, environ=variable, overrides=flag).drain_timeout.seconds == 4
    assert load(MODULE, overrides=flag).drain_timeout.seconds == 4


def test_variables_set_values_of_every_section(load: Load, tmp_path: Path) -> None:
    config = load(
        "modules: {face-detect: {command: x, subscribes: [a], retry: {initial: 1s}}}",
        environ={
            "ION_STATE": "from-variable",
            "ION_MESSAGING__LEASE": "9s",
            "ION_RUNTIMES__DEFAULT__ISOLATION": "bubblewrap",
            "ION_STORAGE__BLOBS__PROVIDER": "parcel",
            "ION_STORAGE__BLOBS__LOGIN__USER": "${env:NOT_INTERPOLATED}",
            "ION_MODULES__FACE_DETECT__CONCURRENCY": "4",
            "ION_MODULES__FACE_DETECT__RETRY__INITIAL": "5s",
            "ION_MODULES__FACE_DETECT__ENV__mode": "small",
            "ION_CONFIG": "no section",
            "ION_PLUGINS": "on",
            "ION_AMQP_URL": "somebody's own",
            "NOT_ION__X": "nor this",
        },
    )
    module = config.modules["face-detect"]
    assert config.state == tmp_path / "from-variable"
    assert config.messaging.settings.model_dump()["lease"] == timedelta(seconds=9)
    assert config.runtimes["default"].settings.model_dump()["isolation"] == "bubblewrap"
    assert config.blobs.settings.model_dump()["login"]["user"] == "${env:NOT_INTERPOLATED}"
    assert (module.concurrency, module.retry.initial, module.env) == (4, timedelta(seconds=5), {"mode": "small"})


def test_what_a_variable_or_flag_replaces_is_not_looked_at(load: Load) -> None:
    text = "drain_timeout: ${env:NOT_SET}\n" + MODULE
    assert load(text, environ={"ION_DRAIN_TIMEOUT": "1s"}).drain_timeout.seconds == 1


def test_a_variable_or_flag_that_cannot_be_is_named(problems: Lines) -> None:
    lines = problems(
        MODULE,
        environ={
            "ION_MESAGING__URL": "x",
            "ION_MESSAGING__URL": "x",
            "ION_MODULES__M__TIMEOUT": "soon",
            "ION_MODULES__M__SUBSCRIBES__0": "x",
            "ION_MESSAGING____X": "x",
        },
        overrides={"state.x": "y", "drain_timeout": "never"},
    )
    sections = "Sections: messaging, runtimes, storage, services, observers, modules, state, drain_timeout."
    assert lines == [
        '--drain_timeout: drain_timeout: must be a duration such as 30s or 2h (got "never")',
        "--state.x: state: must be a path (got a mapping)",
        f'ION_MESAGING__URL: there is no section "mesaging" to set. Did you mean "messaging"? {sections}',
        "ION_MESSAGING__URL: messaging.url: unknown key. Known: path, lease, poll.",
        "ION_MESSAGING____X: has an empty part. Write the keys between one separator each.",
        "ION_MODULES__M__SUBSCRIBES__0: modules.m.subscribes: has no keys, so modules.m.subscribes.0 cannot be set",
        "ION_MODULES__M__TIMEOUT: modules.m.timeout: must be a duration such as 30s or 2h "
        "(its value comes from an environment variable and is not shown)",
    ]


def test_a_state_that_cannot_be_names_the_flag(problems: Lines) -> None:
    (problem,) = problems(MODULE, overrides={"state": "~nobody-of-that-name/x"})
    assert problem.startswith("--state-dir: state: cannot be expanded: ")


def test_a_relative_state_starts_beside_the_file_or_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ion_core.config import load_config

    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ion.yaml").write_text("state: s\n" + MODULE)
    monkeypatch.chdir(tmp_path)

    def state(**how: dict[str, str]) -> Path:
        return load_config("conf/ion.yaml", **{"environ": {}, **how}).state  # type: ignore[arg-type]

    assert state() == tmp_path / "conf" / "s"
    assert state(environ={"ION_STATE": "e"}) == tmp_path / "e"
    assert state(environ={"ION_STATE": ""}) == state()
    assert state(environ={"ION_STATE": "e"}, overrides={"state": "f"}) == tmp_path / "f"
    assert state(overrides={"state": "~"}) == Path.home()
    with pytest.raises(ConfigError, match="--state-dir: state: must not be empty"):
        state(overrides={"state": ""})


@given(st.integers(min_value=0, max_value=10**11))
def test_a_duration_reads_as_it_was_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(duration_text(value)) == value


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_reads_as_it_was_written(size: int) -> None:
    assert parse_size(size_text(size)) == size


def test_durations_and_sizes_are_written_short() -> None:
    assert [duration_text(timedelta(seconds=it)) for it in (0, 0.25, 1, 90, 3600, 5400.5, 90000)] == [
        "0s", "250ms", "1s", "1m30s", "1h", "1h30m500ms", "1d1h",
    ]  # fmt: skip
    assert [size_text(it) for it in (0, 1, 1000, 1024, 512 << 20, 3 << 30, 1 << 40)] == [
        "0", "1", "1000", "1KiB", "512MiB", "3GiB", "1TiB",
    ]  # fmt: skip


@given(st.text(max_size=20) | st.floats() | st.booleans() | st.none() | st.integers())
def test_any_duration_or_size_is_taken_or_a_value_error(value: object) -> None:
    for parse, kind in ((parse_duration, timedelta), (parse_size, int)):
        refused = None
        try:
            assert isinstance(parse(value), kind)
        except ValueError as error:
            refused = error
        if refused is not None:
            assert str(refused).startswith("must be a ")
