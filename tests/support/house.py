"""The structure of the tree, read from its imports and definitions, and held against ``docs/architecture.md``."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import ion_core.handler

ROOT = Path(__file__).parents[2]
PAGE = "docs/architecture.md"
FACE = "face"

PLUGINS_MAY_ENTER = {
    "containers",
    "contracts",
    "drawing",
    "errors",
    "events",
    "hookspecs",
    "jobs",
    "listening",
    "strict_json",
    "words",
}
THEIR_TESTS_MAY_ENTER = PLUGINS_MAY_ENTER | {"testing", "registry"}
PROVIDERS = {"broker", "runtime", "executor", "blobs", "documents", "schedule", "console"}
"""Files of which a provider's package has at least one."""

OPENS_EMBEDDED = ("ion_core/embedded/plugin.py", "ion_core/embedded/plain.py")
"""What may enter the packages of embedded providers."""


def _observes_only(plugin: str) -> bool:
    """Whether that is the ``plugin.py`` of one that provides nothing, and so has neither settings nor a provider."""
    return re.search(r"^def ion_(job|event)_", plugin, re.MULTILINE) is not None and "Provider" not in plugin


@dataclass(frozen=True)
class House:
    """``sources`` by path from the root, ``page`` the text of the page about them."""

    sources: Mapping[str, str]
    page: str

    @classmethod
    def as_it_stands(cls) -> House:
        patterns = ("ion_core/**/*.py", "plugins/**/*.py", "bench/**/*.py")
        paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
        found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
        # Programs of modules, which import what lies beside them.
        kept = {path: source for path, source in found.items() if not path.startswith("ion_core/scaffold/templates/")}
        return cls(kept, (ROOT / PAGE).read_text(encoding="utf-8"))

    def problems(self) -> list[str]:
        """Everything that is not as the page says, a sentence each."""
        return [
            *self._circles(),
            *self._rooms(),
            *self._inner_rooms("cli"),
            *self._inner_rooms("embedded"),
            *self._plugins(),
            *self._foreign(),
            *self._places(),
            *self._named(),
        ]

    def _circles(self) -> Iterator[str]:
        for circle in circles(self._entered):
            yield f"a circle: {' → '.join([*circle, circle[0]])}"

    @cached_property
    def _entered(self) -> Mapping[str, set[str]]:
        """By file, the files that it imports, whatever for."""
        return {path: self._entered_by(path) for path in self.sources}

    def _entered_by(self, path: str) -> set[str]:
        names = imports(self.sources[path])
        if _is_test(path):  # these also import each other by their bare names
            beside = path.rpartition("/")[0].replace("/", ".")
            names |= {f"{beside}.{name}" for name in names}
        files = {self._file_of(name) for name in names}
        return {file for file in files if file is not None and file != path}

    def _file_of(self, name: str) -> str | None:
        """The file in which the imported name is: of ``a.b.c`` that is a/b/c.py, a/b.py, or the face of a package."""
        while name and name not in self._files:
            name = name.rpartition(".")[0]
        return self._files.get(name)

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """Paths by the name under which they are imported."""
        inside = ((path if _is_test(path) else re.sub(r"^plugins/[^/]+/", "", path), path) for path in self.sources)
        return {re.sub(r"(/__init__)?\.py$", "", name).replace("/", "."): path for name, path in inside}

    def _rooms(self) -> Iterator[str]:
        rows = [row for row in table(self.page, "## Rooms") if len(row) == 4]
        enters = {name: words(entered) for name, _, entered, _ in rows}
        doors = {name: words(named) for name, _, _, named in rows}
        actual: dict[str, set[str]] = {name: set() for name in enters}
        used: dict[str, set[str]] = {name: set() for name in enters}
        for path in self.sources:
            if _is_test(path) or path.startswith("bench/"):
                continue
            room = _room(path)
            if room == "__init__" and self._entered[path]:
                yield f"{path}: enters a room, and so would everybody who imports anything"
            if room not in (*enters, None, "__init__"):
                yield f"{path}: is in no room of {PAGE}"
                continue
            for entered in self._entered[path]:
                target = _room(entered)
                if target in enters and target != room:
                    if room in actual:
                        actual[room].add(target)
                    used[target] |= {_door(entered)} - {""}
        yield from _compared("ion_core/", enters, actual)
        for name, found in used.items():
            for door in sorted(found - doors[name]):
                yield f"ion_core/{name}: is entered by {door}, which is no door of it in {PAGE}"
            for door in sorted(doors[name] - found):
                yield f"ion_core/{name}: nobody enters by {door}, a door of it in {PAGE}"

    def _inner_rooms(self, room: str) -> Iterator[str]:
        rows = table(self.page, f"### Inside `{room}`")
        enters = {name: words(entered) for name, _, entered in rows}
        actual: dict[str, set[str]] = {name: set() for name in enters}
        top = f"ion_core/{room}/"
        for path in self.sources:
            if not path.startswith(top):
                continue
            inner = _inner(path)
            if inner and inner not in enters:
                yield f"{path}: is in no room of {PAGE}"
                continue
            targets = {_inner(file) for file in self._entered[path] if file.startswith(top)} - {inner, ""}
            if inner:
                actual[inner] |= targets
            elif targets and path not in OPENS_EMBEDDED:
                yield f"{path}: what others share enters {', '.join(sorted(targets))}, which enters it"
        yield from _compared(top, enters, actual)

    def _plugins(self) -> Iterator[str]:
        packages: set[str] = set()
        for path in self.sources:
            if path.startswith("plugins/") and not _is_test(path):
                if found := re.match(r"(plugins/(ion_\w+)/\2)/", path):
                    packages.add(found[1])
                else:
                    yield f"{path}: belongs into plugins/<distribution>/<package of that name>/, or its tests/"
        packages -= {it for it in packages if _observes_only(self.sources.get(f"{it}/plugin.py", ""))}
        for package in sorted(packages | {"ion_core/embedded"}):
            for needed in ("plugin", "settings"):
                if f"{package}/{needed}.py" not in self.sources:
                    yield f"{package}: has no {needed}.py"
        rows = table(self.page, "### Inside `embedded`")
        shared = {name for _, _, entered in rows for name in words(entered)}
        inner = {f"ion_core/embedded/{name}" for name, *_ in rows if name not in shared}
        for package in sorted(packages | inner):
            if not any(f"{package}/{name}.py" in self.sources for name in PROVIDERS):
                yield f"{package}: has none of {', '.join(f'{name}.py' for name in sorted(PROVIDERS))}"

    def _foreign(self) -> Iterator[str]:
        """Who enters from outside, and what the core may not know."""
        for path, source in self.sources.items():
            may = THEIR_TESTS_MAY_ENTER if _is_test(path) else PLUGINS_MAY_ENTER
            for name in imports(source):
                top, *rest = name.split(".")
                if top == "":
                    yield f"{path}: imports {name}, which is relative"
                elif path.startswith("ion_core/") and top not in self._known_to_the_core:
                    yield f"{path}: imports {name}, which ion-core does not depend on"
                elif path.startswith("plugins/") and top == "ion_core" and rest and rest[0] not in may:
                    yield f"{path}: imports {name}, which is not for plugins"
                elif self._is_of_another(path, top):
                    yield f"{path}: imports {name}, which is not its own"
                elif path.startswith("ion_core/dispatcher/") and rest and _inside_the_handler(rest):
                    yield f"{path}: imports {name}, which is inside the handler"

    def _is_of_another(self, path: str, top: str) -> bool:
        """Whether it is another plugin's, or what only developers have."""
        if path.startswith("plugins/") and not _is_test(path):
            return top in {*self._names_of_plugins, "bench", "tests", "examples"} - {path.split("/")[1]}
        return path.startswith("bench/") and top in ("tests", "examples")

    @cached_property
    def _names_of_plugins(self) -> set[str]:
        return {path.split("/")[1] for path in self.sources if path.startswith("plugins/")}

    @cached_property
    def _known_to_the_core(self) -> set[str]:
        """The standard library, and what ion-core depends on by its own ``pyproject.toml``, as it is imported."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        needed = [*project["dependencies"], *project["optional-dependencies"]["testing"]]
        names = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in needed}
        return {"ion_core", *sys.stdlib_module_names, *names}

    def _places(self) -> Iterator[str]:
        """What a file has in it says where it belongs."""
        for path, source in self.sources.items():
            marks = decorators(source)
            if "hookspec" in marks and path != "ion_core/hookspecs.py":
                yield f"{path}: has a hook, which belongs into ion_core/hookspecs.py"
            if path.startswith("bench/") or _is_test(path):
                continue
            if "hookimpl" in marks and not path.endswith("/plugin.py"):
                yield f"{path}: has a hook's implementation, which belongs into plugin.py"
            if path.startswith("ion_core/") and not path.startswith("ion_core/testing/") and "def test_" in source:
                yield f"{path}: has a test, which belongs into a kit of ion_core/testing/"
            is_command = not marks.isdisjoint({"command", "group"})
            may_have_one = path.startswith("plugins/") or re.match(r"ion_core/cli/(\w+/|root\.py)", path)
            if is_command and not may_have_one:
                yield f"{path}: has a command, which belongs into a package of its family in ion_core/cli/"
            listed = path.removeprefix("ion_core/cli/").removesuffix(".py").replace("/", ".")
            has_one = path.startswith("ion_core/cli/") and "command" in definitions(source)
            if has_one and f'"{listed}"' not in self.sources["ion_core/cli/root.py"]:
                yield f"{path}: has a command that ion_core/cli/root.py does not list"

    def _named(self) -> Iterator[str]:
        """Files and definitions that the page names are there."""
        for path, name in re.findall(r"`((?:ion_core|plugins)/[\w/]+\.py)`(?:: `([\w.]+)`)?", self.page):
            if path not in self.sources:
                yield f"{PAGE}: names {path}, which is not there"
            elif name and name not in definitions(self.sources[path]):
                yield f"{PAGE}: names {name}, which is not in {path}"


def _compared(where: str, declared: Mapping[str, set[str]], actual: Mapping[str, set[str]]) -> Iterator[str]:
    above: set[str] = set()
    for name, entered in declared.items():
        for other in sorted(entered - above):
            yield f"{PAGE}: {where}{name} enters {other}, which does not stand above it"
        above.add(name)
    for name, entered in actual.items():
        for other in sorted(entered - declared[name]):
            yield f"{where}{name}: enters {other}, which it may not by {PAGE}"
        for other in sorted(declared[name] - entered):
            yield f"{where}{name}: does not enter {other}, as {PAGE} says"


def _is_test(path: str) -> bool:
    """Whether a plugin's test."""
    return re.match(r"plugins/[^/]+/tests/", path) is not None


def _inside_the_handler(name: Sequence[str]) -> bool:
    return name[0] == "handler" and bool(name[1:]) and name[1] not in ion_core.handler.__all__


def _room(path: str) -> str | None:
    """The room of the core that a file is in or is; None for a plugin's."""
    top, _, rest = path.partition("/")
    return rest.split("/")[0].removesuffix(".py") if top == "ion_core" else None


def _inner(path: str) -> str:
    """The inner room that a file of a wing is in; '' for what stands at its top."""
    parts = path.split("/")
    return parts[2] if len(parts) > 3 else ""


def _door(path: str) -> str:
    """By what a package is entered that way; '' where the room is a single file."""
    parts = path.split("/")
    if len(parts) < 3:
        return ""
    return FACE if parts[2] == "__init__.py" else parts[2].removesuffix(".py")


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its own head. Raises ValueError when there is none."""
    lines = iter(page.partition(f"\n{heading}\n")[2].splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip().strip("`") for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    if len(rows) < 3:
        raise ValueError(f"{PAGE}: no table below {heading!r}")
    return rows[2:]


def words(cell: str) -> set[str]:
    return {word.strip() for word in cell.split(",")} - {"", "–"}


@cache
def imports(source: str) -> frozenset[str]:
    """The full name of everything that is imported, wherever and whatever for, and of what is reached through that.

    ``from ion_core import handler`` and then ``handler.committer`` is ``ion_core.handler.committer``.
    """
    nodes = list(ast.walk(ast.parse(source)))
    bound: dict[str, str] = {}
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {it.name for it in node.names}
            bound |= {it.asname or _top(it.name): it.name if it.asname else _top(it.name) for it in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {it.asname or it.name: f"{'.' * node.level}{node.module or ''}.{it.name}" for it in node.names}
            found |= set(names.values())
            bound |= names
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value
            if ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__") and isinstance(name, str):
                found.add(name)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            root, *inside = ast.unparse(node).split(".")
            if _top(bound.get(root, "")) == "ion_core":
                found.add(".".join([bound[root], *inside]))
    return frozenset(found)


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def decorators(source: str) -> frozenset[str]:
    """The last words of what functions are marked with: ``command`` of ``@click.command("foo")``."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    marks = (mark.func if isinstance(mark, ast.Call) else mark for node in functions for mark in node.decorator_list)
    return frozenset(ast.unparse(mark).rpartition(".")[2] for mark in marks)


@cache
def definitions(source: str) -> frozenset[str]:
    """Classes, functions and constants at the top of a file, and the functions of classes as ``Class.function``."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = (it for it in node.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{it.name}" for it in inside}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def circles(arrows: Mapping[str, set[str]]) -> Iterator[Sequence[str]]:
    """Circles, each as the nodes on it in order: one at least, if there are any, not all that go through its nodes."""
    settled: set[str] = set()  # from there no circle is reached that was not told
    for start in sorted(arrows):
        way: list[str] = []
        ahead: list[Iterator[str]] = []
        if start not in settled:
            way, ahead = [start], [iter(sorted(arrows[start]))]
        while way:
            node = next((node for node in ahead[-1] if node not in settled), None)
            if node is None:
                settled.add(way.pop())
                ahead.pop()
            elif node in way:
                yield way[way.index(node) :]
                settled.update(way)  # one circle is enough to be mended before the next is looked for
                break
            else:
                way.append(node)
                ahead.append(iter(sorted(arrows.get(node, ()))))
