"""A container of the fake node: a process of this machine below bubblewrap, with volumes where the pod wants them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_NO_PROGRAM = b"bwrap: "
"""What bubblewrap says itself, whose words differ from version to version."""
CHECKOUT = Path(__file__).parents[4]
_VARIABLE = re.compile(r"\$\$|\$\(([^()]*)\)")


@dataclass(frozen=True)
class Image:
    """What containers of it see of this machine: ``files`` read-only, by where; ``shared`` to write to, where it is."""

    files: Mapping[str, Path]
    shared: Sequence[Path] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()


def busybox_image(directory: Path) -> Image:
    """The programs of busybox in ``/bin``, and nothing else. The directory is made."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "make test installs busybox-static"
    (directory / "bin").mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for name in ("sh", *_applets(busybox)):
        if not (directory / "bin" / name).exists():
            (directory / "bin" / name).symlink_to("busybox")
    return Image({"/bin": directory / "bin"}, env={"PATH": "/bin"})


def machine_image(*shared: Path) -> Image:
    """This machine's programs, and ion-core as it runs the tests; ``shared`` directories are written to, and made."""
    for path in shared:
        path.mkdir(parents=True, exist_ok=True)
    seen = [*map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", sys.prefix, sys.base_prefix)), CHECKOUT]
    env = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return Image({str(it): it for it in seen if it.exists()}, shared, env)


def _applets(busybox: str) -> list[str]:
    with os.popen(f"{busybox} --list") as listed:
        return listed.read().split()


@dataclass(frozen=True)
class Mount:
    source: Path
    target: str
    read_only: bool


def expanded(text: str, env: Mapping[str, str]) -> str:
    """``$(NAME)`` is replaced where it is known, and ``$$`` is one dollar, as in commands and values of Kubernetes."""
    return _VARIABLE.sub(lambda it: "$" if it[0] == "$$" else env.get(it[1], it[0]), text)


def command_of(container: Json, image: Image, env: Mapping[str, str]) -> list[str]:
    given = [*(container.get("command") or image.command), *(container.get("args") or ())]
    return [expanded(it, env) for it in given]


@dataclass
class Running:
    """One that was started. ``pid`` is that of its first process, which has number 1 in the container."""

    process: asyncio.subprocess.Process
    pid: int
    printed: Callable[[bytes], None]
    killed_for_memory: bool = False
    started: bool = True

    async def ended(self, memory: int | None) -> int:
        """The exit code, 128 and the signal's number where one ended it; 128 where there was no such program."""
        watcher = asyncio.create_task(self._watch_memory(memory)) if memory else None
        try:
            assert self.process.stdout is not None
            first = True
            while piece := await self.process.stdout.read(65536):
                if first and piece.startswith(_NO_PROGRAM):
                    self.started = False
                else:
                    self.printed(piece)
                first = False
            code = await self.process.wait()
        finally:
            if watcher is not None:
                watcher.cancel()
        if not self.started:
            return 128
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return  # it has just ended

    async def _watch_memory(self, limit: int) -> None:
        """Instead of a control group: what all its processes hold is looked at, often."""
        while True:
            if sum(_memory(pid) for pid in _family(self.pid)) > limit:
                self.killed_for_memory = True
                self.signal(signal.SIGKILL)
                return
            await asyncio.sleep(0.01)


async def start(
    image: Image,
    command: Sequence[str],
    env: Mapping[str, str],
    mounts: Sequence[Mount],
    *,
    directory: str | None,
    read_only: bool,
    printed: Callable[[bytes], None],
) -> Running:
    """Processes of its own, all of which end with the first; the network is this machine's, and so is the user."""
    reading, writing = os.pipe()
    try:
        bwrap = [
            *("bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--as-pid-1", "--info-fd", str(writing)),
            *("--tmpfs", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *_roots(image, mounts),
            *(["--remount-ro", "/"] if read_only else []),
            *("--chdir", directory or "/", "--", *command),
        ]
        process = await asyncio.create_subprocess_exec(
            *bwrap,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            pass_fds=[writing],
        )
    finally:
        os.close(writing)
    information = await asyncio.to_thread(_read, reading)
    return Running(process, json.loads(information)["child-pid"], printed)


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as told:
        return told.read()


def _roots(image: Image, mounts: Sequence[Mount]) -> Iterator[str]:
    """What is seen, above before below. A directory below which something is mounted is put together of its entries."""
    targets = [it.target for it in mounts]
    seen = [it for target, source in image.files.items() for it in _exposed(source, target, targets)]
    seen += [("--bind", str(path), str(path)) for path in image.shared]
    seen += [("--ro-bind" if it.read_only else "--bind", str(it.source), it.target) for it in mounts]
    for it in sorted(seen, key=lambda it: it[2]):
        yield from it


def _exposed(source: Path, target: str, targets: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    below = [it for it in targets if it.startswith(f"{target.rstrip('/')}/")]
    if source.is_symlink():
        yield "--symlink", str(source.readlink()), target
    elif not below or not source.is_dir():
        yield "--ro-bind", str(source), target
    else:
        for entry in sorted(source.iterdir()):
            yield from _exposed(entry, f"{target.rstrip('/')}/{entry.name}", below)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return  # it has just ended
    for child in children:
        yield from _family(child)


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0
