"""Everything wrong is said at once, in plain words, where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ion_core.config import Config
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import Resources
from ion_core.errors import ConfigError
from ion_core.modules import Module, OutputLimits

Load = Callable[..., Config]
Lines = Callable[..., list[str]]

MODULE = "modules: {m: {command: x, subscribes: [a]}}\n"


def test_five_mistakes_in_one_file_are_five_lines(problems: Lines) -> None:
    assert problems(
        """\
        storage:
          blobs: {provider: parsel}
        modules:
          detect:
            comand: [python3, detect.py]
            image: detect
            subscribes: [photo.received]
            timeout: soon
          blur:
            command: blur
            subscribes: [Face]
            runtime: fast
        """
    ) == [
        'ion.yaml:2:21: storage.blobs.provider: no blob store called "parsel". Did you mean "parcel"? '
        "Installed: local, memory, parcel.",
        'ion.yaml:5:5: modules.detect.comand: unknown key. Did you mean "command"?',
        'ion.yaml:8:14: modules.detect.timeout: must be a duration such as 30s or 2h (got "soon")',
        "ion.yaml:11:18: modules.blur.subscribes[0]: event type 'Face' must be lower-case letters and digits, "
        'parts joined by single ".", "_" or "-", such as photo.received',
        'ion.yaml:12:14: modules.blur.runtime: no runtime called "fast". Runtimes: default.',
    ]


MODULE_PROBLEMS = {
    "timeout: 30": '.timeout: must be a duration such as 30s or 2h (got "30")',
    "timeout: 0s": ".timeout: must be longer than 0s",
    "timeout: 99999999999d": '.timeout: must be a duration of less than 999999999 days (got "99999999999d")',
    "timeout: ": ".timeout: has no value. Give it one, or remove the key.",
    "timeout: [1s]": ".timeout: must be a duration such as 30s or 2h",
    "retries: -1": '.retries: must be at least 0 (got "-1")',
    "retries: true": ".retries: must be a number (got true)",
    "retries: 1.5": '.retries: must be a whole number (got "1.5")',
    "retries: many": '.retries: must be a whole number (got "many")',
    "retries: {a: 1}": ".retries: must be a whole number (got a mapping)",
    "concurrency: 0": '.concurrency: must be at least 1 (got "0")',
    "concurrency: 1001": '.concurrency: must be at most 1000 (got "1001")',
    "concurrency: 99999999999999999999": '.concurrency: must be at most 1000 (got "99999999999999999999")',
    "retry: {factor: 0.9}": '.retry.factor: must be at least 1.0 (got "0.9")',
    "retry: {factor: .nan}": '.retry.factor: must be at most 100.0 (got ".nan")',
    "retry: {jitter: 2}": '.retry.jitter: must be at most 1.0 (got "2")',
    "retry: {inital: 1s}": '.retry.inital: unknown key. Did you mean "initial"?',
    "retry: 3": '.retry: must be a mapping (got "3")',
    "resources: {memory: 5XB}": '.resources.memory: must be a size such as 512MiB or 2GB (got "5XB")',
    "resources: {memory: 0}": '.resources.memory: must be greater than 0 (got "0")',
    "resources: {cpus: lots}": '.resources.cpus: must be a number such as 0.5 or 2 (got "lots")',
    "resources: {gpus: all}": '.resources.gpus: must be a list (got "all")',
    "env: {SHARED_SECRET: x}": ".env.SHARED_SECRET: SHARED_SECRET is set by Ion itself. Choose another name.",
    "env: {HANDLER_PORT: 1}": ".env.HANDLER_PORT: HANDLER_PORT is set by Ion itself. Choose another name.",
    "env: {HANDLER_BASE_DIR: 1}": ".env.HANDLER_BASE_DIR: HANDLER_BASE_DIR is set by Ion itself.",
    "env: {1A: x}": ".env.1A: a variable's name must be letters, digits and underscores, no digit first",
    "env: {A: }": ".env.A: has no value. Give it one, or remove the key.",
    "env: {A: [x]}": ".env.A: must be text (got a list)",
    'env: {A: "\\0"}': ".env.A: must not contain a NUL character",
    "env: [A]": ".env: must be a mapping (got a list)",
    "image: 5": ".image: must be text (write it in quotes)",
    'image: ""': ".image: must not be empty",
    "publishes: a": '.publishes: must be a list (got "a")',
    "publishes: [a, B]": ".publishes[1]: event type 'B' must be",
    f"publishes: [{'a' * 129}]": ".publishes[0]: event type is 129 characters long, 128 are allowed",
    "source: nowhere": '.source: no such directory (got "',
    "source: ~nobody-of-that-name": ".source: cannot be expanded: ",
    "source: ion.yaml": '.source: no such directory (got "',
    "build: nowhere": '.build: no such directory (got "',
    "build: .": '.build: there is no Containerfile or Dockerfile in it (got "',
    "warm: 2": ".warm: must be at most what concurrency is: more are never used at once (got 2)",
    "runtime: 5": ".runtime: must be text (write it in quotes)",
    "limits: {max_files: 0}": '.limits.max_files: must be greater than 0 (got "0")',
    "bogus: 1": ".bogus: unknown key. Known: image, build, command, args, source, ",
}


@pytest.mark.parametrize("line", MODULE_PROBLEMS)
def test_a_value_of_a_module_that_cannot_be_is_refused_in_plain_words(line: str, problems: Lines) -> None:
    (problem,) = problems(f"modules:\n  m:\n    command: x\n    subscribes: [a]\n    {line}\n")
    place, path, text = problem.split(": ", 2)
    assert re.fullmatch(r"ion\.yaml:5:\d+", place)
    assert f"{path}: {text}".startswith("modules.m" + MODULE_PROBLEMS[line]), problem
    assert "nput should" not in problem
    assert "http" not in problem


WHOLE_FILE_PROBLEMS = {
    "modules: {m: {command: x}}": "1:11: modules.m.subscribes: is required. Event types that start this module. "
    "Such as [photo.received].",
    "modules: {m: {command: x, subscribes: []}}": "1:39: modules.m.subscribes: must not be empty",
    "modules: {m: {subscribes: [a]}}": "1:11: modules.m: image, build or command is required",
    "modules: {m: {command: , subscribes: [a]}}": "1:15: modules.m.command: has no value. Give it one",
    "modules: {m: {image: , subscribes: [a]}}": "1:11: modules.m: image, build or command is required",
    "modules: {m: {command: [], subscribes: [a]}}": "1:24: modules.m.command: must not be empty",
    "modules: {m: {command: '', subscribes: [a]}}": "1:24: modules.m.command: must not be empty",
    'modules: {m: {command: "a \'b", subscribes: [a]}}': "1:24: modules.m.command: cannot be split into arguments: "
    "No closing quotation. Write it as a list.",
    "modules: {M: {command: x, subscribes: [a]}}": "1:11: modules.M: a name must be 1 to 63 lower-case letters, "
    "digits and hyphens, no hyphen first or last",
    f"modules: {{{'m' * 64}: {{command: x, subscribes: [a]}}}}": f"1:11: modules.{'m' * 64}: a name must be 1 to 63",
    "modules: {m: 5}": '1:14: modules.m: must be a mapping (got "5")',
    "modules: [m]": "1:10: modules: must be a mapping (got a list)",
    "version: 2": '1:10: version: must be 1 (got "2")',
    "state: [x]": "1:8: state: must be a path (got a list)",
    "drain_timeout: -5s": '1:16: drain_timeout: must be a duration such as 30s or 2h (got "-5s")',
    "plugins: ion-rabbitmq": '1:10: plugins: must be a list (got "ion-rabbitmq")',
    "messaging: sqlite": '1:12: messaging: must be a mapping (got "sqlite")',
    "messaging: {provider: 5}": "1:23: messaging.provider: must be the name of a message broker",
    "messaging: {provider: sqlite, pol: 1s}": '1:31: messaging.pol: unknown key. Did you mean "poll"?',
    "messaging: {url: x}": "1:13: messaging.url: unknown key. Known: path, lease, poll.",
    "messaging: {provider: memory, url: x}": "1:31: messaging.url: unknown key. There are none.",
    "messaging: {lease: soon}": '1:20: messaging.lease: must be a duration such as 30s or 2h (got "soon")',
    "runtimes: {default: {isolation: full}}": "1:33: runtimes.default.isolation: must be none or bubblewrap "
    '(got "full")',
    "runtimes: {default: {provider: proces}}": '1:32: runtimes.default.provider: no container runtime called "proces". '
    'Did you mean "process"? Installed: memory, process, cart, subprocess.',
    "runtimes: {A: {provider: process}}": "1:12: runtimes.A: a name must be",
    "storage: {blob: {}}": '1:11: storage.blob: unknown key. Did you mean "blobs"?',
    "services: {gat: {}}": '1:12: services.gat: no service called "gat". Did you mean "gate"? Installed: gate.',
    "services: {gate: {token: x}}": "1:12: services.gate.listen: is required",
    "services: {main: {provider: gate, token: x}}": "1:12: services.main.listen: is required",
}


@pytest.mark.parametrize("text", WHOLE_FILE_PROBLEMS)
def test_a_section_that_cannot_be_is_refused_in_plain_words(text: str, problems: Lines) -> None:
    (problem,) = problems(text)
    assert problem.startswith(f"ion.yaml:{WHOLE_FILE_PROBLEMS[text]}")


PARCEL_PROBLEMS = {
    "login: {usr: x}": '.login.usr: unknown key. Did you mean "user"?',
    "login: {password: 5}": ".login.password: must be text (write it in quotes)",
    "servers: [{}, {pasword: x}]": '.servers[1].pasword: unknown key. Did you mean "password"?',
    "servers: 5": '.servers: must be a list (got "5")',
    "port: 70000": '.port: must be at most 65535 (got "70000")',
    "url: http://x": '.url: must match ^parcel:// (got "http://x")',
    "either: perhaps": '.either: must be a whole number or must be true or false (got "perhaps")',
    "labl: x": '.labl: unknown key. Did you mean "label"?',
    "label: too long for it": ".label: must have at most 8 characters",
    "port: 666": ": parcel://localhost is not reached at port 666. Use another.",
    "port: 667": ": cannot be validated: ",
    "path: 5": '.path: must be a path (got "5")',
}


@pytest.mark.parametrize("line", PARCEL_PROBLEMS)
def test_settings_of_a_plugin_are_refused_in_the_same_words(line: str, problems: Lines) -> None:
    (problem,) = problems(f"storage:\n  blobs:\n    provider: parcel\n    {line}\n")
    path = problem.partition(": ")[2]
    assert path.startswith("storage.blobs" + PARCEL_PROBLEMS[line]), problem
    assert problem.startswith("ion.yaml:2:3: " if PARCEL_PROBLEMS[line].startswith(":") else "ion.yaml:4:")
    assert "nput should" not in problem


def test_a_validator_that_raises_something_else_is_a_fault_of_its_plugin(problems: Lines) -> None:
    (problem,) = problems("storage: {blobs: {provider: parcel, port: 667}}")
    assert problem.endswith("ParcelSettings raised KeyError instead of ValueError. This is a fault of the plugin.")


def test_problems_come_in_the_order_of_the_file_and_of_the_environment(problems: Lines) -> None:
    lines = problems(
        "drain_timeout: x\nmodules: {m: {command: x, subscribes: [a], retries: x}}\nbogus: 1\n",
        environ={"ION_STATE__X": "1", "ION_MODULES__M__TIMEOUT": "x"},
        overrides={"modules.m.concurrency": "x"},
    )
    assert [line.split(": ")[0] for line in lines] == [
        "--modules.m.concurrency",
        "ION_MODULES__M__TIMEOUT",
        "ION_STATE__X",
    ] or [re.sub(r":\d+$", "", line.split(": ")[0]) for line in lines] == [
        "ion.yaml:1",
        "ion.yaml:2",
        "ion.yaml:3",
        "--modules.m.concurrency",
        "ION_MODULES__M__TIMEOUT",
        "ION_STATE__X",
    ]


def test_the_whole_becomes_frozen_settings(load: Load, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "Containerfile").touch()
    config = load(
        """
        messaging: {lease: 5s}
        runtimes: {default: {provider: process}, spare: {provider: memory}}
        storage: {blobs: {provider: parcel, path: p, login: {password: x}}, documents: {path: /d.sqlite}}
        services: {gate: {listen: x, token: y}, other: {provider: gate, listen: x, token: y}}
        state: here
        drain_timeout: 1m30s
        modules:
          m:
            image: img
            build: code
            command: python3 'a b.py' $HOME
            source: code
            subscribes: [a.b, a.b, c]
            publishes: [d]
            runtime: spare
            timeout: 1.5h
            retries: 5
            retry: {initial: 2s, factor: 3, maximum: 1m, jitter: 0}
            concurrency: 7
            warm: 6
            resources: {cpus: 0.5, memory: 2GB, pids: 9, gpus: [a]}
            network: bridge
            env: {A: 1.10, B: true, C: 010, D: "x", E: 2020-01-01, F: ""}
            limits: {max_files: 1, max_depth: 2, max_output: 3KiB, max_events: 4, max_insights: 5}
        """
    )
    assert config.modules["m"] == Module(
        name="m",
        image="img",
        build=tmp_path / "code",
        command=("python3", "a b.py", "$HOME"),
        source=tmp_path / "code",
        subscribes=("a.b", "c"),
        publishes=("d",),
        runtime="spare",
        timeout=timedelta(minutes=90),
        retry=RetryPolicy(retries=5, initial=timedelta(seconds=2), factor=3, maximum=timedelta(minutes=1), jitter=0),
        concurrency=7,
        warm=6,
        resources=Resources(cpus=0.5, memory=2_000_000_000, pids=9, gpus=("a",)),
        network="bridge",
        env={"A": "1.10", "B": "true", "C": "010", "D": "x", "E": "2020-01-01", "F": ""},
        limits=OutputLimits(max_files=1, max_depth=2, max_output=3072, max_events=4, max_insights=5),
    )
    assert (config.path, config.state) == (tmp_path / "ion.yaml", tmp_path / "here")
    assert config.drain_timeout == timedelta(seconds=90)
    assert config.messaging.provider.name == "sqlite"
    assert config.messaging.settings.model_dump()["path"] == tmp_path / "here" / "broker.sqlite"
    assert config.blobs.settings.model_dump()["path"] == tmp_path / "p"
    assert config.documents.settings.model_dump()["path"] == Path("/d.sqlite")
    assert {name: it.provider.name for name, it in config.runtimes.items()} == {"default": "process", "spare": "memory"}
    assert {name: it.provider.name for name, it in config.services.items()} == {"gate": "gate", "other": "gate"}
    assert config.blobs.where == "ion.yaml:4:29: storage.blobs"
    assert config.where("modules", "m", "publishes", 0) == "ion.yaml:15:17: modules.m.publishes[0]"
    assert config.where("modules", "m", "nothing") == "ion.yaml:9:3: modules.m.nothing"


def test_without_a_word_everything_is_embedded(load: Load, tmp_path: Path) -> None:
    config = load(MODULE)
    chosen = [config.messaging, config.runtimes["default"], config.blobs, config.documents]
    assert [it.provider.name for it in chosen] == ["sqlite", "process", "local", "sqlite"]
    assert (config.state, config.services, config.plugins) == (tmp_path / ".ion", {}, None)
    assert config.drain_timeout == timedelta(seconds=30)
    assert config.modules["m"] == Module(name="m", command=("x",), subscribes=("a",))


def test_sections_with_all_their_keys_commented_out_are_empty_sections(load: Load) -> None:
    text = "messaging:\nruntimes:\n  default:\nstorage:\n  blobs:\n  documents:\nservices:\nmodules:\n"
    config = load(text)
    assert (config.modules, config.blobs.provider.name) == ({}, "local")


def test_the_default_runtime_is_there_when_somebody_uses_it(load: Load) -> None:
    text = "runtimes: {other: {provider: memory}}\nmodules: {m: {command: x, subscribes: [a], runtime: other}}\n"
    assert list(load(text).runtimes) == ["other"]
    assert list(load("runtimes: {other: {provider: memory}}\n" + MODULE).runtimes) == ["other", "default"]


def test_a_listed_plugin_that_is_not_installed_has_its_position(tmp_path: Path) -> None:
    from ion_core.config import load_config

    (tmp_path / "ion.yaml").write_text("plugins:\n  - ion-nothing\nbogus: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "ion.yaml", environ={})
    first, second = caught.value.problems
    assert first.startswith(f'{tmp_path}/ion.yaml:2:5: plugins[0]: no plugin distribution "ion-nothing" is installed.')
    assert second.startswith(f"{tmp_path}/ion.yaml:3:1: bogus: ")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcAB_-", max_size=5), inner, max_size=3),
)
KEYS = [
    *(
        f"modules.m.{key}"
        for key in ("image", "build", "command", "source", "subscribes", "publishes", "runtime", "timeout")
    ),
    *(
        f"modules.m.{key}"
        for key in ("retries", "retry", "concurrency", "warm", "resources", "network", "env", "limits")
    ),
    *("modules", "modules.m", "messaging", "messaging.provider", "storage", "storage.blobs", "runtimes", "services"),
    *("state", "drain_timeout", "plugins", "version", "storage.blobs.port", "storage.blobs.servers", "services.gate"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_anywhere_is_taken_or_refused_with_a_position(key: str, value: object, load: Load) -> None:
    import json

    root: dict[str, object] = {
        "modules": {"m": {"command": "x", "subscribes": ["a"]}},
        "storage": {"blobs": {"provider": "parcel"}},
    }
    node = root
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})  # type: ignore[assignment]
    node[last] = value
    lines: tuple[str, ...] = ()
    config = None
    try:
        config = load(json.dumps(root, ensure_ascii=False))
    except ConfigError as error:
        lines = error.problems
    assert (config is None) == bool(lines)
    for line in lines:
        assert re.match(r"ion\.yaml:1:\d+: ", line)
        assert "nput should" not in line
        assert "pydantic" not in line
