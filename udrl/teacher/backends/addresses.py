"""Where an endpoint is, and through which proxy it is reached: checked before anything is asked."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from udrl.errors import MissingDependency, UsageError, is_installed

_FORM = "write it as http://HOST:PORT/v1"
_PROXIES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names. variable: the one that names it. shown: its address without a password."""

    url: str
    variable: str
    shown: str

    def __str__(self) -> str:
        return f"the proxy {self.shown} ({self.variable})"


def endpoint_address(url: str) -> str:
    """Return ``url`` as requests use it, with ``/v1`` where it has no path; raises UsageError where it is none."""
    url = url.strip()
    wrong = f"'{re.sub('//[^/@]*@', '//***@', url)}' is no address of an endpoint"
    parts = _split(url, wrong)
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{wrong}: {_FORM}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("an endpoint's address holds no key: put that into the environment (OPENAI_API_KEY)")
    address = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return address if parts.path.strip("/") else f"{address}/v1"


def proxy_for(address: str) -> Proxy | None:
    """Return the proxy through which the environment has ``address`` reached (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY).

    None for this machine itself, which no proxy reaches, and for what NO_PROXY names: hosts, with all below them,
    ``host:port``, networks (``10.0.0.0/8``), ``*``.
    Raises UsageError for a proxy that is none, MissingDependency where one cannot be used without another package.
    """
    parts, proxies = urlsplit(address), getproxies()
    scheme = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if scheme is None or is_this_machine(parts.hostname or "") or _is_excepted(parts, proxies.get("no", "")):
        return None
    variable = f"{scheme}_proxy" if os.environ.get(f"{scheme}_proxy") else f"{scheme.upper()}_PROXY"
    url = proxies[scheme].strip()
    url = url if "://" in url else f"http://{url}"
    wrong = f"the proxy that the environment variable {variable} names cannot be used"
    address_parts = _split(url, wrong, form="write it as http://HOST:PORT")
    if address_parts.scheme not in _PROXIES:
        raise UsageError(f"{wrong}: it begins with '{address_parts.scheme}://', known are {', '.join(_PROXIES)}")
    proxy = Proxy(url, variable, f"{address_parts.scheme}://{address_parts.netloc.rpartition('@')[2]}")
    if address_parts.scheme.startswith("socks") and not is_installed("socksio"):
        raise MissingDependency(
            f"{proxy} needs the package socksio, which is not installed: pip install socksio, or name the endpoint's "
            "host in NO_PROXY"
        )
    return proxy


def is_this_machine(host: str) -> bool:
    """Tell whether ``host`` is a loopback address or a name of one."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    number = _number(name)
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return number is not None and (number.is_loopback or number.is_unspecified)


def _split(url: str, wrong: str, *, form: str = _FORM) -> SplitResult:
    """Split ``url`` into its parts; raises UsageError, beginning with ``wrong``, where a part cannot be."""
    why = ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.port == 0:
            raise ValueError("port 0 is none")
        if re.search(r"[\s\x00-\x1f\x7f\\<>\"^`{|}]", url):
            raise ValueError("it holds a character that addresses do not have")
        if host and ":" not in host:
            host.encode("idna")
    except UnicodeError:
        why, host = ": its host is no name of one", ""
    except ValueError as error:
        why, host = f": {error}", ""
    if not host:
        raise UsageError(f"{wrong}{why}: {form}")
    return parts


def _is_excepted(parts: SplitResult, excepted: str) -> bool:
    """Tell whether ``excepted``, the value of NO_PROXY, names the host of ``parts``."""
    host = (parts.hostname or "").rstrip(".").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    number = _number(host)
    for entry in re.split(r"[,\s]+", excepted.lower()):
        name = entry.rpartition("://")[2]
        if number is not None and _in_network(number, name):
            return True
        named = re.fullmatch(r"\[?(.*?)\]?(?::(\d+))?", name) if name.count(":") < 2 or "[" in name else None
        wanted, wanted_port = (named[1], named[2]) if named else (name, None)
        if wanted_port is not None and int(wanted_port) != port:
            continue
        wanted = wanted.removeprefix("*.").strip(".") if wanted != "*" else wanted
        if wanted == "*" or (wanted and (host == wanted or (number is None and host.endswith(f".{wanted}")))):
            return True
    return False


def _in_network(number: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return number in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
