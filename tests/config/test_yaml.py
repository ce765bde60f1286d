"""Whatever the file is, there is a configuration or a clean error with a position."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.config import Config, find_config, load_config
from ion_core.config.tree import Problems, parse
from ion_core.errors import ConfigError

Load = Callable[..., Config]
Lines = Callable[..., list[str]]

MODULE = "modules: {m: {command: x, subscribes: [a]}}\n"

BAD_BYTES = {
    b"": "ion.yaml:1:1: is empty. A configuration is a mapping of keys such as modules:.",
    b"# nothing\n": "ion.yaml:1:1: is empty. A configuration is a mapping of keys such as modules:.",
    b"\xef\xbb\xbfmodules: {}": "ion.yaml:1:1: starts with a byte order mark. Save it as UTF-8 without one.",
    "modules: {}".encode("utf-16"): "ion.yaml:1:1: is UTF-16. Save it as UTF-8.",
    "state: x\nplugins: [é]".encode("latin-1"): "ion.yaml:2:11: is not UTF-8 (byte 0xe9). Save it as UTF-8.",
    b"state: a\x00b": "ion.yaml:1:9: has the character U+0000, which YAML forbids",
    "state: a\u2028b".encode(): "ion.yaml:1:9: has the line separator U+2028. Use ordinary line ends.",
    b"- a": "ion.yaml:1:1: must be a mapping of keys such as modules: (got a list)",
    b"hello": "ion.yaml:1:1: must be a mapping of keys such as modules: (got text)",
    b"modules:\n\tm: {}": "ion.yaml:2:1: is not YAML: a tab where only spaces may stand. Indent with spaces.",
    b"state: a: b": 'ion.yaml:1:9: is not YAML: a second ": " in one line. Put the value in quotes, '
    "or indent it as a mapping of its own.",
    b"modules: {m: {": "ion.yaml:1:15: is not YAML: expected the node content, but found '<stream end>' "
    "while parsing a flow node.",
    b"state: *nobody": "ion.yaml:1:8: is not YAML: found undefined alias 'nobody'.",
    b"state: a\n---\nstate: b": 'ion.yaml:2:1: is not YAML: a second document starts here. Remove the "---".',
    b"modules: " + b"[" * 2000: "ion.yaml: is nested more than 64 levels deep",
    b"modules: " + b"[" * 70 + b"]" * 70: "ion.yaml:1:74: modules[0][0]…: is nested more than 64 levels deep",
    b"state: " + b"a" * (1 << 20): "ion.yaml: is larger than 1 MiB. Is this the right file?",
    b"modules: &m {a: *m}": "ion.yaml:1:14: modules.a: the alias is part of what it stands for",
}


@pytest.mark.parametrize("raw", BAD_BYTES, ids=range(len(BAD_BYTES)))
def test_a_file_that_is_no_configuration_is_one_clean_error(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ion.yaml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load_config("ion.yaml", environ={})
    assert caught.value.problems == (BAD_BYTES[raw],)


def test_a_path_that_is_no_file_is_one_clean_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, text in {
        "absent.yaml": "no such file. Name one with --config or in $ION_CONFIG.",
        ".": "is a directory. Name the file in it, such as",
        "pipe": "cannot be read: is not a regular file. Name a YAML file such as ion.yaml.",
        "a\0b": "cannot be read: has a NUL character",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_config(f"{tmp_path}/{path}", environ={})
        assert str(caught.value).startswith(f"{tmp_path}/{path}: {text}")


def test_a_few_aliases_that_become_millions_of_values_are_refused(problems: Lines) -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    tracemalloc.start()
    (problem,) = problems("\n".join(laughs))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "there are more than 50,000 values, aliases expanded" in problem
    assert peak < 100 << 20


def test_ordinary_aliases_are_fine(load: Load) -> None:
    config = load(
        """
        modules:
          one: &one {command: x, subscribes: &types [a.b], env: {A: &text hello}}
          two: {command: *text, subscribes: *types}
          three: *one
        """
    )
    assert config.modules["two"].command == ("hello",)
    assert config.modules["three"].subscribes == ("a.b",)
    assert config.modules["three"].env == {"A": "hello"}


def test_duplicate_keys_tags_and_odd_keys_are_reported_with_everything_else(problems: Lines) -> None:
    assert problems(
        """\
        state: a
        modules:
          m: {command: x, subscribes: [a], command: y}
        drain_timeout: !!python/object:os.system 5s
        state: b
        [x]: y
        bogus: !mine {a: 1}
        """
    ) == [
        "ion.yaml:3:36: modules.m.command: is there twice, first in line 3. Remove one.",
        'ion.yaml:4:16: drain_timeout: the tag "tag:yaml.org,2002:python/object:os.system" is not allowed. Remove it.',
        "ion.yaml:5:1: state: is there twice, first in line 1. Remove one.",
        "ion.yaml:6:1: a key must be text, not a list or a mapping",
        "ion.yaml:7:1: bogus: unknown key. Known: version, messaging, runtimes, storage, services, observers, modules, "
        "state, drain_timeout, hidden, plain, leads_to, plugins.",
        'ion.yaml:7:8: bogus: the tag "!mine" is not allowed. Remove it.',
    ]


def test_merge_keys_are_named_as_what_they_are(problems: Lines) -> None:
    text = "modules:\n  a: &a {command: x, subscribes: [a]}\n  b:\n    <<: *a\n    command: y\n    subscribes: [b]\n"
    assert problems(text) == [
        "ion.yaml:4:5: modules.b.<<: unknown key: YAML 1.2 has no merge keys. Write the keys out."
    ]


def test_yaml_is_of_version_1_2(load: Load) -> None:
    config = load("modules: {m: {command: x, subscribes: [on, no], retries: 010, concurrency: 0x10}}")
    module = config.modules["m"]
    assert (module.subscribes, module.retry.retries, module.concurrency) == (("on", "no"), 10, 16)


def test_positions_count_characters_from_one(problems: Lines) -> None:
    text = 'modules: {m: {env: {A: "ü🙂"}, command: x, subscribes: [a], timeout: soon}}'
    assert problems(text) == [
        f'ion.yaml:1:{text.index("soon") + 1}: modules.m.timeout: must be a duration such as 30s or 2h (got "soon")'
    ]


def test_the_path_is_shown_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "ion.yaml").write_text("bogus: 1")
    monkeypatch.chdir(tmp_path / "below")
    for shown in ("ion.yaml", "./ion.yaml", "../below/ion.yaml", str(tmp_path / "below" / "ion.yaml")):
        with pytest.raises(ConfigError) as caught:
            load_config(shown, environ={})
        assert str(caught.value).startswith(f"{shown}:1:1: bogus: ")


def test_the_file_is_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("a.yaml", {"ION_CONFIG": "b.yaml"}) == Path("a.yaml")
    with pytest.raises(ConfigError, match=r"^\$ION_CONFIG: b\.yaml: no such file\. Unset it \(unset ION_CONFIG\)"):
        find_config(None, {"ION_CONFIG": "b.yaml"})
    Path("b.yaml").touch()
    assert find_config(None, {"ION_CONFIG": "b.yaml"}) == Path("b.yaml")
    said = r"^ion\.yaml: no such file .*--config.*\$ION_CONFIG.*\./ion\.yaml: `ion-core init DIRECTORY` starts"
    with pytest.raises(ConfigError, match=said):
        find_config(None, {})
    Path("ion.yaml").write_text(MODULE)
    assert find_config(None, {"ION_CONFIG": ""}) == Path("ion.yaml")


YAMLISH = st.lists(
    st.sampled_from(
        [*"{}[]:,-?|>&*!%@#'\"\\ \n\t", "a", "b: ", "- ", "\n  ", "&a ", "*a", "<<: ", "1", "~", "---", "é"]
    ),
    max_size=60,
).map("".join)


@given(YAMLISH | st.text(max_size=60))
def test_any_text_is_a_tree_or_a_config_error(text: str) -> None:
    problems: list[str] = []
    root = None
    try:
        root = parse(text.encode("utf-8", "surrogatepass"), "ion.yaml", Problems())
    except ConfigError as error:
        problems += error.problems
    assert (root is None) == bool(problems)
    for problem in problems:
        assert problem.startswith("ion.yaml:")
        assert "\n" not in problem
    lines = text.count("\n") + text.count("\r") + 1
    for path, node in root.walk() if root else ():
        assert 1 <= node.place.line <= lines, path
