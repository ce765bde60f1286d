"""The distribution's filter of system calls, as an OCI runtime takes it.

The file is that of containers/common: entries of it hold for some architectures or capabilities only. It is read here
as Podman reads it, for a container that has no capabilities.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLACES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
_ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")} | {
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def filter_of(profile: Mapping[str, Any], machine: str, kernel: str, *, own_alone: bool = False) -> Mapping[str, Any]:
    """What ``linux.seccomp`` of a container's configuration says. Raises ValueError for a machine it cannot be for."""
    if machine not in _ARCHITECTURES:
        raise ValueError(f"there is no filter for {machine}")
    name, native = _ARCHITECTURES[machine]
    kin = () if own_alone else profile.get("archMap") or ()
    subs = [it["subArchitectures"] or () for it in kin if it["architecture"] == native]
    made = {
        "defaultAction": profile["defaultAction"],
        "architectures": [native, *(sub for listed in subs for sub in listed)],
        "syscalls": [*_rules(profile["syscalls"], name, kernel)],
    }
    if "defaultErrnoRet" in profile:
        made["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return made


def _rules(entries: list[Mapping[str, Any]], architecture: str, kernel: str) -> Iterator[Mapping[str, Any]]:
    for entry in entries:
        needs, spares = entry.get("includes") or {}, entry.get("excludes") or {}
        if needs.get("caps") or architecture in (spares.get("arches") or ()):
            continue
        if needs.get("arches") and architecture not in needs["arches"]:
            continue
        if "minKernel" in needs and _version(kernel) < _version(needs["minKernel"]):
            continue
        if "minKernel" in spares and _version(kernel) >= _version(spares["minKernel"]):
            continue
        rule = {"names": entry.get("names") or [entry["name"]], "action": entry["action"]}
        if args := entry.get("args"):
            rule["args"] = [_argument(it) for it in args]
        if entry.get("errnoRet") is not None:
            rule["errnoRet"] = entry["errnoRet"]
        yield rule


def _argument(given: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {"index": given["index"], "value": given["value"], "op": given["op"]}
    return kept | ({"valueTwo": given["valueTwo"]} if given.get("valueTwo") else {})


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = (*text.split("-")[0].split("."), "0")
    return int(major), int(minor)


def load(places: tuple[Path, ...] = PLACES, *, own_alone: bool = False) -> Mapping[str, Any]:
    """The filter for this machine, and with ``own_alone`` for none of its kin.

    Raises ValueError, which says where it was looked for, or what is wrong with it.
    """
    path = next((it for it in places if it.exists()), None)
    if path is None:
        raise ValueError(f"there is no filter of system calls: {' nor '.join(map(str, places))}")
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
        return filter_of(profile, platform.machine(), os.uname().release, own_alone=own_alone)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read as a filter of system calls: {error!r}") from error
