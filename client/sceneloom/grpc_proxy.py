"""Which proxy gRPC goes through, and how a channel to this machine goes through none.

gRPC heeds ``grpc_proxy``, ``https_proxy`` and ``http_proxy``, in this order, unless
``no_grpc_proxy`` or ``no_proxy`` names the host; by itself it does so for 127.0.0.1, too.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_options(address: str) -> list[tuple[str, int]]:
    """Options for a gRPC channel to ``HOST:PORT``: no proxy where that is this machine."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` never leaves this machine."""
    host = _host(address)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_unspecified)


def proxy_words(address: str) -> str:
    """What to say of the proxy that gRPC reaches ``HOST:PORT`` through; empty for none."""
    if is_loopback(address):
        return ""
    host = _host(address)
    name = next((name for name in _PROXIES if os.environ.get(name)), None)
    excepted = next((os.environ[one] for one in _EXCEPTIONS if os.environ.get(one)), "")
    if name is None or any(_fits(host, one.strip()) for one in excepted.split(",")):
        return ""
    proxy = urlsplit(os.environ[name])
    there = proxy.netloc.rpartition("@")[2] or "no address"  # without a password
    return f"; gRPC goes through the proxy of {name} ({there}): no_proxy={host} leaves it out"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]").lower()


def _fits(host: str, exception: str) -> bool:
    if not exception:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return exception == "*" or host.endswith(exception.lower())
