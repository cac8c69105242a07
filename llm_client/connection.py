"""What a session with an LLM endpoint takes from the environment: the key, and the proxy that leads to it."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

from task.errors import InputError


def authorization(variable: str) -> dict[str, str]:
    """The header with the key from an environment variable; none if it is not set.

    Line breaks and blanks around the key are left out: keys are read from files that end in a line break.

    Raises:
        InputError: The key has a character that a header cannot hold. The message does not show the key.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            "the key in this environment variable cannot be sent in a header", field=variable,
            expected="printable ASCII characters on one line", fix="Copy the key again, without quotes around it",
        )
    return {"Authorization": f"Bearer {key}"}


def proxy_for(url: str) -> str | None:
    """The proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY for a URL, or None; NO_PROXY excepts hosts.

    aiohttp's `trust_env` is not used: it also sends the login that `~/.netrc` has for the host, which it refuses to
    combine with our Authorization header, and it looks both up for every request.

    Raises:
        InputError: The proxy is of a kind that aiohttp cannot use.
    """
    target = urlsplit(url)
    proxies = urllib.request.getproxies()
    name = target.scheme if target.scheme in proxies else "all"
    if name not in proxies or not target.hostname or _excepted(target.hostname, target.port, proxies.get("no", "")):
        return None
    proxy = proxies[name] if "://" in proxies[name] else f"http://{proxies[name]}"
    if urlsplit(proxy).scheme not in {"http", "https"}:
        raise InputError(
            "a proxy of this kind cannot be used", field=f"{name.upper()}_PROXY", found=urlsplit(proxy).scheme,
            expected="an http:// proxy, or the endpoint's host in NO_PROXY",
        )
    return proxy


def _excepted(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY has a host: `*`, names with their subdomains, `host:port`, addresses, and networks as /N."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in (e.strip().lower().lstrip(".") for e in no_proxy.split(",")):
        if entry and (entry == "*" or entry == f"{host}:{port}" or f".{host}".endswith(f".{entry}")):
            return True
        try:
            if address is not None and address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # a name
            continue
    return False
