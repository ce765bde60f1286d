"""Puts what environment variables and flags say over what the file says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ion_core.config.messages import nearest
from ion_core.config.model import FileSettings
from ion_core.config.tree import Node, Path, Place, Problems, dotted, outside

PREFIX = "ION_"
ALONE = ("state", "drain_timeout")
"""Keys at the top of the file that are one value: their variables have no section, and are no secrets.

An empty one of these is as none, as ``ION_CONFIG`` is.
"""

FLAGS = {"state": "--state-dir"}
"""Flags of the command line that are not called like the key they set."""

_WORD = re.compile(r"[a-z]+(-[a-z]+)*")
"""What may be the name of a provider or a choice, such as ``bubblewrap``: it is no secret in other texts."""

_OF_THE_FILE = ("version", "plugins", "hidden", "plain", "leads_to")
SECTIONS = tuple(name for name in FileSettings.model_fields if name not in _OF_THE_FILE)


def override(root: Node, *, environ: Mapping[str, str], flags: Mapping[str, str], problems: Problems) -> None:
    """``ION_MESSAGING__URL`` and the flag ``messaging.url`` set what the file may have set; a flag wins."""
    for name, value in sorted(environ.items()):
        rest = name.removeprefix(PREFIX)
        if rest != name and ("__" in rest or (rest.lower() in ALONE and value)):
            secret = "" if rest.lower() in ALONE else "an environment variable"
            _set(root, _parts(rest), value, outside(name), secret, problems)
    for name, value in sorted(flags.items()):
        _set(root, name.split("."), value, outside(FLAGS.get(name, f"--{name}")), "", problems)


def _set(root: Node, parts: Sequence[str], value: str, place: Place, secret: str, problems: Problems) -> None:
    if parts[0] not in SECTIONS:
        known = ", ".join(SECTIONS)
        text = f'there is no section "{parts[0]}" to set.{nearest(parts[0], SECTIONS)} Sections: {known}.'
        problems.add(place, (), text)
        return
    if not all(parts):
        problems.add(place, (), "has an empty part. Write the keys between one separator each.")
        return
    if parts[0] == "modules" and len(parts) > 1 and not _is_module(root, parts[1]):
        modules = _modules(root)
        text = f'there is no module "{parts[1]}" to set.{nearest(parts[1], modules)} '
        problems.add(place, (), text + f"Modules: {', '.join(modules) or 'none'}.")
        return
    node = root
    path: Path = ()
    for part in parts[:-1]:
        key = _key(node, part)
        path = (*path, key)
        below = node.value.get(key)
        if below is None or below.value is None:
            below = node.value[key] = Node({}, place, place)
        if not isinstance(below.value, dict):
            problems.add(place, path, f"has no keys, so {dotted((*path, *parts[len(path) :]))} cannot be set")
            return
        node = below
    hidden = (value,) if secret and (list(parts[-2:-1]) == ["env"] or not _WORD.fullmatch(value)) else ()
    node.value[_key(node, parts[-1])] = Node(value, place, place, text=value, secret=secret, hidden=hidden)


def _modules(root: Node) -> Mapping[str, Node]:
    node = root.at(("modules",))
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _is_module(root: Node, part: str) -> bool:
    """Whether the file has it: one made of variables alone would have no event types, which are a list."""
    node = root.at(("modules",))
    return node is not None and (not isinstance(node.value, dict) or _key(node, part) in node.value)


def _parts(name: str) -> Sequence[str]:
    """Keys are in lower case, but for the names of a module's own variables."""
    parts = name.split("__")
    kept = 3 if [part.lower() for part in parts[:1] + parts[2:3]] == ["modules", "env"] else len(parts)
    return [part.lower() for part in parts[:kept]] + parts[kept:]


def _key(node: Node, part: str) -> str:
    """The key of ``node`` that is meant: a variable's name cannot have hyphens."""
    if part != part.lower():
        return part
    fitting = [key for key in node.value if key.lower().replace("-", "_") == part.replace("-", "_").lower()]
    return part if part in node.value or not fitting else str(fitting[0])
