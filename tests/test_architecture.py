"""The rooms of the house, their doors, and who may enter whom: ``docs/architecture.md``, held against the code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.house import PAGE, House

HOUSE = House.as_it_stands()
BACKENDS = {
    "aio_pika",
    "aiormq",
    "podman",
    "fsspec",
    "s3fs",
    "ion_rabbitmq",
    "ion_podman",
    "ion_oci",
    "ion_fsspec_storage",
}
HEAVY = {"pydantic", "ruamel", "sqlite3", "aiohttp", "ion_core.app", "ion_core.config", "ion_core.embedded", *BACKENDS}


def test_the_house_is_as_the_page_says() -> None:
    assert HOUSE.problems() == []


TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
ADDED_TO_A_FILE = [
    # A circle, of whatever kind of import
    ("ion_core/embedded/sqlite/queue.py", "import ion_core.embedded.sqlite.broker", "a circle: "),
    (
        "ion_core/embedded/sqlite/delivery.py",
        f"{TYPES}from ion_core.embedded.sqlite.broker import SqliteBroker",
        "a circle: ion_core/embedded/sqlite/broker.py → ion_core/embedded/sqlite/delivery.py",
    ),
    (
        "plugins/ion_rabbitmq/ion_rabbitmq/holding.py",
        f"{TYPES}from ion_rabbitmq.settings import RabbitSettings",
        "a circle: plugins/ion_rabbitmq/ion_rabbitmq/holding.py → plugins/ion_rabbitmq/ion_rabbitmq/settings.py",
    ),
    (
        "ion_core/dispatcher/slot.py",
        "def f():\n    from ion_core.dispatcher import dispatcher",
        "a circle: ion_core/dispatcher/dispatcher.py",
    ),
    ("bench/measure.py", "from bench.rows.help import x", "a circle: bench/measure.py → bench/rows/help.py"),
    # An arrow that goes up
    ("ion_core/errors.py", "import ion_core.strict_json", "ion_core/errors: enters strict_json"),
    (
        "ion_core/contracts/observer.py",
        f"{TYPES}from ion_core.commits import Commit",
        "ion_core/contracts: enters commits",
    ),
    ("ion_core/jobs.py", "from ion_core.contracts.runtime import Resources", "ion_core/jobs: enters contracts"),
    (
        "ion_core/handler/handler.py",
        "from ion_core.dispatcher import Dispatcher",
        "ion_core/handler: enters dispatcher",
    ),
    ("ion_core/handler/handler.py", "from ion_core.config import Config", "ion_core/handler: enters config"),
    ("ion_core/dispatcher/hold.py", "from ion_core.registry import Registry", "ion_core/dispatcher: enters registry"),
    ("ion_core/development/steps.py", "from ion_core.app import App", "ion_core/development: enters app"),
    ("ion_core/testing/kit.py", "import ion_core.embedded.plugin", "ion_core/testing: enters embedded"),
    ("ion_core/app/opening.py", "def f():\n    import ion_core.cli", "ion_core/app: enters cli"),
    # An inner room that is not for the other
    ("ion_core/cli/event/dlq.py", "from ion_core.cli.flow.logs import logs_of", "ion_core/cli/event: enters flow"),
    ("ion_core/cli/options.py", "from ion_core.cli.event import given", "ion_core/cli/options.py: what others share"),
    ("ion_core/embedded/local/blobs.py", "import ion_core.embedded.sqlite.database", "ion_core/embedded/local: enters"),
    # Past the doors
    (
        "ion_core/dispatcher/hold.py",
        "import ion_core.handler.output",
        "ion_core/dispatcher/hold.py: imports ion_core.handler.output, which is inside",
    ),
    ("ion_core/cli/session.py", "from ion_core.registry.verify import load", "ion_core/registry: is entered by verify"),
    ("ion_core/app/serving.py", "from .opening import App", "ion_core/app/serving.py: imports .opening.App, which is"),
    (
        "ion_core/dispatcher/hold.py",
        "from ion_core import handler\nx = handler.committer.make_record",
        "ion_core/dispatcher/hold.py: imports ion_core.handler.committer.make_record, which is inside",
    ),
    ("ion_core/app/services.py", "import ion_core\nx = ion_core.cli.main", "ion_core/app: enters cli"),
    ("ion_core/contracts/service.py", "import_module('ion_core.app')", "ion_core/contracts: enters app"),
    ("ion_core/__init__.py", "from ion_core.dispatcher import Dispatcher", "ion_core/__init__.py: enters a room"),
    # What is for some only
    (
        "ion_core/dispatcher/hold.py",
        "import bench.measure",
        "ion_core/dispatcher/hold.py: imports bench.measure, which",
    ),
    ("bench/measure.py", "from tests.support import worlds", "bench/measure.py: imports tests.support.worlds, which"),
    (
        "plugins/ion_rabbitmq/ion_rabbitmq/tls.py",
        "import ion_podman.spec",
        "plugins/ion_rabbitmq/ion_rabbitmq/tls.py: imports ion_podman.spec, which is not its own",
    ),
    (
        "plugins/ion_console/tests/consoles.py",
        "from plugins.ion_console.tests import test_compose",
        "a circle: plugins/ion_console/tests/consoles.py",
    ),
    (
        "plugins/ion_fsspec_storage/tests/stored_files.py",
        "from test_files import x",
        "a circle: plugins/ion_fsspec_storage/tests/stored_files.py",
    ),
    ("ion_core/embedded/plugin.py", "import aio_pika", "ion_core/embedded/plugin.py: imports aio_pika, which ion-core"),
    (
        "ion_core/cli/options.py",
        "try:\n    from fsspec.implementations import local\nexcept ImportError:\n    pass",
        "ion_core/cli/options.py: imports fsspec.implementations.local, which ion-core",
    ),
    (
        "plugins/ion_podman/ion_podman/spec.py",
        "from ion_core.modules import Module",
        "plugins/ion_podman/ion_podman/spec.py: imports ion_core.modules.Module, which is not for plugins",
    ),
    (
        "plugins/ion_podman/ion_podman/spec.py",
        "from ion_core.testing import kit",
        "plugins/ion_podman/ion_podman/spec.py: imports ion_core.testing.kit, which is not for plugins",
    ),
    (
        "plugins/ion_podman/tests/conftest.py",
        "from ion_core.embedded import plugin",
        "plugins/ion_podman/tests/conftest.py: imports ion_core.embedded.plugin, which is not for plugins",
    ),
    # What belongs elsewhere
    (
        "ion_core/app/opening.py",
        "@command.command('foo')\ndef foo() -> None: ...",
        "ion_core/app/opening.py: has a command, which belongs",
    ),
    (
        "ion_core/embedded/settings.py",
        "@hookspecs.hookimpl\ndef ion_services(): ...",
        "ion_core/embedded/settings.py: has a hook's implementation",
    ),
    (
        "ion_core/contracts/service.py",
        "@hookspec(firstresult=True)\ndef ion_foo(): ...",
        "ion_core/contracts/service.py: has a hook, which",
    ),
    ("ion_core/contracts/service.py", "def test_it(): ...", "ion_core/contracts/service.py: has a test, which"),
]


A_NEW_FILE = [
    ("ion_core/helpers.py", "", "ion_core/helpers.py: is in no room"),
    ("ion_core/cli/more/foo.py", "", "ion_core/cli/more/foo.py: is in no room"),
    ("ion_core/embedded/redis/broker.py", "", "ion_core/embedded/redis/broker.py: is in no room"),
    ("ion_core/dispatcher/tests/fake.py", "import ion_core.cli", "ion_core/dispatcher: enters cli"),
    ("plugins/ion_podman/more.py", "", "plugins/ion_podman/more.py: belongs into"),
    ("plugins/ion-kafka/ion_kafka/plugin.py", "", "plugins/ion-kafka/ion_kafka/plugin.py: belongs into"),
    ("plugins/ion_kafka/ion_kafka/plugin.py", "", "plugins/ion_kafka/ion_kafka: has no settings.py"),
    (
        "plugins/ion_kafka/ion_kafka/plugin.py",
        "from ion_core.contracts.provider import Provider\ndef ion_job_started(): ...",
        "plugins/ion_kafka/ion_kafka: has no settings.py",
    ),
    (
        "ion_core/cli/event/foo.py",
        "@click.command('foo')\ndef command(): ...",
        "ion_core/cli/event/foo.py: has a command that",
    ),
    ("ion_core/cli/foo.py", "@click.command('foo')\ndef command() -> None: ...", "ion_core/cli/foo.py: has a command"),
]


def with_(path: str, source: str) -> House:
    return House({**HOUSE.sources, path: source}, HOUSE.page)


@pytest.mark.parametrize(("path", "added", "said"), ADDED_TO_A_FILE)
def test_what_is_out_of_place_is_seen(path: str, added: str, said: str) -> None:
    problems = with_(path, f"{HOUSE.sources[path]}\n{added}\n").problems()
    assert any(problem.startswith(said) for problem in problems), problems


@pytest.mark.parametrize(("path", "source", "said"), A_NEW_FILE)
def test_a_file_in_the_wrong_room_is_seen(path: str, source: str, said: str) -> None:
    assert path not in HOUSE.sources
    problems = with_(path, source).problems()
    assert any(problem.startswith(said) for problem in problems), problems


@pytest.mark.parametrize(
    ("path", "added"),
    [
        ("ion_core/contracts/observer.py", "from ion_core.jobs import Job"),
        ("ion_core/dispatcher/hold.py", "from ion_core.handler import Handler"),
        ("ion_core/cli/module/run.py", "from ion_core.cli.flow.logs import logs_of"),
        (
            "plugins/ion_podman/ion_podman/spec.py",
            "import podman\nfrom ion_core.contracts.runtime import ContainerSpec",
        ),
        ("plugins/ion_podman/tests/conftest.py", "from ion_core.testing import kit"),
        ("ion_core/cli/event/foo.py", "@click.command('foo')\ndef foo() -> None: ..."),
    ],
)
def test_what_is_in_its_place_is_left_alone(path: str, added: str) -> None:
    assert with_(path, f"{HOUSE.sources.get(path, '')}\n{added}\n").problems() == []


@pytest.mark.parametrize(
    ("was", "is_", "said"),
    [
        (
            "| contracts | |\n| `hookspecs`",
            "| – | |\n| `hookspecs`",
            "ion_core/modules: enters contracts, which it may not",
        ),
        ("| – | |\n| `events`", "| errors | |\n| `events`", "ion_core/live: does not enter errors"),
        (
            "| – | |\n| `events`",
            "| events | |\n| `events`",
            f"{PAGE}: ion_core/live enters events, which does not stand",
        ),
        ("| layout, steps |", "| layout, steps, names |", "ion_core/development: nobody enters by names"),
        ("| layout, steps |", "| layout |", "ion_core/development: is entered by steps"),
        ("| `live` |", "| `alive` |", "ion_core/live.py: is in no room"),
        ("`JobRunner._decide`", "`JobRunner._judge`", f"{PAGE}: names JobRunner._judge, which is not in"),
        ("`ion_core/intake.py`", "`ion_core/in.py`", f"{PAGE}: names ion_core/in.py, which is not there"),
    ],
)
def test_a_page_that_is_wrong_is_seen(was: str, is_: str, said: str) -> None:
    assert was in HOUSE.page
    problems = House(HOUSE.sources, HOUSE.page.replace(was, is_)).problems()
    assert any(problem.startswith(said) for problem in problems), problems


@pytest.mark.parametrize("gone", ["plugins/ion_podman/ion_podman/runtime.py", "ion_core/embedded/local/blobs.py"])
def test_a_provider_without_its_file_is_seen(gone: str) -> None:
    package, _, name = gone.rpartition("/")
    without = {path: source for path, source in HOUSE.sources.items() if path != gone}
    assert any(it.startswith(f"{package}: has none of ") for it in House(without, HOUSE.page).problems()), name


def test_no_module_of_the_command_line_imports_anything_heavy_at_its_top() -> None:
    paths = [path for path in HOUSE.sources if path.startswith("ion_core/cli/")]
    modules = [path.removesuffix(".py").replace("/", ".") for path in paths]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_the_embedded_providers_are_registered_without_importing_one() -> None:
    code = "import sys, ion_core.embedded.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("ion_core.embedded.")}
    assert loaded <= {"ion_core.embedded.plugin", "ion_core.embedded.settings"}
