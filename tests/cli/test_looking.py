"""``check``, ``config``, ``plugins list`` and ``module list``: commands that look at what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ion_core.config import load_config
from tests.cli.running import Ion

SECRET = "canary-31415"

OBSERVING = """
from ion_core.hookspecs import hookimpl

@hookimpl
def ion_event_published(event): ...

@hookimpl
def ion_job_finished(attempt): ...
"""


def test_check_says_ok_with_counts_and_what_is_worth_knowing(ion: Ion) -> None:
    result = ion("check")
    assert (result.code, result.err) == (0, "")
    *findings, last = result.out.splitlines()
    assert last == "ok: 3 modules, 2 event types, 1 runtime, 0 services"
    assert findings == ['ion.yaml:5:18: modules.up.subscribes[0]: info: no module emits "start": it comes from outside']


def test_check_as_json(ion: Ion) -> None:
    report = ion("check", "--json").json
    assert (report["ok"], report["modules"]) == (True, 3)
    assert [finding["severity"] for finding in report["findings"]] == ["info"]
    assert report["runtimes"] == [{"name": "default", "provider": "process", "notChecked": None}]
    assert report["environments"] == []


def test_check_as_json_of_a_bad_file_has_the_problems_too(ion: Ion) -> None:
    (ion.home / "ion.yaml").write_text("moduls: {}\n")
    result = ion("check", "--json")
    assert result.code == 78
    assert result.json == {"ok": False, "problems": result.err.splitlines()}


def test_check_refuses_what_a_runtime_does_not_offer(ion: Ion) -> None:
    text = (ion.home / "ion.yaml").read_text().replace("    command: [sh, up.sh]\n", "    image: acme/up\n")
    (ion.home / "ion.yaml").write_text(text)
    result = ion("check")
    assert (result.code, result.out) == (78, "")
    assert result.err.startswith("ion.yaml:2:3: modules.up: command is required")


UNREACHABLE = """
from contextlib import asynccontextmanager
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.errors import TransientError
from ion_core.hookspecs import hookimpl

class Nothing(Settings):
    pass

@asynccontextmanager
async def away(settings):
    raise TransientError("nobody answers at /run/away.sock")
    yield

@hookimpl
def ion_container_runtimes():
    return [Provider(name="away", settings=Nothing, open=away, contract="1.0")]
"""


def test_check_says_which_runtime_it_could_not_ask(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text(UNREACHABLE)
    with (ion.home / "ion.yaml").open("a") as file:
        file.write("runtimes: {default: {provider: away}}\n")
    result = ion.process("check", environ={"PYTHONPATH": str(site)})
    assert result.code == 0, result.err
    assert "runtimes.default: not checked: nobody answers at /run/away.sock" in result.out
    assert result.out.splitlines()[-1].startswith("ok: ")


@pytest.fixture
def secretive(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> Ion:
    monkeypatch.setenv("CANARY", SECRET)
    text = (ion.home / "ion.yaml").read_text()
    text = text.replace("    publishes: [made]\n", '    publishes: [made]\n    env: {TOKEN: "${env:CANARY}"}\n')
    (ion.home / "ion.yaml").write_text(text.replace('"true"', '"test ${env:CANARY}"'))
    return ion


@pytest.mark.parametrize(
    "arguments",
    [("config", "show"), ("config", "show", "--json"), ("module", "list"), ("module", "list", "--json"),
     ("check",), ("check", "--json"), ("config", "schema"), ("event", "publish", "start", "-v")],
)  # fmt: skip
def test_secrets_are_not_printed(secretive: Ion, arguments: tuple[str, ...]) -> None:
    result = secretive(*arguments)
    assert result.code == 0
    assert SECRET not in result.out + result.err
    if arguments[0] == "config" and arguments[1] == "show":
        assert "********" in result.out


def test_the_configuration_in_force_is_a_configuration(ion: Ion) -> None:
    shown = ion("config", "show").out
    assert YAML(typ="safe").load(shown) == json.loads(ion("config", "show", "--json").out)
    (ion.home / "shown.yaml").write_text(shown)
    assert load_config("shown.yaml").modules == load_config("ion.yaml").modules


def test_the_schema_is_json(ion: Ion) -> None:
    assert "modules" in ion("config", "schema").json["properties"]
    (ion.home / "ion.yaml").unlink()
    assert "modules" in ion("config", "schema").json["properties"]


def test_plugins_are_listed_with_what_they_provide(ion: Ion, site: Path) -> None:
    environ = {"PYTHONPATH": str(site)}
    plugins = {it["distribution"]: it for it in ion.process("plugins", "list", "--json", environ=environ).json}
    assert plugins["ion-core"]["providers"]["message broker"] == ["memory", "sqlite"]
    assert plugins["ion-greeting"] == {
        "distribution": "ion-greeting",
        "version": "1.5",
        "entryPoint": "greeting",
        "providers": {},
        "commands": ["boom", "greet", "interrupt"],
        "observes": [],
        "problem": None,
    }
    assert ["ion-core", "message", "broker", "memory,", "sqlite"] in [
        line.split()[:1] + line.split()[2:] for line in ion("plugins", "list").out.splitlines()
    ]


def test_a_plugin_that_observes_is_listed_with_what_it_is_told(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text(OBSERVING)
    environ = {"PYTHONPATH": str(site)}
    plugins = {it["distribution"]: it for it in ion.process("plugins", "list", "--json", environ=environ).json}
    assert plugins["ion-greeting"]["observes"] == ["event_published", "job_finished"]
    assert "observes           event_published, job_finished" in ion.process("plugins", "list", environ=environ).out


@pytest.mark.parametrize("config", ["modules: {bad name: {}}\n", "", None])
def test_plugins_are_listed_without_a_usable_configuration_a_broken_one_with_its_problem(
    ion: Ion, site: Path, config: str | None
) -> None:
    (site / "ion_greeting.py").write_text("raise ImportError('no libgreeting')")
    (ion.home / "ion.yaml").unlink()
    if config:
        (ion.home / "ion.yaml").write_text(config)
    result = ion.process("plugins", "list", environ={"PYTHONPATH": str(site)})
    assert result.code == 0
    assert "ion-greeting        1.5      PROBLEM" in result.out
    assert "no libgreeting" in result.out


def test_only_the_plugins_that_are_allowed_are_loaded_even_by_a_broken_configuration(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text("import pathlib; pathlib.Path('loaded').touch()")
    for config in ("plugins: [ion-core]\n", "plugins: [ion-core]\nmodules: {x: {}}\n"):
        (ion.home / "ion.yaml").write_text(config)
        result = ion.process("plugins", "list", environ={"PYTHONPATH": str(site)})
        assert result.code == 0
        assert "ion-greeting is installed, but not allowed" in result.err
        assert not (ion.home / "loaded").exists()


def test_modules_are_listed_with_their_queues(ion: Ion) -> None:
    assert [module["queue"] for module in ion("module", "list", "--json").json] == [None] * 3
    ion("event", "publish", "start")
    modules = ion("module", "list", "--json").json
    assert modules[0]["name"] == "up"
    assert modules[0]["command"] == ["sh", "up.sh"]
    assert modules[0]["queue"] == {"ready": 1, "delayed": 0, "unsettled": 0, "dead": 0}
    assert ion("module", "list").out.splitlines()[1].split()[:5] == ["up", "1", "0", "0", "0"]


def test_modules_are_listed_when_the_broker_does_not_answer(ion: Ion, site: Path) -> None:
    (site / "ion_greeting.py").write_text(UNREACHABLE.replace("ion_container_runtimes", "ion_message_brokers"))
    with (ion.home / "ion.yaml").open("a") as file:
        file.write("messaging: {provider: away}\n")
    environ = {"PYTHONPATH": str(site)}
    result = ion.process("module", "list", environ=environ)
    assert result.code == 0
    assert result.out.splitlines()[1].split()[:5] == ["up", "?", "?", "?", "?"], "unknown, and not as of no queue"
    assert "nobody answers" in result.err
    published = ion.process("event", "publish", "start", environ=environ)
    assert (published.code, published.err) == (69, "ion-core: nobody answers at /run/away.sock\n")


def test_an_image_is_listed_where_the_runtime_runs_images_only(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text().replace("command: [sh, up.sh]", "command: [sh, up.sh]\n    image: acme/up"))
    line = ion("module", "list").out.splitlines()[1]
    assert line.split() == ["up", "-", "-", "-", "-", "default", "1", "start", "made", "sh", "up.sh"]
    assert ion("module", "list", "--json").json[0]["image"] == "acme/up"
