"""YAML as a tree in which every value knows where it was written, and the problems found in it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ion_core.errors import ConfigError

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node as YamlNode

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_DEPTH = 64

Path = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written: a line and column of the file (from 1), or what stands instead of them."""

    line: int
    column: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line < AFTER_THE_FILE else self.name


AFTER_THE_FILE = 1 << 40


def outside(name: str) -> Place:
    """A place that is no part of the file: an environment variable or a flag. Sorted after everything in it."""
    return Place(AFTER_THE_FILE, 0, name)


@dataclass(slots=True)
class Node:
    """A value. ``text`` is a scalar as written. ``secret`` says what it came from if that must not be printed.

    ``hidden`` is what came from there: the value, or parts of it.
    """

    value: Any = field(repr=False)
    place: Place
    key_place: Place
    text: str = field(default="", repr=False)
    secret: str = ""
    hidden: tuple[str, ...] = field(default=(), repr=False)

    def at(self, path: Path) -> Node | None:
        """The value at ``path`` below this one."""
        node: Node | None = self
        for part in path:
            if node is None:
                return None
            if isinstance(node.value, dict):
                node = node.value.get(part)
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                return None
        return node

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """This value and all below it."""
        yield path, self
        parts: Any = ()
        if isinstance(self.value, dict):
            parts = self.value.items()
        elif isinstance(self.value, list):
            parts = enumerate(self.value)
        for part, node in parts:
            yield from node.walk((*path, part))


def dotted(path: Path) -> str:
    """``modules.detect.subscribes[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass
class Problems:
    """Everything wrong so far, in one place, so that all of it is reported at once."""

    found: dict[tuple[Place, str], list[str]] = field(default_factory=dict)

    def add(self, place: Place, path: Path, text: str) -> None:
        texts = self.found.setdefault((place, dotted(path)), [])
        if text not in texts:
            texts.append(text)

    def at(self, place: Place, path: Path) -> bool:
        """Whether something is known to be wrong there already."""
        return (place, dotted(path)) in self.found

    def lines(self) -> Sequence[str]:
        """One line for each, in the order of the file."""
        return [
            f"{place}: {path + ': ' if path else ''}{text}"
            for (place, path), texts in sorted(self.found.items())
            for text in texts
        ]

    def raise_any(self) -> None:
        if self.found:
            raise ConfigError(self.lines())


def parse(raw: bytes, name: str, problems: Problems) -> Node:
    """The tree of the YAML in ``raw``. ``name`` is the file as the user gave it.

    Raises ConfigError when there is no tree; problems inside of it, such as a key that is there twice, are added.
    """
    text = _decode(raw, name)
    tree = _compose(text, name)
    top = Place(1, 1, name)
    if tree is None:
        raise ConfigError(f"{top}: is empty. A configuration is a mapping of keys such as modules:.")
    root = _Reader(name, problems).read(tree, top, ())
    if not isinstance(root.value, dict):
        raise ConfigError(f"{top}: must be a mapping of keys such as modules: (got {kind(root.value)})")
    return root


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def from_outside(node: Node) -> Any:
    """What the text of ``node``, which a variable or a file brought, means where any value may stand.

    A variable that sets the value sets a YAML scalar: text that looks otherwise is in quotes. What ``${…}`` stands for
    is text, such as a password of digits, but for ``true`` and ``false``.
    """
    text: str = node.value
    if node.place.line < AFTER_THE_FILE:
        return {"true": True, "false": False}.get(text, text)
    try:
        composed = _compose(text, "")
    except ConfigError:
        return text
    problems = Problems()
    found = _Reader("", problems).read(composed, node.place, ()).value if composed is not None else None
    return text if problems.found or found is None or isinstance(found, dict | list) else found


def _decode(raw: bytes, name: str) -> str:
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name}: is larger than {MAX_BYTES >> 20} MiB. Is this the right file?")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{name}:1:1: starts with a byte order mark. Save it as UTF-8 without one.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{name}:1:1: is UTF-16. Save it as UTF-8.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place_of(raw[: error.start].decode("utf-8"), name)
        raise ConfigError(f"{place}: is not UTF-8 (byte 0x{raw[error.start]:02x}). Save it as UTF-8.") from None


def _place_of(before: str, name: str) -> Place:
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"), name)


def _compose(text: str, name: str) -> YamlNode | None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    # Marks count characters; after these ruamel.yaml starts a new line where no editor does.
    if odd := re.search("[\x85\u2028\u2029]", text):
        place = _place_of(text[: odd.start()], name)
        raise ConfigError(f"{place}: has the line separator U+{ord(odd[0]):04X}. Use ordinary line ends.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor that is defined again is no fault
            tree: YamlNode | None = YAML(typ="safe", pure=True).compose(text)
            return tree
    except ReaderError as error:
        place = _place_of(text[: error.position], name)
        raise ConfigError(f"{place}: has the character U+{ord(text[error.position]):04X}, which YAML forbids") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1, name) if mark else Place(1, 1, name)
        raise ConfigError(f"{place}: is not YAML: {_syntax(error)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested more than {MAX_DEPTH} levels deep") from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: is not YAML: {' '.join(str(error).split())[:200]}") from None


def _syntax(error: Any) -> str:
    problem = str(error.problem or error.context or "cannot be read")
    if "'\\t'" in problem:
        return "a tab where only spaces may stand. Indent with spaces."
    if "found another document" in problem:
        return 'a second document starts here. Remove the "---".'
    if problem == "mapping values are not allowed here":
        return 'a second ": " in one line. Put the value in quotes, or indent it as a mapping of its own.'
    context = f" {error.context}" if error.context and error.context not in problem else ""
    return f"{problem}{context}."


class _Reader:
    """Turns composed YAML into Nodes, aliases expanded within bounds."""

    def __init__(self, name: str, problems: Problems) -> None:
        self._name = name
        self._problems = problems
        self._values = 0
        self._open: set[int] = set()

    def _place(self, node: YamlNode) -> Place:
        return Place(node.start_mark.line + 1, node.start_mark.column + 1, self._name)

    def read(self, node: YamlNode, key_place: Place, path: Path) -> Node:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        place = self._place(node)
        self._values += 1
        if self._values > MAX_VALUES:
            raise ConfigError(
                f"{place}: {dotted(path)}: there are more than {MAX_VALUES:,} values, aliases expanded. "
                "Do without aliases that contain aliases."
            )
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"{place}: {dotted(path[:3])}…: is nested more than {MAX_DEPTH} levels deep")
        if id(node) in self._open:
            raise ConfigError(f"{key_place}: {dotted(path)}: the alias is part of what it stands for")
        if isinstance(node, ScalarNode):
            return self._scalar(node, place, key_place, path)
        if not str(node.tag).startswith(_TAG):
            self._problems.add(place, path, f'the tag "{node.tag}" is not allowed. Remove it.')
        self._open.add(id(node))
        value: Any = None
        if isinstance(node, MappingNode):
            value = self._mapping(node, path)
        elif isinstance(node, SequenceNode):
            value = [self.read(item, self._place(item), (*path, n)) for n, item in enumerate(node.value)]
        self._open.discard(id(node))
        return Node(value, place, key_place)

    def _mapping(self, node: YamlNode, path: Path) -> dict[str, Node]:
        from ruamel.yaml.nodes import ScalarNode

        found: dict[str, Node] = {}
        for key, value in node.value:
            place = self._place(key)
            if not isinstance(key, ScalarNode):
                self._problems.add(place, path, "a key must be text, not a list or a mapping")
            elif key.value in found:
                first = found[key.value].key_place
                text = f"is there twice, first in line {first.line}. Remove one."
                self._problems.add(place, (*path, key.value), text)
            else:
                found[key.value] = self.read(value, place, (*path, key.value))
        return found

    def _scalar(self, node: YamlNode, place: Place, key_place: Place, path: Path) -> Node:
        value: Any = node.value
        tag = str(node.tag).removeprefix(_TAG)
        try:
            if tag == "null":
                value = None
            elif tag == "bool":
                value = node.value.lower() == "true"
            elif tag == "int":
                value = _integer(node.value)
            elif tag == "float":
                value = float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))
            elif tag not in ("str", "timestamp", "merge", "value"):
                self._problems.add(place, path, f'the tag "{node.tag}" is not allowed. Remove it.')
        except ValueError:
            self._problems.add(place, path, f'is not what its tag "!!{tag}" says')
        if value is None and not node.value:
            place = key_place  # nothing was written, and YAML puts it somewhere behind the key
        return Node(value, place, key_place, text=node.value)


def _integer(text: str) -> int:
    """As YAML 1.2 writes it: 0o17, 0x1f, and 010 is ten."""
    based = re.fullmatch(r"[-+]?0[oxb].+", text)
    return int(text, 0) if based else int(text)
