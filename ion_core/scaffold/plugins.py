"""The files of a new plugin: a distribution with one provider, or observer, small, which passes its kit as it is.

The templates are a plugin called ``sample``, as it would be written by hand; the words that are its names are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Kind
from ion_core.scaffold.writing import NewFile

PLUGIN_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A kind of provider, or an observer: the ``page`` of its contract, its settings, and those that its kit needs."""

    kind: Kind
    what: str
    page: str
    keys: Mapping[str, tuple[str, str]]
    needs: str = ""


SKELETONS: Mapping[str, Skeleton] = {
    "broker": Skeleton(
        kind=Kind.MESSAGE_BROKER,
        what="Queues in one SQLite file",
        page="messaging",
        keys={
            "path": ("the file, relative to the state directory", "`sample.sqlite`"),
            "lease": ("how long a subscriber that went silent keeps what it holds", "`30s`"),
            "poll": ("how often to look for messages", "`50ms`"),
        },
        needs=" --set lease=3s",
    ),
    "runtime": Skeleton(
        kind=Kind.CONTAINER_RUNTIME,
        what="Modules as plain processes",
        page="runtime",
        keys={"path": ("where running modules are noted, relative to the state directory", "`sample`")},
    ),
    "executor": Skeleton(
        kind=Kind.EXECUTOR,
        what="Whole jobs as processes that outlive serve",
        page="executors",
        keys={
            "path": ("where jobs lie, each with its workspace, relative to the state directory", "`sample`"),
            "allowance": ("how long each of the steps around a module may take", "`30m`"),
        },
    ),
    "blobs": Skeleton(
        kind=Kind.BLOB_STORE,
        what="Blobs as files of one directory",
        page="blobs",
        keys={"path": ("the directory, relative to the state directory", "`sample`")},
    ),
    "documents": Skeleton(
        kind=Kind.DOCUMENT_STORE,
        what="Documents in one JSON file",
        page="documents",
        keys={"path": ("the file, relative to the state directory", "`sample.json`")},
    ),
    "service": Skeleton(
        kind=Kind.SERVICE,
        what="Events by the clock",
        page="services",
        keys={
            "every": ("how long from one event to the next", ""),
            "type": ("the type of the events", ""),
        },
        needs=" --set every=1s --set type=photo.received",
    ),
    "observer": Skeleton(
        kind=Kind.OBSERVER,
        what="A line of JSON for each attempt",
        page="observers",
        keys={
            "path": ("the file, relative to a directory of its own in the state directory", "`attempts.jsonl`"),
            "outcomes": ("the outcomes that are told of, such as `dead-lettered`", "all"),
        },
    ),
}
"""By what ``--kind`` calls it."""

_RENAMED = {"gitignore": ".gitignore", "github": ".github"}
"""Names that would have an effect in our own tree."""


def plugin_files(kind: str, name: str) -> dict[str, NewFile]:
    """A plugin of the distribution ``ion-<name>``, by path below its directory; ``kind`` is a key of SKELETONS.

    ``name`` matches PLUGIN_NAME, and is what the provider, or the observer, is called.
    """
    templates = resources.files("ion_core.scaffold").joinpath("templates", "plugin")
    texts = {path: text for part in ("common", kind) for path, text in _below(templates.joinpath(part), "")}
    skeleton = SKELETONS[kind]
    said = {
        "WHAT": skeleton.what,
        "KIND": skeleton.kind.one,
        "PAGE": skeleton.page,
        "SET": skeleton.needs,
        "CONTRACT": CONTRACT_VERSION,
        "EXAMPLE": texts["ion.yaml"].partition("modules:")[0].rstrip(),
        "KEYS": "\n".join(f"| `{key}` | {means} | {default} |" for key, (means, default) in skeleton.keys.items()),
    }
    return {
        _named(path, name): NewFile(_named(re.sub(r"@([A-Z]+)@", lambda it: said[it[1]], text), name).encode())
        for path, text in texts.items()
    }


def _named(text: str, name: str) -> str:
    """``text`` of ``sample`` as it is of ``name``."""
    plain = name.replace("-", "_")
    text = text.replace("ion_sample", f"ion_{plain}").replace("open_sample", f"open_{plain}")
    text = text.replace("Sample", "".join(part.capitalize() for part in name.split("-")))
    return re.sub(r"\bsample\b", name, text)


def _below(directory: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in directory.iterdir():
        path = prefix + _RENAMED.get(entry.name, entry.name)
        if entry.is_dir():
            if entry.name not in ("__pycache__", ".pytest_cache"):
                yield from _below(entry, f"{path}/")
        else:
            yield path, entry.read_text(encoding="utf-8")
