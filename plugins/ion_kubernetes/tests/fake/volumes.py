"""Volumes of a pod on the fake node: directories, filled with what Secrets, ConfigMaps and the pod itself say."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plugins.ion_kubernetes.tests.fake.store import Store

Json = dict[str, Any]
_KEYED = re.compile(r"metadata\.(annotations|labels)\['(.+)'\]")


class Missing(Exception):
    """A Secret or ConfigMap, or a key of it, that is not there."""


def made(store: Store, pod: Json, directory: Path) -> None:
    """Makes and fills all volumes of a pod, each a directory of its name. Raises Missing."""
    for volume in pod["spec"].get("volumes") or []:
        place = directory / volume["name"]
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)
        for path, content in _files(store, pod, volume):
            _write(place / path, content)


def refresh(pod: Json, directory: Path) -> None:
    """What the pod says of itself, as it is now."""
    for volume in pod["spec"].get("volumes") or []:
        for path, content in _downward(pod, volume):
            target = directory / volume["name"] / path
            if not target.exists() or target.read_bytes() != content:
                _write(target, content)


def field(pod: Json, path: str) -> str:
    """A ``fieldPath``; empty where there is no such annotation."""
    meta = pod["metadata"]
    if found := _KEYED.fullmatch(path):
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    known = {"metadata.name": meta["name"], "metadata.namespace": meta["namespace"], "metadata.uid": meta["uid"]}
    known |= {"spec.nodeName": pod["spec"].get("nodeName", ""), "status.podIP": "10.244.0.2"}
    return str(known[path])


def data(store: Store, namespace: str, kind: str, name: str) -> dict[str, bytes]:
    """Of a Secret (``secrets``) or ConfigMap (``configmaps``). Raises Missing."""
    found = store.objects.get((kind, namespace, name))
    if found is None:
        raise Missing(f'{kind.removesuffix("s")} "{name}" not found')
    plain = {key: text.encode() for key, text in (found.get("stringData") or {}).items()}
    encoded = {**(found.get("binaryData") or {}), **(found.get("data") or {} if kind == "secrets" else {})}
    texts = found.get("data") or {} if kind == "configmaps" else {}
    decoded = {key: base64.b64decode(text) for key, text in encoded.items()}
    return {**decoded, **{key: text.encode() for key, text in texts.items()}, **plain}


def _files(store: Store, pod: Json, volume: Json) -> Iterator[tuple[str, bytes]]:
    namespace = pod["metadata"]["namespace"]
    sources = (volume.get("projected") or {}).get("sources") or [volume]
    for source in sources:
        for key, kind in (("secret", "secrets"), ("configMap", "configmaps")):
            if key in source:
                yield from _stored(store, namespace, kind, source[key])
    yield from _downward(pod, volume)


def _stored(store: Store, namespace: str, kind: str, source: Json) -> Iterator[tuple[str, bytes]]:
    name = source.get("secretName") or source.get("name", "")
    try:
        found = data(store, namespace, kind, name)
    except Missing:
        if source.get("optional"):
            return
        raise
    items = source.get("items") or [{"key": key, "path": key} for key in found]
    for it in items:
        if it["key"] not in found:
            raise Missing(f"references non-existent {kind} key: {it['key']}")
        yield it["path"], found[it["key"]]


def _downward(pod: Json, volume: Json) -> Iterator[tuple[str, bytes]]:
    for source in (volume.get("projected") or {}).get("sources") or [volume]:
        for it in (source.get("downwardAPI") or {}).get("items") or []:
            yield it["path"], field(pod, it["fieldRef"]["fieldPath"]).encode()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, as a kubelet does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(0o644)
    beside.rename(path)
