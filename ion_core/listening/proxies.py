"""What proxies before a service say of whom they forward for: believed of those that are named, and of no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Headers(Protocol):
    """By name, in whatever case; there may be several of one name."""

    def get(self, key: str, default: str) -> str: ...
    def getall(self, key: str, default: list[str]) -> list[str]: ...


class Request(Protocol):
    """What is asked of a request, whichever library has read it. ``remote`` is who connected."""

    @property
    def remote(self) -> str | None: ...
    @property
    def headers(self) -> Headers: ...


class Proxies:
    """``networks`` are addresses, or networks in which all are proxies of ours."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(it) for it in networks]

    def client(self, request: Request) -> str:
        """Who asked: whoever connected or, where that is one of ours, whom the last of ours in the row was asked by."""
        shown, hops = _address(request.remote or ""), _listed(request, "X-Forwarded-For")
        while self._trusts(shown) and hops and (hop := _address(hops.pop())) is not None:
            shown = hop
        return str(shown or request.remote or "")

    def hosts(self, request: Request) -> list[str]:
        """For which host it was meant, as the request and each proxy of ours say."""
        trusted = bool(self._networks) and self._trusts(_address(request.remote or ""))
        return [request.headers.get("Host", ""), *(_listed(request, "X-Forwarded-Host") if trusted else ())]

    def is_page_of_another_host(self, request: Request) -> bool:
        """Whether a web page sent it that is not of this machine, or one under a name of its own."""
        origin = request.headers.get("Origin", "")
        urls = [f"//{host}" for host in self.hosts(request)] + ([origin] if origin else [])
        return not all(_is_this_machine(url) for url in urls)

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _listed(request: Request, name: str) -> list[str]:
    lines: Sequence[str] = request.headers.getall(name, [])
    return [it.strip() for line in lines for it in line.split(",")]


def _address(text: str) -> Address | None:
    """Without the port that some proxies add. None where it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=64)
def _is_this_machine(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
