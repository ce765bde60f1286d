"""``ion-core plugins test``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import Text, json_option, with_config
from ion_core.cli.output import mark, out, out_json, plain
from ion_core.cli.whole import Options
from ion_core.errors import IonError, TransientError, UsageError

if TYPE_CHECKING:
    from ion_core.registry import Kind, Registry

BROKEN = 1
"""Exit code: a rule is broken."""
KINDS = {
    "broker": "message broker",
    "runtime": "container runtime",
    "executor": "executor",
    "blobs": "blob store",
    "documents": "document store",
    "service": "service",
    "observer": "observer",
}
RUN = """\
from pathlib import Path

from ion_core.testing.installed import kits

globals().update(kits(Path(__file__).parent))
"""


@click.command("test")
@click.argument("name", metavar="NAME", type=Text())
@click.option("--kind", type=click.Choice(tuple(KINDS)), help="What it is, where several of that name are.")
@click.option(
    "--set", "given", metavar="KEY=VALUE", type=Text(), multiple=True, help="A setting, as in the configuration."
)
@click.option("--image", metavar="IMAGE", type=Text(), help="An image with /bin/sh, for what runs images.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for what must happen, of a slow backend. Default: 10, of an executor 60.",
)
@with_config
@json_option
def test(
    options: Options,
    name: str,
    kind: str | None,
    given: Sequence[str],
    image: str | None,
    patience: float | None,
    as_json: bool,
) -> None:
    """Run the conformance kit against an installed provider: does what it does keep its contract?

    NAME is what a configuration calls it. It is opened with the settings given, and all that the kit makes there is
    removed in the end: queues have names of their own, a blob or document store must have nothing in it. An observer is
    told of events and jobs that are made up. Rules that take more than the contract has, such as an outage, are named
    as not tested: a subclass of the kit in the plugin's own tests supplies that. Relative paths begin in a directory
    that is thrown away.

    It needs pytest and pytest-asyncio (pip install 'ion-core[testing]'). The exit code is 1 if a rule is broken,
    and 69 if what it needs does not answer.

    \b
    Example:
      ion-core plugins test rabbitmq --set url=amqp://guest:guest@localhost/test
    """
    from ion_core.cli.session import plugins_allowed

    registry = plugins_allowed(options.config)
    chosen = _kind_of(registry, name, kind)
    settings = _settings(given)
    _check(registry, chosen, name, settings)
    if chosen.value == KINDS["observer"] and patience is not None:
        raise UsageError("--patience: is not for an observer, whose calls have 5 seconds by its contract.")
    asked = {"kind": chosen.value, "name": name, "settings": settings, "image": image, "patience": patience}
    found = list(_run(asked))
    broken = [it for it in found if it["outcome"] == "broken"]
    if as_json:
        out_json({"provider": name, "kind": chosen.value, "kept": not broken, "rules": found})
    else:
        _tell(found, verbose=options.verbose)
    if broken:
        click.get_current_context().exit(BROKEN)


def _kind_of(registry: Registry, name: str, kind: str | None) -> Kind:
    from ion_core.registry import Kind

    if kind is not None:
        registry.choose(Kind(KINDS[kind]), name, where="NAME")
        return Kind(KINDS[kind])
    kinds = [it for it in Kind if name in (found.name for found in registry.providers(it))]
    kinds = [it for it in kinds if registry.kind_of(it, name) is it]  # a name is one of runtimes and executors
    if len(kinds) > 1:
        which = ", ".join(said for said, words in KINDS.items() if Kind(words) in kinds)
        raise UsageError(f'"{name}" is the name of several providers. Say which by --kind: {which}.')
    if not kinds:
        raise UsageError(f'no provider called "{name}" can be used. `ion-core plugins list` shows those that can.')
    return kinds[0]


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """``a.b=1`` as ``{"a": {"b": 1}}``: values are what they would be in the configuration."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    settings: dict[str, Any] = {}
    for it in given:
        key, equals, text = it.partition("=")
        if not (key and equals):
            raise UsageError(f"--set {it[:80]}: say KEY=VALUE.")
        try:
            value = YAML(typ="safe").load(text)
        except YAMLError as error:
            raise UsageError(f"--set {key[:80]}: the value is no YAML. Put it in quotation marks.") from error
        *above, last = key.split(".")
        where = settings
        for part in above:
            where = where.setdefault(part, {})
            if not isinstance(where, dict):
                raise UsageError(f"--set {key[:80]}: {part} is a value already.")
        where[last] = value
    return settings


def _check(registry: Registry, kind: Kind, name: str, settings: Mapping[str, Any]) -> None:
    from pydantic import ValidationError

    from ion_core.config import in_words

    provider = registry.choose(kind, name, where="NAME")
    try:
        provider.settings.model_validate(settings)
    except ValidationError as error:
        raise UsageError("\n".join(in_words(error, provider.settings, settings, "--set"))) from None


def _run(asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What became of each rule, in the order of the pages; ``asked`` is for ``ion_core.testing.installed``."""
    import importlib.util
    import json
    import os
    import subprocess
    import sys
    from pathlib import Path
    from tempfile import TemporaryDirectory

    if missing := [it for it in ("pytest", "pytest_asyncio") if importlib.util.find_spec(it) is None]:
        raise UsageError(f"{' and '.join(missing)} cannot be imported. Install them: pip install 'ion-core[testing]'.")
    left_out = ("PYTEST_", "ION_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    with TemporaryDirectory(prefix="ion-kit-") as directory:
        place = Path(directory)
        (place / "test_installed.py").write_text(RUN)
        (place / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        )
        (place / "asked.json").write_text(json.dumps({**asked, "base": str(Path.cwd())}, default=str))
        reading, writing = os.pipe()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_asyncio.plugin",
        ]
        with (place / "said").open("wb") as output:
            running = subprocess.Popen(
                [*command, "-p", "ion_core.testing.installed", "test_installed.py"],
                cwd=place,
                env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ION_CORE_KIT_PIPE": str(writing)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
            )
        os.close(writing)
        rules: dict[tuple[str, str], dict[str, Any]] = {}
        away = ""
        with open(reading, encoding="utf-8") as told:  # noqa: PTH123
            for line in told:
                said = json.loads(line)
                if "away" in said:
                    away = said["away"].rstrip(".")
                else:
                    _add(rules, said)
        code = running.wait()
        if away:
            raise TransientError(f"{away}. Not all rules were tested.")
        if code not in (0, 1) or not rules:
            words = (place / "said").read_text(errors="replace").strip()
            exits = [line.partition("Exit: ")[2].strip("! ") for line in words.splitlines() if "Exit: " in line]
            raise UsageError(exits[0]) if exits else IonError(f"the kit could not be run. pytest said: {words[-2000:]}")
    yield from rules.values()


def _add(rules: dict[tuple[str, str], dict[str, Any]], said: dict[str, Any]) -> None:
    """An outcome is told without its page by the kit of the contract."""
    if "sentence" in said:
        rules[said["page"], said["rule"]] = said
        return
    page = said["page"] or next(page for page, rule in rules if rule == said["rule"] and page != "provider")
    rule = rules[page, said["rule"]]
    if rule["outcome"] != "broken":
        rule |= {"outcome": said["outcome"], "why": said["why"]}


def _tell(found: Sequence[Mapping[str, Any]], *, verbose: bool) -> None:
    marks = {"kept": mark("✓", "+"), "broken": mark("✗", "x"), "not tested": "-"}
    for it in found:
        if it["outcome"] == "broken" or verbose:
            sentence = it["sentence"] or f"a rule of docs/contracts/{it['page']}.md"
            out(plain(f"{marks[it['outcome']]} {it['rule']}: {sentence}"))
            for line in str(it["why"]).splitlines()[:20]:
                out(plain(f"    {line}"))
    untested = [it for it in found if it["outcome"] == "not tested"]
    kept = sum(it["outcome"] == "kept" for it in found)
    said = f"{kept} of {len(found)} rules are kept, {len(found) - kept - len(untested)} broken"
    if untested:
        said += ", not tested: " + ", ".join(f"{it['rule']} ({it['why'] or 'not run'})" for it in untested)
    out(plain(said))
