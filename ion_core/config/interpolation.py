"""``${env:NAME}``, ``${env:NAME:-default}`` and ``${file:PATH}`` inside text values; ``$${`` is a literal ``${``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ion_core.config.reading import read_regular, reason
from ion_core.config.tree import AFTER_THE_FILE, Node, Problems

MAX_FILE_BYTES = 64 * 1024

_TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)(\})?")
_ENV = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class NotResolved(Exception):
    """Why a ``${…}`` has no value."""


def interpolate(root: Node, *, base: Path, environ: Mapping[str, str], problems: Problems) -> None:
    """Replace every ``${…}`` written in the file; relative paths start at ``base``. What has no value is a problem."""
    for path, node in root.walk():
        if isinstance(node.value, str) and "${" in node.value and node.place.line < AFTER_THE_FILE:
            try:
                found = resolve(node.value, base=base, environ=environ)
                node.value, node.secret, node.hidden = found.text, " ".join(found.sources), tuple(found.values)
            except NotResolved as error:
                problems.add(node.place, path, str(error))
            node.text = node.value


@dataclass(frozen=True)
class Resolved:
    """A text with every ``${…}`` replaced; those that brought something that must not be printed, and what."""

    text: str
    sources: Sequence[str]
    values: Sequence[str] = field(repr=False)


def resolve(text: str, *, base: Path, environ: Mapping[str, str]) -> Resolved:
    """Raises NotResolved."""
    sources: list[str] = []
    values: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[2] is None:
            raise NotResolved('has a "${" without its "}". A literal "${" is written "$${".')
        value, secret = _value(match[1], base, environ)
        if secret:
            sources.append(match[0])
            values.append(value)
        return value

    return Resolved(_TOKEN.sub(replace, text), sources, values)


def escape(text: str) -> str:
    """Text that interpolates to ``text``."""
    return text.replace("${", "$${")


def _value(expression: str, base: Path, environ: Mapping[str, str]) -> tuple[str, bool]:
    if match := _ENV.fullmatch(expression):
        name, default = match[1], match[2]
        if environ.get(name) or (name in environ and default is None):
            return environ[name], True
        if default is not None:
            return default, False
        raise NotResolved(f"the environment variable {name} is not set. Set it, or write ${{env:{name}:-default}}.")
    scheme, colon, path = expression.partition(":")
    if scheme == "file" and colon and path:
        try:
            return _read(base / Path(path).expanduser(), f"${{file:{path}}}"), True
        except RuntimeError as error:  # "~name" of nobody
            raise NotResolved(f"${{file:{path}}}: {error}") from None
    raise NotResolved(
        f'"${{{expression[:80]}}}" is neither ${{env:NAME}} nor ${{file:PATH}}. A literal "${{" is written "$${{".'
    )


def _read(path: Path, expression: str) -> str:
    try:
        raw = read_regular(path, MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NotResolved(f"{expression}: {path} cannot be read: {reason(error)}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise NotResolved(f"{expression}: {path} is larger than {MAX_FILE_BYTES >> 10} KiB")
    try:
        return re.sub(r"\r?\n\Z", "", raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotResolved(f"{expression}: {path} is not UTF-8") from None
