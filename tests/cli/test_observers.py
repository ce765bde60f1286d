"""A plugin that observes and takes settings, really installed, by every command that has to do with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ion_core.contracts import CONTRACT_VERSION
from tests.cli.running import Ion, command

CANARY = "s3cret-canary"
TOLD = f"""\
import json
import os
from pathlib import Path

import click
from pydantic import Field

from ion_core.contracts.command import configured
from ion_core.contracts.provider import ObserverSettings
from ion_core.contracts.settings import Secret, Settings, StatePath
from ion_core.hookspecs import hookimpl


class ToldSettings(Settings):
    token: Secret = Field(description="What it signs with.")
    path: StatePath = Field(default=Path("told.jsonl"), description="What it keeps.")
    kaputt: bool = Field(default=False, description="Fail at every call.")


@hookimpl
def ion_observer_settings():
    return [ObserverSettings(name="told", settings=ToldSettings, contract="{CONTRACT_VERSION}")]


def note(settings, what):
    if settings.kaputt:
        raise RuntimeError(f"with {{settings.token.get_secret_value()}}")
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    with settings.path.open("a") as file:
        file.write(json.dumps([what, settings.token.get_secret_value(), os.getpid()]) + "\\n")


@click.command()
def tokens():
    "Count the tokens."
    print(len({{it.token.get_secret_value() for it in configured().observers("told").values()}}))


@hookimpl
def ion_commands():
    return [tokens]


@hookimpl
def ion_serve_started(settings):
    note(settings, "started")


@hookimpl
def ion_job_finished(outcome, settings):
    note(settings, outcome.verdict.value)


@hookimpl
def ion_job_dead_lettered(settings):
    note(settings, "dead")


@hookimpl
def ion_event_published(event, settings):
    note(settings, event.type)


@hookimpl
def ion_serve_stopped(settings):
    note(settings, "stopped")
"""


@pytest.fixture
def environ(site: Path) -> dict[str, str]:
    (site / "ion_greeting.py").write_text(TOLD)
    return {"PYTHONPATH": str(site), "TOLD_TOKEN": CANARY}


def observing(ion: Ion, text: str) -> None:
    path = ion.home / "ion.yaml"
    path.write_text(f"{text}\n{path.read_text()}")


def noted(ion: Ion, name: str) -> list[list[str]]:
    path = ion.home / ".ion/observers" / name / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


TWO = "observers:\n  told: {token: '${env:TOLD_TOKEN}'}\n  again: {provider: told, token: another}"


@pytest.mark.parametrize("how", [(), ("--workers", "2")])
def test_each_section_is_told_of_all_that_is_served(ion: Ion, environ: dict[str, str], how: tuple[str, ...]) -> None:
    observing(ion, TWO)
    assert ion.process("event", "publish", "start", "--file", "note.txt", environ=environ).code == 0
    served = ion.process("serve", "--until-idle", *how, environ=environ)
    assert served.code == 1, "a module fails"
    assert CANARY not in served.err
    for name, token in (("told", CANARY), ("again", "another")):
        found = noted(ion, name)
        assert sorted(what for what, _, _ in found) == [
            *("committed", "committed", "dead", "dead-lettered", "made", "retried", "start", "started", "stopped")
        ]
        assert {it for _, it, _ in found} == {token}
        assert len({process for what, _, process in found if what in ("started", "stopped")}) == 1


@pytest.mark.parametrize(
    ("how", "said", "token_at_the_end"),
    [((), "the configuration was read again", "new"), (("--workers", "2"), "takes a restart: observers.told", "old")],
)
def test_sighup_gives_it_what_the_file_says_unless_workers_would_go_on_without(
    ion: Ion, environ: dict[str, str], how: tuple[str, ...], said: str, token_at_the_end: str
) -> None:
    pipeline = ion.home / "ion.yaml"
    observing(ion, "observers: {told: {token: old}}")
    serving = subprocess.Popen(
        command("serve", *how),
        cwd=ion.home,
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert serving.stderr is not None
    try:
        assert any("INFO serving" in line for line in serving.stderr)
        pipeline.write_text(pipeline.read_text().replace("token: old", "token: new"))
        serving.send_signal(signal.SIGHUP)
        assert any(said in line for line in serving.stderr)
        serving.terminate()
        serving.communicate(timeout=60)
    finally:
        serving.kill()
        serving.communicate()
    assert [(what, token) for what, token, _ in noted(ion, "told")][-1] == ("stopped", token_at_the_end)


def test_one_that_raises_harms_nothing_and_is_named(ion: Ion, environ: dict[str, str]) -> None:
    observing(ion, "observers: {told: {token: '${env:TOLD_TOKEN}', kaputt: true}}")
    assert ion.process("event", "publish", "start", "--file", "note.txt", environ=environ).code == 0
    served = ion.process("serve", "--until-idle", environ=environ)
    assert served.code == 1, "a module fails"
    assert "job committed" in served.err
    assert 'observer failed plugin="ion-greeting 1.5 (observers.told)"' in served.err
    assert "RuntimeError: with ********" in served.err
    assert CANARY not in served.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("observers: {told: {}}", "ion.yaml:1:13: observers.told.token: is required"),
        ("observers: {told: {token: x, kaputt: 1}}", 'observers.told.kaputt: must be true or false (got "1")'),
        ("observers: {tald: {token: x}}", 'observers.tald: no observer called "tald". Did you mean "told"?'),
        ("observers: {told: {token: x, paht: y}}", 'observers.told.paht: unknown key. Did you mean "path"?'),
        ("plugins: []\nobservers: {greeting: {}}", "ion-greeting is installed, but it is not listed"),
    ],
)
def test_check_and_serve_refuse_what_is_wrong_before_anything_begins(
    ion: Ion, environ: dict[str, str], text: str, said: str
) -> None:
    observing(ion, text)
    for arguments in (("check",), ("serve", "--until-idle")):
        refused = ion.process(*arguments, environ=environ)
        assert refused.code == 78
        assert said in refused.out + refused.err
    assert not (ion.home / ".ion").exists()


def test_a_section_of_a_broken_plugin_is_refused_with_the_cause(ion: Ion, site: Path, environ: dict[str, str]) -> None:
    (site / "ion_greeting.py").write_text("import no_such_library\n")
    observing(ion, "observers: {greeting: {token: x}}")
    refused = ion.process("check", environ=environ)
    assert refused.code == 78
    assert 'no observer "greeting": the plugin ion-greeting cannot be used: ModuleNotFoundError' in refused.err


def test_it_is_listed_examined_shown_and_described(ion: Ion, environ: dict[str, str]) -> None:
    observing(ion, TWO)
    plugins = {it["distribution"]: it for it in ion.process("plugins", "list", "--json", environ=environ).json}
    assert plugins["ion-greeting"]["providers"] == {"observer": ["told"]}
    assert plugins["ion-greeting"]["observes"][0] == "event_published"
    doctor = ion.process("plugins", "doctor", environ=environ)
    told = "event_published, job_dead_lettered, job_finished, serve_started, serve_stopped"
    assert (doctor.code, f"observer told ({CONTRACT_VERSION}), observes {told}\n" in doctor.out) == (0, True)
    shown = ion.process("config", "show", environ=environ).out
    assert "again:" in shown
    assert CANARY not in shown
    assert "another" not in shown
    schema = ion.process("config", "schema", environ=environ).json
    assert {*schema["properties"]["observers"]["properties"]["told"]["properties"]} >= {"provider", "token", "path"}


def test_a_command_of_the_plugin_has_its_settings(ion: Ion, environ: dict[str, str]) -> None:
    observing(ion, TWO)
    assert ion.process("tokens", environ=environ).out == "2\n"


def test_rehearsals_tell_none_that_takes_settings(ion: Ion, environ: dict[str, str]) -> None:
    observing(ion, "observers: {told: {token: '${env:NOT_SET_HERE}'}}")
    ran = ion.process("dev", "run", "start", "--file", "note.txt", environ=environ)
    assert "NOT_SET_HERE" not in ran.err
    assert not [*ion.home.rglob("told.jsonl")]


def test_an_installed_one_is_held_to_its_rules(ion: Ion, environ: dict[str, str]) -> None:
    given = ("plugins", "test", "told", "--set", f"token={CANARY}", "--json")
    kept = ion.process(*given, environ=environ)
    assert kept.code == 0, kept.out + kept.err
    assert {it["outcome"] for it in kept.json["rules"]} == {"kept"}
    broken = ion.process(*given, "--set", "kaputt=true", environ=environ)
    assert broken.code == 1
    assert "it_raises_nothing_whatever_it_is_told" in {
        it["rule"] for it in broken.json["rules"] if it["outcome"] == "broken"
    }
    longer = ion.process(*given, "--patience", "60", environ=environ)
    assert (longer.code, "5 seconds by its contract" in longer.err) == (2, True)
