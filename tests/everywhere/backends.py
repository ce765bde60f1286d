"""How each provider that is installed is run: with which settings, and against what."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ion_core.registry import Kind, Registry
from plugins.ion_kubernetes.tests.served import HANDLER, MODULE
from tests.everywhere.covering import covering
from tests.everywhere.site import APP, IMAGE, Site

Settings = dict[str, Any]
KINDS = (Kind.MESSAGE_BROKER, Kind.CONTAINER_RUNTIME, Kind.BLOB_STORE, Kind.DOCUMENT_STORE)
"""Those of which a combination has one each. An executor stands where a container runtime may."""
ONE_PROCESS_ONLY = "memory"
"""The providers that forget everything when their process ends, so that nobody else sees what they did."""


@dataclass(frozen=True)
class Backend:
    """A provider and what it runs against. ``name`` is what the table calls it.

    ``settings``, given a site and a name that no other combination has, are those of its section. Of a runtime, too:
    ``image`` and where the modules' programs lie in it, ``""`` where they lie in ``source``; ``environ`` for ``serve``.
    ``shared_only``: it takes no store that is for this machine alone.
    """

    kind: Kind
    name: str
    provider: str
    settings: Callable[[Site, str], Settings]
    image: str = ""
    environ: Callable[[Site], Mapping[str, str]] = lambda site: {}
    shared_only: bool = False

    def __str__(self) -> str:
        return self.name


def _rabbitmq(site: Site, name: str) -> Settings:
    return {"url": site.rabbit.url, "prefix": name}


def _podman(site: Site, name: str) -> Settings:
    return {"url": site.podman.url}


def _oci(site: Site, name: str) -> Settings:
    return {"directory": str(site.podman.directory / "oci" / name)}


def _images(site: Site) -> Mapping[str, str]:
    """Images are Podman's."""
    ours = site.podman.environ
    return {key: value for key, value in ours.items() if os.environ.get(key) != value}


def _kubernetes(site: Site, name: str) -> Settings:
    # pods of several combinations are told apart by their installation
    return {"kubeconfig": str(site.kubeconfig), "handler_image": HANDLER, "grace": "1s", "lost_after": "1s"}


def _file(site: Site, name: str) -> Settings:
    return {"url": f"file://{site.shared / name}"}


def _s3(site: Site, name: str) -> Settings:
    return {"url": f"{site.s3.root}/{name}", "options": dict(site.s3.options)}


def _azure(site: Site, name: str) -> Settings:
    return {"url": f"{site.azure.root}/{name}", "options": dict(site.azure.options)}


def _none(site: Site, name: str) -> Settings:
    return {}


def _bubblewrap(site: Site, name: str) -> Settings:
    return {"isolation": "bubblewrap"}


BROKER, RUNTIME, BLOBS, DOCUMENTS = KINDS
BACKENDS: Sequence[Backend] = (
    Backend(BROKER, "sqlite", "sqlite", _none),
    Backend(BROKER, "rabbitmq", "rabbitmq", _rabbitmq),
    Backend(RUNTIME, "process", "process", _none),
    Backend(RUNTIME, "bubblewrap", "process", _bubblewrap),
    Backend(RUNTIME, "subprocess", "subprocess", _none),
    Backend(RUNTIME, "podman", "podman", _podman, image=IMAGE),
    Backend(RUNTIME, "oci", "oci", _oci, image=IMAGE, environ=_images),
    Backend(RUNTIME, "kubernetes", "kubernetes", _kubernetes, image=MODULE, shared_only=True),
    Backend(BLOBS, "local", "local", _none),
    Backend(BLOBS, "file", "fsspec", _file),
    Backend(BLOBS, "s3", "fsspec", _s3),
    Backend(BLOBS, "azure", "fsspec", _azure),
    Backend(DOCUMENTS, "sqlite", "sqlite", _none),
    Backend(DOCUMENTS, "file", "fsspec", _file),
    Backend(DOCUMENTS, "s3", "fsspec", _s3),
    Backend(DOCUMENTS, "azure", "fsspec", _azure),
)
"""The first of each kind is what the others are compared to."""

EMBEDDED_STORES = {"local", "sqlite"}
"""Those of a state directory, which pods do not see."""


@dataclass(frozen=True)
class Combination:
    """One backend of each kind, in the order of ``KINDS``."""

    broker: Backend
    runtime: Backend
    blobs: Backend
    documents: Backend

    @property
    def all(self) -> tuple[Backend, ...]:
        return (self.broker, self.runtime, self.blobs, self.documents)

    @property
    def name(self) -> str:
        return "-".join(it.name for it in self.all)

    def is_possible(self) -> bool:
        """Whether Ion takes it. It refuses pods whose stores are files of this machine alone."""
        return not (self.runtime.shared_only and {self.blobs.provider, self.documents.provider} & EMBEDDED_STORES)


def backends(registry: Registry, known: Sequence[Backend] = BACKENDS) -> Mapping[Kind, Sequence[Backend]]:
    """Of each kind those whose provider is installed, in the order of ``known``.

    Raises AssertionError where a provider is installed that no backend runs: it says what to write.
    """
    found: dict[Kind, Sequence[Backend]] = {}
    for kind in KINDS:
        installed = set(registry.names(kind)) - {ONE_PROCESS_ONLY}
        unknown = installed - {it.provider for it in known if it.kind is kind}
        assert not unknown, "\n".join(_what_to_write(registry, kind, name) for name in sorted(unknown))
        found[kind] = [it for it in known if it.kind is kind and it.provider in installed]
    return found


def _what_to_write(registry: Registry, kind: Kind, name: str) -> str:
    owner = registry.plugin_of(registry.kind_of(kind, name), name)
    return (
        f'the {kind.value} "{name}" of {owner} is run with no other backend yet. Add to BACKENDS in '
        f"tests/everywhere/backends.py: Backend(Kind.{kind.name}, {name!r}, {name!r}, settings), where settings(site, "
        "name) returns its section of a configuration; a server that it needs is a cached_property of Site in "
        "tests/everywhere/site.py, which starts it."
    )


def product(found: Mapping[Kind, Sequence[Backend]], names: Collection[str] = ()) -> Iterator[Combination]:
    """All combinations that are possible, of which each has a backend of each of these names."""
    for broker in found[BROKER]:
        for runtime in found[RUNTIME]:
            for blobs in found[BLOBS]:
                for documents in found[DOCUMENTS]:
                    combination = Combination(broker, runtime, blobs, documents)
                    if combination.is_possible() and set(names) <= {it.name for it in combination.all}:
                        yield combination


def with_each(combinations: Sequence[Combination], together: int = 1) -> list[Combination]:
    """Few of them, with each backend at least once, or each pair of those that may stand together. The first is in."""
    by_row = {it.all: it for it in combinations}
    return [by_row[row] for row in covering(list(by_row), together)]


def modules_at(runtime: Backend, site: Site) -> tuple[dict[str, Any], str]:
    """What each module says under that runtime, and what stands before the name of its program."""
    if runtime.image:
        return {"image": runtime.image}, f"{APP}/"
    return {"source": str(site.programs)}, ""
