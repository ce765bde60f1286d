"""A module taken out of a configuration file, or given another name: what is not the module's stays as it is."""

from __future__ import annotations

import re
from typing import Any

from ion_core.config.tree import Node, Problems, dotted, parse
from ion_core.errors import ConfigError, UsageError


def without_module(raw: bytes, name: str, *, where: str) -> bytes:
    """The configuration in ``raw`` without the module; comments above it stay. ``where`` is the file as it was named.

    Raises ConfigError when ``raw`` cannot be read, UsageError when it has no such module, or writes it in a way that
    one has to take out by hand.
    """
    root = parse(raw, where, Problems())
    modules = _modules(root, name, where)
    node = modules.value[name]
    lines, end = _lines(raw)
    if lines[modules.place.line - 1][modules.place.column - 1] == "{":
        raise _by_hand(node, name, "taken out")
    first, indent = node.key_place.line - 1, node.key_place.column - 1
    last = _end(root, modules, node, lines)
    while last > first + 1 and _is_apart(lines[last - 1], indent):
        last -= 1
    rest = lines[last:]
    if first and not lines[first - 1].strip():
        while rest and not rest[0].strip():  # one empty line is enough where there were two
            rest.pop(0)
    kept = lines[:first]
    if len(modules.value) == 1:
        at = modules.key_place.line - 1
        kept[at] = re.sub(r":(?=\s|$)", ": {}", kept[at], count=1)
    made = (end.join([*kept, *rest]) + end).encode("utf-8")
    wanted = _plain(root)
    del wanted["modules"][name]
    if _read(made) != wanted:
        raise _by_hand(node, name, "taken out")
    return made


def with_renamed_module(raw: bytes, name: str, to: str, *, where: str) -> bytes:
    """The configuration in ``raw`` with the module under the name ``to``, in its place.

    ``name`` is in its ``formerly`` then, and nothing else is changed. Where that can only be written by hand, as in a
    mapping that several modules share, it is left as it is: see ``names_formerly``. Raises as ``without_module``;
    UsageError too when there is a module called ``to``.
    """
    made = _with_other_name(raw, name, to, where=where)
    return _with_former_name(made, to, name) or made


def names_formerly(raw: bytes, name: str, before: str, *, where: str) -> bool:
    """Whether the module ``name`` says that it was called ``before``."""
    node = parse(raw, where, Problems()).at(("modules", name, "formerly"))
    return node is not None and isinstance(node.value, list) and before in (it.value for it in node.value)


def _with_former_name(raw: bytes, name: str, before: str) -> bytes | None:
    """None where that cannot be written without touching anything else."""
    root = parse(raw, "", Problems())
    module = root.at(("modules", name))
    if module is None or not isinstance(module.value, dict) or not module.value:
        return None
    wanted = _plain(root)
    there = module.value.get("formerly")
    listed = there.value if there is not None and isinstance(there.value, list) else []
    wanted["modules"][name]["formerly"] = names = [
        *(it.value for it in listed if it.value not in (name, before)),
        before,
    ]
    text = ", ".join(it if _read_one(it) == it else f'"{it}"' for it in names)
    lines, end = _lines(raw)
    first = next(iter(module.value.values()))
    if there is not None:
        at, column = there.place.line - 1, there.place.column - 1
        lines[at] = lines[at][:column] + re.sub(r"^\[[^\]]*\]", f"[{text}]", lines[at][column:])
    else:
        at, column = first.key_place.line - 1, first.key_place.column - 1
        indent = lines[at][:column]
        if indent.strip():  # within braces
            lines[at] = f"{indent}formerly: [{text}], {lines[at][column:]}"
        else:
            lines.insert(at, f"{indent}formerly: [{text}]")
    made = (end.join(lines) + end).encode("utf-8")
    return made if _read(made) == wanted else None


def _read_one(text: str) -> Any:
    """What YAML takes it for, such as a number."""
    try:
        return parse(f"it: {text}".encode(), "", Problems()).value["it"].value
    except ConfigError:
        return None


def _with_other_name(raw: bytes, name: str, to: str, *, where: str) -> bytes:
    root = parse(raw, where, Problems())
    modules = _modules(root, name, where)
    node = modules.value[name]
    if to in modules.value:
        raise UsageError(f"{modules.value[to].key_place}: modules.{to}: is there already. Choose another name.")
    lines, end = _lines(raw)
    at, start = node.key_place.line - 1, node.key_place.column - 1
    found = re.compile(rf"(['\"]?){re.escape(name)}\1(?=\s*:)").match(lines[at], start)
    if found is None:
        raise _by_hand(node, name, f"called {to}")
    wanted = _plain(root)
    wanted["modules"] = {to if key == name else key: value for key, value in wanted["modules"].items()}
    before, after = lines[at][:start], lines[at][found.end() :]
    for quote in (found[1], '"'):  # a name that would be a number is quoted
        lines[at] = f"{before}{quote}{to}{quote}{after}"
        made = (end.join(lines) + end).encode("utf-8")
        if _read(made) == wanted:
            return made
    raise _by_hand(node, name, f"called {to}")


def places_that_say(raw: bytes, text: str, *, where: str) -> list[str]:
    """Where else in a configuration a value or a key is just ``text``, each as ``file:line:column: key``."""
    found = []
    for path, node in parse(raw, where, Problems()).walk():
        if path[:1] == ("modules",) and path[2:3] == ("formerly",):
            continue  # it is there to say so
        if node.value == text and path:
            found.append(f"{node.place}: {dotted(path)}")
        elif path and path[-1] == text and path[:-1] != ("modules",):
            found.append(f"{node.key_place}: {dotted(path)}")
    return found


def _modules(root: Node, name: str, where: str) -> Node:
    modules = root.at(("modules",))
    if modules is None or not isinstance(modules.value, dict) or name not in modules.value:
        raise UsageError(f"{where}: modules: there is none called {name[:80]!r}.")
    return modules


def _lines(raw: bytes) -> tuple[list[str], str]:
    text = raw.decode("utf-8")
    return text.splitlines(), "\r\n" if "\r\n" in text else "\n"


def _end(root: Node, modules: Node, node: Node, lines: list[str]) -> int:
    """The line after which the next key of the file comes; the last one if none does."""
    later = [
        other.key_place.line
        for other in (*modules.value.values(), *root.value.values())
        if other.key_place.line > node.key_place.line
    ]
    return min(later) - 1 if later else len(lines)


def _is_apart(line: str, indent: int) -> bool:
    """Whether a line behind a module is not its own: empty, the end, or a comment that is not indented deeper."""
    text = line.lstrip()
    return not text or (line.startswith("...")) or (text.startswith("#") and len(line) - len(text) <= indent)


def _plain(node: Node) -> Any:
    """What it says, without where."""
    if isinstance(node.value, dict):
        return {key: _plain(below) for key, below in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(below) for below in node.value]
    return node.value


def _read(raw: bytes) -> Any:
    try:
        root = parse(raw, "", problems := Problems())
    except ConfigError:
        return None
    if problems.found:
        return None
    found = _plain(root)
    return {**found, "modules": found.get("modules") or {}}


def _by_hand(node: Node, name: str, done: str) -> UsageError:
    return UsageError(
        f"{node.key_place}: modules.{name}: is written so that it can only be {done} by hand. Nothing was changed."
    )
