"""As whom the API server is spoken to: kubeconfig or service account, read by the official client's own loader.

That is all of the official client that is used. It is imported where credentials are opened: it takes half a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ion_core.errors import ConfigError, NotSetUpHere, TransientError
from ion_kubernetes.settings import KubernetesSettings

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FRESH = 60.0
"""Seconds after which a token is asked for again, as the official client does: from its file, or of a plugin."""
_LONGEST = 60.0
"""Seconds for one load: an exec plugin may ask a server of its own."""

Load = Callable[[], Awaitable[Any]]
"""The official client's ``Configuration``, as it is now."""


@dataclass
class LoadedCredentials:
    """``Credentials`` for ``Api``, from what the official client has loaded. Made by ``open_credentials``."""

    _anew: Callable[[], Load]
    """Begins from the beginning: files are read again, plugins run again, whatever they said of an expiry."""
    _clock: Callable[[], float] = time.monotonic
    _load: Load | None = None
    _loaded: Any = None
    _at: float = 0
    _tls: tuple[Any, ssl.SSLContext] | None = None
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def server(self) -> str:
        return str(self._loaded.host).rstrip("/")

    async def authorization(self, *, refused: str | None = None) -> str | None:
        """Raises TransientError where the server knows ``refused`` no more and there is no other."""
        async with self._loading:
            if refused is not None and refused == self._header():
                await self._renew(from_beginning=True)
            elif self._clock() - self._at >= _FRESH:
                await self._renew(from_beginning=False)
            return self._header()

    def connecting(self) -> Mapping[str, Any]:
        more: dict[str, Any] = {"proxy": self._loaded.proxy} if self._loaded.proxy else {}
        if self.server.startswith("https:"):
            assert self._tls is not None
            more["ssl"] = self._tls[1]
            if self._loaded.tls_server_name:
                more["server_hostname"] = self._loaded.tls_server_name
        return more

    async def load(self) -> None:
        """Raises ConfigError for what cannot be used."""
        with _errors() as said:
            try:
                if self._load is None:
                    self._load = self._anew()
                async with asyncio.timeout(_LONGEST):
                    loaded = await self._load()
            except TimeoutError as error:
                raise ConfigError(f"kubernetes: no credentials within {_LONGEST:g} s. Does a plugin hang?") from error
            except Exception as error:  # of the loader, of YAML, of HTTP: whatever it was, these are not to be had
                raise ConfigError(f"kubernetes: the credentials cannot be used: {_words(error)}") from error
        if said:
            raise ConfigError(f"kubernetes: the credentials cannot be used: {'; '.join(said)}")
        self._use(loaded)

    async def _renew(self, *, from_beginning: bool) -> None:
        if from_beginning:
            self._load = None
        try:
            await self.load()
        except ConfigError as error:
            if from_beginning:
                raise TransientError(f"kubernetes: credentials could not be renewed: {error}") from error
            # Those that there are may be known for some time yet; the server says when they are not.
            logger.warning("credentials could not be renewed", extra={"reason": str(error)})
            self._at = self._clock()

    def _use(self, loaded: Any) -> None:
        """All or nothing: certificates are read before anything is taken over."""
        if str(loaded.host).startswith("https:"):
            files = (loaded.ssl_ca_cert, loaded.cert_file, loaded.key_file)
            try:
                read = (loaded.verify_ssl, *(Path(it).read_bytes() if it else None for it in files))
                if self._tls is None or self._tls[0] != read:
                    self._tls = (read, _context(loaded))
            except (OSError, ssl.SSLError) as error:
                named = ", ".join(str(it) for it in files if it)
                raise ConfigError(f"kubernetes: these certificates cannot be used: {named}: {_words(error)}") from error
        self._loaded = loaded
        self._at = self._clock()

    def _header(self) -> str | None:
        token: str | None = self._loaded.api_key.get("BearerToken")
        if token is None:
            return None
        scheme, _, value = token.partition(" ")
        # The loader of service accounts writes "bearer", and keeps the newline of a file.
        return f"{'Bearer' if scheme == 'bearer' else scheme} {value.strip()}"


@asynccontextmanager
async def open_credentials(
    settings: KubernetesSettings, *, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[LoadedCredentials]:
    """Raises ConfigError where there are none, or they cannot be used. ``clock`` tells seconds.

    Certificates and keys that stand in a kubeconfig itself are written to files of the temporary directory, readable by
    this user alone, which the official client removes when the process ends.
    """
    try:
        credentials = LoadedCredentials(_source(settings), clock)
        await credentials.load()
    except NotSetUpHere as error:
        raise NotSetUpHere(f"{settings.section.where()}: {error}") from error
    except ConfigError as error:
        where = settings.section.where("context" if isinstance(error.__cause__, _NoContext) else "kubeconfig")
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    yield credentials


class _NoContext(Exception):
    """The kubeconfig has no context of the name that the settings give."""


def _source(settings: KubernetesSettings) -> Callable[[], Load]:
    named = str(settings.kubeconfig) if settings.kubeconfig else os.environ.get("KUBECONFIG")
    usual = Path.home() / ".kube/config"
    if named or usual.is_file():
        files = named or str(usual)
        return lambda: _kubeconfig(files, settings.context)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _service_account
    raise NotSetUpHere(
        "kubernetes: nothing says where the API server is: no kubeconfig in the settings or $KUBECONFIG, none at "
        f"{usual}, and this does not run in a pod. Set $KUBECONFIG, or `kubeconfig`."
    )


def _kubeconfig(files: str, context: str | None) -> Load:
    config = import_module("kubernetes.aio.config")
    configuration = import_module("kubernetes.aio.client").Configuration
    if not any(Path(it).expanduser().is_file() for it in files.split(os.pathsep)):
        raise FileNotFoundError(f"{files}: no such file")
    loader: Any = None

    async def load() -> Any:
        nonlocal loader
        loaded = configuration()
        if loader is not None:
            await loader.load_and_set(loaded)
            return loaded
        if context is not None:
            _look_for(context, files)
        loader = await config.load_kube_config(files, context, loaded, persist_config=False)
        return loaded

    return load


def _look_for(context: str, files: str) -> None:
    """The loader says of a context that is missing neither whose word it is nor which there are."""
    merged = import_module("kubernetes.aio.config.kube_config").KubeConfigMerger(files).config.value
    there = [it["name"] for it in merged["contexts"]]
    if context not in there:
        raise _NoContext(f'{files} has no context "{context}". There are: {", ".join(there) or "none"}.')


def _service_account() -> Load:
    in_cluster = import_module("kubernetes.aio.config.incluster_config")
    configuration = import_module("kubernetes.aio.client").Configuration

    async def load() -> Any:
        loaded = configuration()
        token, authority = str(SERVICE_ACCOUNT / "token"), str(SERVICE_ACCOUNT / "ca.crt")
        in_cluster.InClusterConfigLoader(token, authority, environ=os.environ).load_and_set(loaded)
        return loaded

    return load


def _context(loaded: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=loaded.ssl_ca_cert)
    # The default since Python 3.13, which authorities of many clusters do not satisfy.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if loaded.cert_file:
        context.load_cert_chain(loaded.cert_file, loaded.key_file)
    if not loaded.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _errors() -> Iterator[list[str]]:
    """What the loader logs as errors meanwhile: of an exec plugin that fails it raises nothing, and goes on without."""
    said: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    loader = logging.getLogger("kubernetes.aio.config.kube_config")
    handler = Collecting(logging.ERROR)
    loader.addHandler(handler)
    try:
        yield said
    finally:
        loader.removeHandler(handler)


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
