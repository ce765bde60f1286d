"""Making environments: once for a content, whoever asks and however many at once."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ion_core.errors import PermanentError, ProviderError, StorageFull, TransientError, storage_error
from ion_core.python_environments.content import Wanted, wanted
from ion_core.python_environments.kept import Lock, is_made, mark_made, remove
from ion_core.python_environments.search import BASE_PYTHON

log = logging.getLogger(__name__)

_LAST_LINES = 8
_SHORT = 300
"""Characters of what an installer said was wrong that go into a message."""
_ERROR = re.compile(r"\s*(error:\s*|×\s*)", re.IGNORECASE)
_CAUSE = re.compile(r"\s*(cause:|caused by:|╰─▶|├─▶)\s*", re.IGNORECASE)
_AGAIN_AFTER = 60.0
"""Seconds for which a failure stands, while the requirements stay the same."""
_CREDENTIALS = re.compile(r"(:/+)[^/\s'\"]+@")  # one slash is left where uv takes a URL for a path
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_PASSING = re.compile(
    r"read timed out|connect ?timeout|operation timed out|connection (was )?reset|connection aborted"
    r"|too many requests|\b429\b.*(error|client)|\b50[0234]\b.*(error|server|gateway|unavailable)",
    re.IGNORECASE,
)
"""What an index says when it is worth asking again; one whose name nobody knows, or that refuses us, is not."""
_NOT_FOR_INSTALLING = (
    "PYTHONHOME", "PYTHONPATH", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "UV_SYSTEM_PYTHON", "VIRTUAL_ENV",
    "COLUMNS",  # the width at which uv breaks lines: of one that is broken a message would have the beginning
)  # fmt: skip


@dataclass(frozen=True)
class _Failed:
    until: float
    why: str
    said: Sequence[str]


class Environments:
    """The environments in ``directory`` that this process uses: each is held until ``close``, so that none removes it.

    ``timeout`` in seconds is for making one.
    """

    def __init__(self, directory: Path, *, timeout: float) -> None:
        self._directory = directory.absolute()
        self._timeout = timeout
        self._held: dict[str, Lock] = {}
        self._turn: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, _Failed] = {}

    async def get(self, requirements: Path | None) -> Path:
        """The directory of the environment that has what ``requirements`` say now; made, if it is not there.

        Raises PermanentError, which has the last lines of what installs them, TransientError where an index may answer
        later, and StorageFull. What failed is not tried again for a minute, unless the requirements change.
        """
        try:
            what = await asyncio.to_thread(wanted, requirements)
        except OSError as error:
            raise PermanentError(
                f"requirements {error.filename or requirements}: cannot be read: {error.strerror}."
            ) from error
        path = self._directory / what.key
        if what.key in self._held and is_made(path):
            return path
        async with self._turn.setdefault(what.key, asyncio.Lock()):
            if what.key in self._held and is_made(path):
                return path
            failed = self._failed.get(what.key)
            if failed is not None and time.monotonic() < failed.until:
                raise PermanentError(failed.why, said=failed.said)
            try:
                await self._made_or_found(what, path)
            except OSError as error:
                raise storage_error(str(error.filename or path), error) from error
            except PermanentError as error:
                self._failed[what.key] = _Failed(time.monotonic() + _AGAIN_AFTER, str(error), error.said)
                raise
        return path

    def close(self) -> None:
        """Let go of all of them; they stay. Idempotent."""
        for lock in self._held.values():
            with suppress(OSError):  # somebody has removed the directory
                lock.used()
            lock.let_go()
        self._held.clear()

    async def _made_or_found(self, what: Wanted, path: Path) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (before := self._held.pop(what.key, None)) is not None:  # somebody has removed it by hand
            before.let_go()
        lock = Lock(path)
        try:
            while True:
                await lock.hold(alone=False)
                if is_made(path):
                    lock.used()
                    self._held[what.key] = lock
                    return
                await lock.hold(alone=True)
                if not is_made(path):
                    await self._make(what, path, lock)
        except BaseException:
            lock.let_go()
            raise

    async def _make(self, what: Wanted, path: Path, lock: Lock) -> None:
        began = time.monotonic()
        log.info("making a Python environment", extra={"requirements": str(what.requirements), "directory": str(path)})
        await asyncio.to_thread(remove, path)
        try:
            async with asyncio.timeout(self._timeout):
                for argv in _steps(what, path):
                    await _run(argv, what, lock)
        except TimeoutError as error:
            raise TransientError(
                f"{_named(what)}: was not installed within {self._timeout:g} s. Set install_timeout of the runtime."
            ) from error
        except ProviderError:
            await asyncio.to_thread(remove, path)
            raise
        await asyncio.to_thread(mark_made, path, what)
        log.info(
            "made a Python environment", extra={"directory": str(path), "seconds": round(time.monotonic() - began, 1)}
        )


def _named(what: Wanted) -> str:
    return str(what.requirements) if what.requirements else "an environment without any"


def _steps(what: Wanted, path: Path) -> Sequence[Sequence[str]]:
    """By uv where there is one, else by Python's own venv and the pip that is beside Ion, or the one Python brings."""
    uv = shutil.which("uv")
    if uv is not None:
        make = [uv, "venv", "--quiet", "--no-project", "--python", BASE_PYTHON, str(path)]
    else:
        make = [BASE_PYTHON, "-I", "-m", "venv", "--without-pip", str(path)]
    if not what.installs:
        return [make]
    python, file = str(path / "bin" / "python3"), str(what.requirements)
    if uv is not None:
        return [make, [uv, "--color", "never", "--no-progress", "pip", "install", "--python", python, "-r", file]]
    options = ["--quiet", "--no-color", "--progress-bar", "off", "-r", file]
    if importlib.util.find_spec("pip") is not None:
        return [make, [sys.executable, "-I", "-m", "pip", "--python", python, "install", *options]]
    ensure = [python, "-I", "-m", "ensurepip", "--default-pip"]
    return [make, ensure, [python, "-I", "-m", "pip", "install", *options]]


async def _run(argv: Sequence[str], what: Wanted, lock: Lock) -> None:
    """One step, in the directory of the requirements. It holds the lock too, so that it may outlive us undisturbed."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=what.requirements.absolute().parent if what.requirements else None,
        env=_surroundings(os.environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.descriptor,),
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise _failure(argv, what, said.decode(errors="replace"))


def _surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Ours, with what says where packages are to be had; without what would install them elsewhere, or break lines."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_INSTALLING}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_REQUIRE_VIRTUALENV": "0"}


def _failure(argv: Sequence[str], what: Wanted, all_said: str) -> ProviderError:
    """In one line what is wrong and what would do; the last lines of what the program said go with it."""
    all_said = _CREDENTIALS.sub(r"\1****@", all_said)  # a line that cannot be read is repeated as it stands
    lines = [line.rstrip() for line in all_said.splitlines() if line.strip()][-_LAST_LINES:]
    tool = Path(argv[0]).name if "-m" not in argv else argv[argv.index("-m") + 1]
    text = f"requirements cannot be installed: {_in_short(lines) or f'{tool} said nothing'}"
    text += "" if text.endswith((".", "!", "?")) else "."
    said = [f"{tool} said of {_named(what)}:", *(f"  {line}" for line in lines)] if lines else []
    if _FULL.search(all_said):
        return StorageFull(f"{text} Free some space; work goes on by itself then.", said=said)
    if _PASSING.search(all_said):
        return TransientError(f"{text} It is tried again.", said=said)
    if "ensurepip" in argv[3:] or (what.requirements is None and lines):
        return PermanentError(f"{text} Install uv, or this Python's venv and pip (Debian: python3-venv).", said=said)
    return PermanentError(f"{text} Mend {_named(what)}, or make the package available.", said=said)


def _in_short(lines: Sequence[str]) -> str:
    """What pip or uv said was wrong: its last error, with the cause behind it. Without one, its last line."""
    found = [n for n, line in enumerate(lines) if _ERROR.match(line)]
    if not found:
        return lines[-1].strip() if lines else ""
    at = found[-1]
    causes = [line for line in lines[at + 1 :] if _CAUSE.match(line)]
    if "╰" in "".join(causes):  # wrapped to the width of a terminal
        causes = [" ".join(line.strip() for line in lines[at + 1 :])]
    parts = [_ERROR.sub("", lines[at]).strip(), *(_CAUSE.sub("", it).strip() for it in causes)]
    text = ": ".join(part.rstrip(":") for part in parts if part)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
