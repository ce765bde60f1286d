"""The rooms of the house, and who may enter whom (``docs/``: the picture): held by reading the imports.

What stands under ``if TYPE_CHECKING`` is for annotations only and enters nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ion_core.handler

ROOT = Path(__file__).parent.parent
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 50
LONGER_FOR_A_REASON: dict[str, str] = {}

_CONTRACT = {"errors", "strict_json", "events", "contracts"}
_JOB = _CONTRACT | {"jobs"}
_HANDLER = _JOB | {"commits", "crash", "dataplane"}
_ALL = _HANDLER | {"handler", "dispatcher", "hookspecs", "plugins", "config", "state", "intake", "retention", "app"}
_ALL |= {"live", "development", "rehearsal", "cli"}
_ALL |= {"module_library", "scaffold", "cases"}
MAY_ENTER: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "strict_json": {"errors"},
    "events": {"errors", "strict_json"},
    "contracts": {"errors", "events", "strict_json"},
    "jobs": _CONTRACT,
    "crash": {"errors"},
    "commits": _JOB,
    "dataplane": _JOB | {"commits", "crash"},
    "hookspecs": _JOB,
    "plugins": _JOB | {"hookspecs"},
    "handler": _HANDLER,
    "dispatcher": _HANDLER | {"handler"},
    "development": _HANDLER | {"handler"},
    "intake": _HANDLER - {"crash"},
    "retention": _HANDLER - {"crash"},
    "state": {"errors"},
    "live": set(),
    "rehearsal": _HANDLER | {"handler", "dispatcher", "state"},
    "cases": _HANDLER | {"config", "rehearsal"},
    "module_library": set(),
    "scaffold": _JOB | {"config", "module_library"},
    "config": _JOB | {"hookspecs", "plugins"},
    "builtin": _JOB | {"hookspecs"},
    "testing": _JOB,
    "app": _ALL - {"cli", "development"},
    "cli": _ALL,
    "__main__": {"cli"},
}
PLUGINS_MAY_ENTER = {"contracts", "errors", "events", "hookspecs"}
THEIR_TESTS_MAY_ENTER = PLUGINS_MAY_ENTER | {"testing", "plugins"}
BACKENDS = {"aio_pika", "aiormq", "podman", "fsspec", "s3fs", "ion_rabbitmq", "ion_podman", "ion_fsspec_storage"}
HEAVY = {"pydantic", "ruamel", "sqlite3", "aiohttp", "ion_core.app", "ion_core.config", "ion_core.builtin", *BACKENDS}


def imports(tree: ast.AST) -> Iterator[str]:
    """The full name of everything imported anywhere, but for annotations."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def problems(path: str, source: str) -> list[str]:
    """What is wrong with the file, ``path`` being relative to the root."""
    tree, parts = ast.parse(source), path.removesuffix(".py").split("/")
    found = [f"imports {name}" for name in imports(tree) if _is_forbidden(parts, name)]
    lines = source.count("\n")
    if lines > MOST_LINES and path not in LONGER_FOR_A_REASON:
        found.append(f"has {lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION and f"{path}:{node.name}" not in LONGER_FOR_A_REASON:
                found.append(f"{node.name} has {lines} lines")
    return found


def _is_forbidden(importer: list[str], name: str) -> bool:
    top, *rest = name.split(".")
    if top != "ion_core":
        return top == "" or (importer[0] == "ion_core" and top in BACKENDS)
    if not rest or rest == ["__version__"]:
        return False
    if importer[0] == "plugins":
        return rest[0] not in (THEIR_TESTS_MAY_ENTER if "tests" in importer else PLUGINS_MAY_ENTER)
    room = importer[1]
    if room == "dispatcher" and rest[0] == "handler":
        return rest[1] not in ion_core.handler.__all__
    return rest[0] not in {room, *MAY_ENTER[room]}


def files(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


@pytest.mark.parametrize("path", files("ion_core/**/*.py", "plugins/*/ion_*/**/*.py", "plugins/*/tests/**/*.py"))
def test_everybody_stays_in_the_rooms_they_may_enter(path: str) -> None:
    assert problems(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_exception_is_still_needed() -> None:
    for name in LONGER_FOR_A_REASON:
        assert (ROOT / name.split(":")[0]).exists()


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("ion_core/errors.py", "import ion_core.events", "imports ion_core.events"),
        ("ion_core/events.py", "from ion_core import jobs", "imports ion_core.jobs"),
        ("ion_core/contracts/x.py", "from ion_core.jobs import Job", "imports ion_core.jobs.Job"),
        ("ion_core/jobs.py", "def f():\n    from ion_core.handler import Handler", "imports ion_core.handler.Handler"),
        (
            "ion_core/handler/x.py",
            "from ion_core.dispatcher import Dispatcher",
            "imports ion_core.dispatcher.Dispatcher",
        ),
        ("ion_core/handler/x.py", "from ion_core.config import Config", "imports ion_core.config.Config"),
        ("ion_core/dispatcher/x.py", "from ion_core.plugins import Registry", "imports ion_core.plugins.Registry"),
        ("ion_core/dispatcher/x.py", "import ion_core.handler.output", "imports ion_core.handler.output"),
        (
            "ion_core/dispatcher/x.py",
            "from ion_core.handler.output import read_output",
            "imports ion_core.handler.output",
        ),
        ("ion_core/handler/x.py", "import ion_core.development.layout", "imports ion_core.development.layout"),
        ("ion_core/development/x.py", "from ion_core.app import App", "imports ion_core.app.App"),
        ("ion_core/development/x.py", "import ion_core.builtin.sqlite", "imports ion_core.builtin.sqlite"),
        ("ion_core/builtin/x.py", "from ion_core.dataplane import DataPlane", "imports ion_core.dataplane"),
        ("ion_core/testing/x.py", "from ion_core.builtin.sqlite import Sqlite", "imports ion_core.builtin"),
        ("ion_core/app.py", "import ion_core.cli", "imports ion_core.cli"),
        ("ion_core/builtin/x.py", "import aio_pika", "imports aio_pika"),
        ("ion_core/app.py", "from fsspec.implementations import local", "imports fsspec.implementations.local"),
        ("ion_core/cli/x.py", "try:\n    import podman\nexcept ImportError:\n    pass", "imports podman"),
        ("ion_core/app.py", "from .state import State", "imports .state.State"),
        ("plugins/ion_podman/ion_podman/x.py", "from ion_core.jobs import Module", "imports ion_core.jobs.Module"),
        ("plugins/ion_podman/ion_podman/x.py", "from ion_core.testing import x", "imports ion_core.testing.x"),
        ("plugins/ion_podman/tests/test_x.py", "from ion_core.builtin import x", "imports ion_core.builtin.x"),
        ("ion_core/app.py", "x = 1\n" * 301, "has 301 lines"),
        ("ion_core/app.py", "def f():\n" + "    x = 1\n" * 50, "f has 51 lines"),
        ("ion_core/app.py", "class A:\n    async def f(self):\n" + "        x = 1\n" * 50, "f has 51 lines"),
    ],
)
def test_bad_files_are_seen(path: str, source: str, said: str) -> None:
    [problem] = problems(path, source)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ion_core/contracts/x.py", "if TYPE_CHECKING:\n    from ion_core.jobs import Job"),
        ("ion_core/dispatcher/x.py", "from ion_core.handler import Handler"),
        ("plugins/ion_podman/ion_podman/x.py", "import podman\nfrom ion_core.contracts.runtime import ContainerSpec"),
        ("plugins/ion_podman/tests/test_x.py", "from ion_core.testing import x"),
        ("ion_core/app.py", "def f():\n" + "    x = 1\n" * 49),
    ],
)
def test_good_files_are_left_alone(path: str, source: str) -> None:
    assert problems(path, source) == []


def test_no_module_of_the_command_line_imports_anything_heavy_at_its_top() -> None:
    modules = [path.removesuffix(".py").replace("/", ".") for path in files("ion_core/cli/*.py")]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


def test_the_embedded_providers_are_registered_without_importing_one() -> None:
    code = "import sys, ion_core.builtin.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("ion_core.builtin.")}
    assert loaded <= {"ion_core.builtin.plugin", "ion_core.builtin.settings"}
