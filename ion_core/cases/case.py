"""A recorded case as it lies on disk, read with everything that is wrong said at once.

cases/<module>/<case>/case.yaml          the event's type, and how outputs are compared
cases/<module>/<case>/in/data/…          input files
cases/<module>/<case>/in/eventmeta.json  input pairs, without those that Ion adds for files
cases/<module>/<case>/expected/data/…    output files
cases/<module>/<case>/expected/insights.json, expected/events.json
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ion_core import strict_json
from ion_core.cases.comparing import Rule
from ion_core.cases.settings import CaseSettings
from ion_core.config.messages import nearest
from ion_core.config.reading import read_regular, reason
from ion_core.config.sections import validated
from ion_core.config.tree import Problems, parse
from ion_core.contracts.storage import check_key
from ion_core.errors import ConfigError, InvalidEvent, InvalidKey
from ion_core.events import Pairs, parse_pairs, type_problem
from ion_core.modules import Module

DIRECTORY = "cases"
"""Beside the configuration."""
FILE = "case.yaml"
_MOST = 16 * 1024**2
"""Bytes of one JSON file of a case."""


@dataclass(frozen=True, kw_only=True)
class ExpectedEvent:
    """An event that the module must emit: the names of its ``files``, and what is passed on."""

    type: str
    files: tuple[str, ...] = ()
    data: Pairs = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """``inputs`` and ``files`` are paths by name: what is given, what is expected. ``path`` is the case's directory."""

    module: str
    name: str
    path: Path
    event_type: str
    inputs: Mapping[str, Path] = field(default_factory=dict)
    pairs: Pairs = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    insights: Pairs = ()
    events: tuple[ExpectedEvent, ...] = ()
    rules: tuple[Rule, ...] = ()
    gathered: Mapping[str, Any] | None = None
    """What a gatherer is given, as in ``in/gathered.json``."""

    @property
    def id(self) -> str:
        return f"{self.module}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Cases:
    """``ownerless`` says of each directory of cases of no module, such as one that was removed, what would do."""

    cases: list[Case]
    ownerless: list[str]


def case_names(directory: Path, modules: Container[str]) -> list[str]:
    """``MODULE/CASE`` of all that lie beside the configuration in ``directory``, sorted. They are not read."""
    base = directory / DIRECTORY
    return [f"{of.name}/{it.name}" for of in _directories(base) if of.name in modules for it in _directories(of)]


def cases_below(base: Path, modules: Mapping[str, Module], wanted: Iterable[str] = ()) -> Cases:
    """The cases in ``base``, sorted; of ``wanted`` modules (``detect``) or cases (``detect/first``) if there are any.

    Raises ConfigError with everything that is wrong with them, each with its path: also what is wanted and not there,
    or of a module that ``modules`` does not have.
    """
    names, problems = list(wanted), list[str]()
    found, ownerless = list[Case](), list[str]()
    seen: set[str] = set()
    for directory in _directories(base):
        here = [path for path in _directories(directory) if not names or _is_wanted(path, names)]
        seen |= {directory.name, *(f"{directory.name}/{path.name}" for path in here)} if here else set()
        if here and directory.name not in modules:
            known = f"{nearest(directory.name, modules)} Modules: {', '.join(modules) or 'none'}."
            (problems if names else ownerless).append(
                f"{directory}: no module called {directory.name!r} is in the configuration.{known} Remove its "
                f"{'case' if len(here) == 1 else 'cases'}, or name the directory after the module."
            )
            continue
        for path in here:
            case = _read(path, modules[directory.name], problems)
            if case is not None:
                found.append(case)
    for name in names:
        if name not in seen:
            problems.append(f"{base / name}: no recorded case there. `ion-core module record` makes one.")
    if problems:
        raise ConfigError(problems)
    return Cases(cases=found, ownerless=ownerless)


def _directories(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_wanted(path: Path, names: Sequence[str]) -> bool:
    return path.parent.name in names or f"{path.parent.name}/{path.name}" in names


def _read(path: Path, module: Module, problems: list[str]) -> Case | None:
    """None if something is wrong, which is then among the problems."""
    before = len(problems)
    settings = _settings(path / FILE, module, problems)
    inputs = _files(path / "in" / "data", problems)
    files = _files(path / "expected" / "data", problems)
    pairs = _pairs(path / "in" / "eventmeta.json", problems)
    insights = _pairs(path / "expected" / "insights.json", problems)
    events = _events(path / "expected" / "events.json", problems)
    gathered = _gathered(path / "in" / "gathered.json", module, problems)
    if settings is None or len(problems) > before:
        return None
    return Case(
        module=module.name,
        name=path.name,
        path=path,
        event_type=settings.event,
        inputs=inputs,
        pairs=pairs,
        files=files,
        insights=insights,
        events=events,
        gathered=gathered,
        rules=tuple(
            Rule(pattern=pattern, by=it.by, relative=it.relative, absolute=it.absolute)
            for pattern, it in settings.compare.items()
        ),
    )


def _settings(path: Path, module: Module, problems: list[str]) -> CaseSettings | None:
    try:
        raw = read_regular(path, 1 << 20)
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {reason(error)}. It says at least `event: TYPE`.")
        return None
    found = Problems()
    try:
        root = parse(raw, str(path), found)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
    settings = validated(CaseSettings, root, (), {}, found)
    if settings is not None and settings.event not in module.subscribes:
        types = ", ".join(module.subscribes)
        at = root.value["event"].place
        found.add(
            at, ("event",), f"module {module.name} takes no events of type {settings.event!r}. It takes: {types}."
        )
    problems.extend(found.lines())
    return settings


def _files(directory: Path, problems: list[str]) -> dict[str, Path]:
    """Regular files below, by name. A name that no module can see, or anything else than a file, is a problem."""
    found: dict[str, Path] = {}
    for path in _walk(directory, problems):
        name = path.relative_to(directory).as_posix()
        try:
            found[check_key(name)] = path
        except InvalidKey as error:
            problems.append(f"{directory}: {error}")
    return found


def _walk(directory: Path, problems: list[str]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{directory}: {error.strerror}")
        return
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path), problems)
        elif stat.S_ISREG(mode):
            yield Path(entry.path)
        else:
            problems.append(f"{entry.path}: is neither a file nor a directory. Put the file itself there.")


def _json(path: Path, problems: list[str]) -> Any:
    """The value in a file; None without one, and for one that is wrong, which is then a problem."""
    if not os.path.lexists(path):
        return None
    try:
        return strict_json.loads(read_regular(path, _MOST + 1), what=str(path), limit=_MOST)
    except InvalidEvent as error:
        problems.extend(error.problems)
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {reason(error)}.")
    return None


def _pairs(path: Path, problems: list[str]) -> Pairs:
    value = _json(path, problems)
    return () if value is None else parse_pairs(value, what=str(path), problems=problems)


def _gathered(path: Path, module: Module, problems: list[str]) -> Mapping[str, Any] | None:
    value = _json(path, problems)
    if module.gather is None:
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}: must be there, and an object: module {module.name} gathers.")
        return None
    return value


def _events(path: Path, problems: list[str]) -> tuple[ExpectedEvent, ...]:
    value = _json(path, problems)
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append(f'{path}: must be an array of {{"type": "…", "files": […], "data": […]}}')
        return ()
    return tuple(event for n, item in enumerate(value) if (event := _event(item, f"{path}[{n}]", problems)) is not None)


def _event(item: Any, what: str, problems: list[str]) -> ExpectedEvent | None:
    before = len(problems)
    if not isinstance(item, dict):
        problems.append(f'{what}: must be an object {{"type": "…", "files": […], "data": […]}}')
        return None
    for name in sorted(item.keys() - {"type", "files", "data"}):
        problems.append(f'{what}.{name[:80]}: unknown; an event here has "type", "files" and "data"')
    event_type, files = item.get("type"), item.get("files", [])
    if not isinstance(event_type, str):
        problems.append(f"{what}.type: must be a string")
    elif problem := type_problem(event_type):
        problems.append(f"{what}.type: {problem}")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        problems.append(f"{what}.files: must be an array of strings")
    data = parse_pairs(item.get("data", []), what=f"{what}.data", problems=problems)
    if len(problems) > before:
        return None
    return ExpectedEvent(type=str(event_type), files=tuple(files), data=data)
