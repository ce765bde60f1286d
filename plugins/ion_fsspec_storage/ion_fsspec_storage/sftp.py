"""fsspec's SFTP driver (paramiko's) as files are kept with it. One connection, so one call at a time.

What is different: host keys are checked; nothing waits for ever; a file is sent and fetched with many requests under
way, and flushed where the server can; what the server calls a failure is told apart.
"""

from __future__ import annotations

import io
import logging
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem
from paramiko.sftp import CMD_EXTENDED

from ion_fsspec_storage.connections import within
from ion_fsspec_storage.errors import Untrusted

_CONNECT = 10.0
_ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""
_BLOCK = 1 << 18
_REQUESTS = 64
"""How many of them are under way while a file is fetched, 32 KiB each: more OpenSSH does not take."""
_POLICIES = ("reject", "auto_add")

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong is raised, too: said once


class _Refusing(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:
        host, _, port = hostname.strip("[]").partition("]:")
        scan = f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"
        raise Untrusted(
            f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint}). If that is its key: "
            f"{scan} >> ~/.ssh/known_hosts, or name another file as options.known_hosts"
        )


class Sftp(SFTPFileSystem):  # type: ignore[misc]
    """Takes what paramiko's ``SSHClient.connect`` takes, and

    ``known_hosts``      a file of host keys, besides those of the user and the system.
    ``host_key_policy``  ``reject`` (default) hosts that are not in these, or ``auto_add``: trust whoever answers.
    ``timeout``          seconds until a server that says nothing is given up (30).
    """

    def __init__(
        self,
        host: str,
        *,
        known_hosts: str | None = None,
        host_key_policy: str = "reject",
        timeout: float = _ANSWER,
        **options: Any,
    ) -> None:
        if host_key_policy not in _POLICIES:
            raise ValueError(f"host_key_policy must be one of {', '.join(_POLICIES)}")
        self._known_hosts = known_hosts
        self._trusting = host_key_policy == "auto_add"
        self._seconds = float(timeout)
        self._flushes = True
        super().__init__(host, **options)

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        if self._known_hosts is not None:
            self.client.load_host_keys(str(Path(self._known_hosts).expanduser()))
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy() if self._trusting else _Refusing())
        try:
            with _meant():
                self.ftp = within(_CONNECT + self._seconds, self._opened, f"connecting to {self.host}")
        except BaseException:
            self.client.close()
            raise

    def _opened(self) -> paramiko.SFTPClient:
        waits = {"banner_timeout": self._seconds, "auth_timeout": self._seconds, "channel_timeout": self._seconds}
        self.client.connect(self.host, **{"timeout": _CONNECT, **waits, **self.ssh_kwargs})
        transport = self.client.get_transport()
        assert transport is not None
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # or what is sent to a host that is frozen waits for ever
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._seconds * 1000))
        channel = transport.open_session(timeout=self._seconds)
        channel.settimeout(self._seconds)
        channel.invoke_subsystem("sftp")
        return paramiko.SFTPClient(channel)

    def disconnect(self) -> None:
        self.client.close()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        with _meant():
            found: dict[str, Any] = super().info(path)
            return found

    def ls(self, path: str, detail: bool = False, **_: Any) -> list[Any]:
        with _meant():
            found: list[Any] = super().ls(path, detail=detail)
            return found

    def makedirs(self, path: str, exist_ok: bool = False, mode: int = 0o777) -> None:
        """Others may make, or remove, the same ones meanwhile."""
        with _meant():
            try:
                self.ftp.mkdir(path, mode)
            except FileNotFoundError:
                if not path.strip("/"):
                    raise
                self.makedirs(self._parent(path), exist_ok=True, mode=mode)
                self.makedirs(path, exist_ok=exist_ok, mode=mode)
            except OSError:  # "Failure", whatever it is
                if not exist_ok or not self._is_directory(path):
                    raise

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._store(path, io.BytesIO(value))

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        with Path(lpath).open("rb") as source:
            self._store(rpath, source)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        with self._fetching(path) as file:
            data: bytes = file.read()
        return data[start:end]

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        with self._fetching(rpath) as file, Path(lpath).open("wb") as target:
            shutil.copyfileobj(file, target, _BLOCK)

    def rm_file(self, path: str) -> None:
        with _meant():
            try:
                self.ftp.remove(path)
            except FileNotFoundError:
                raise
            except OSError as error:
                if self._is_directory(path):
                    raise IsADirectoryError(path) from error
                raise

    def rmdir(self, path: str) -> None:
        with _meant():
            self.ftp.rmdir(path)

    def mv(self, old: str, new: str, **_: Any) -> None:
        """In one step where the server can, as OpenSSH. FileExistsError where it can only without replacing."""
        with _meant():
            try:
                self.ftp.posix_rename(old, new)
            except OSError as error:
                if not _is_unsupported(error):
                    raise
                self._rename(old, new)

    def _rename(self, old: str, new: str) -> None:
        try:
            self.ftp.rename(old, new)
        except FileNotFoundError:
            raise
        except OSError as error:
            if self._is_there(new):
                raise FileExistsError(new) from error
            raise

    def _store(self, path: str, source: BinaryIO) -> None:
        with _meant(), self.ftp.open(path, "wb") as file:
            file.set_pipelined(True)
            size = 0
            while block := source.read(_BLOCK):
                file.write(block)
                size += len(block)
            stored = file.stat().st_size  # of requests under way nobody sees how they end
            if stored != size:
                raise OSError(f"of what was sent, {size:,} B, {stored:,} B are stored")
            self._flush(file)

    def _flush(self, file: paramiko.SFTPFile) -> None:
        if self._flushes:
            try:
                self.ftp._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)
            except OSError as error:
                if not _is_unsupported(error):
                    raise
                self._flushes = False

    @contextmanager
    def _fetching(self, path: str) -> Iterator[paramiko.SFTPFile]:
        with _meant(), self.ftp.open(path, "rb") as file:
            status = file.stat()
            if stat.S_ISDIR(status.st_mode or 0):
                raise IsADirectoryError(path)
            file.prefetch(status.st_size, _REQUESTS)
            yield file

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self.ftp.stat(path).st_mode or 0)
        except FileNotFoundError:
            return False

    def _is_there(self, path: str) -> bool:
        try:
            self.ftp.lstat(path)
        except FileNotFoundError:
            return False
        return True


def _is_unsupported(error: OSError) -> bool:
    """The protocol has a number for that, of which paramiko leaves the text only."""
    return error.errno is None and any(word in str(error).lower() for word in ("unsupported", "not support"))


@contextmanager
def _meant() -> Iterator[None]:
    """paramiko's own errors as those of the operating system."""
    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise Untrusted(
            f"the host key of {error.hostname} is another one than is known. If it was changed: ssh-keygen -R "
            f"{error.hostname}, and add the new one to known_hosts"
        ) from error
    except paramiko.AuthenticationException as error:
        raise PermissionError(str(error)) from error
    except (paramiko.SSHException, EOFError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
