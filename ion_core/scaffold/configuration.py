"""A module added to a configuration file: its text is put in, and not one character of the rest is touched."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ion_core.config.tree import Node, Problems, parse
from ion_core.errors import ConfigError, UsageError

_EMPTY_MODULES = re.compile(r"^(modules|\"modules\"|'modules')[ \t]*:[ \t]*(\{[ \t]*\}|null|~)?[ \t]*(#.*)?$")


def entry_text(name: str, entry: Mapping[str, Any]) -> str:
    """The module as it is written below ``modules:``, not indented."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedSeq

    yaml = YAML()
    yaml.width = 10_000
    shown: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, list):
            value = CommentedSeq(value)
            value.fa.set_flow_style()
        shown[key] = value
    text = io.StringIO()
    yaml.dump({name: shown}, text)
    return text.getvalue()


def with_module(raw: bytes, name: str, entry: Mapping[str, Any], *, where: str) -> bytes:
    """The configuration in ``raw`` with the module at the end of ``modules``; ``where`` is the file as it was named.

    Raises ConfigError when ``raw`` cannot be read, UsageError when it has the module already, or writes its modules
    in a way that leaves no room for one more; then the message has what to add by hand.
    """
    root = parse(raw, where, Problems())
    text = raw.decode("utf-8")
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    modules = root.at(("modules",))
    added = entry_text(name, entry)
    if modules is None:
        at, block = len(lines), ["", "modules:", *_indented(added, 2)]
    elif isinstance(modules.value, dict) and modules.value:
        if name in modules.value:
            raise UsageError(f"{modules.value[name].key_place}: modules.{name}: is there already. Choose another name.")
        at, block = _after_the_last(root, modules, lines, added)
    else:
        at, block = modules.key_place.line, _indented(added, 2)
        if modules.value not in (None, {}) or not (found := _EMPTY_MODULES.fullmatch(lines[at - 1])):
            raise _by_hand(modules, added)
        if found[2]:
            lines[at - 1] = f"{found[1]}:" + (f" {found[3]}" if found[3] else "")
    made = end.join([*lines[:at], *block, *lines[at:]]) + end
    if not _has(made, name):
        assert modules is not None
        raise _by_hand(modules, added)
    return made.encode("utf-8")


def _has(text: str, name: str) -> bool:
    try:
        found = parse(text.encode("utf-8"), "", Problems()).at(("modules", name))
    except ConfigError:
        return False
    return found is not None and isinstance(found.value, dict)


def _after_the_last(root: Node, modules: Node, lines: Sequence[str], added: str) -> tuple[int, list[str]]:
    """After which line, and what: behind the last module, before what belongs to the next key of the file."""
    keys = [node.key_place for node in modules.value.values()]
    if lines[modules.place.line - 1][modules.place.column - 1] == "{":
        raise _by_hand(modules, added)
    later = [node.key_place.line for node in root.value.values() if node.key_place.line > modules.key_place.line]
    at = min(later) - 1 if later else len(lines)
    while not lines[at - 1].strip() or lines[at - 1].startswith(("#", "...")):
        at -= 1
    apart = any(not lines[place.line - 2].strip() for place in keys[1:])
    return at, [*([""] if apart else []), *_indented(added, keys[0].column - 1)]


def _indented(text: str, by: int) -> list[str]:
    return textwrap.indent(text, " " * by).splitlines()


def _by_hand(modules: Node, added: str) -> UsageError:
    text = " ".join(added.split())
    return UsageError(f"{modules.key_place}: modules: is written so that nothing can be added. Add by hand: {text}")
