"""What a session with an LLM endpoint takes from the environment: the key, and the proxy that leads to it."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from typing import Protocol
from urllib.parse import urlsplit

from task.errors import InputError, warn

_NEEDS_KEY = "api.openai.com"


class Endpoint(Protocol):
    """The settings of an LLM endpoint, of a labelling job or at serving time."""

    @property
    def base_url(self) -> str:
        """Its address."""

    @property
    def api_key_env(self) -> str:
        """The variable that holds its key."""

    @property
    def model_fields_set(self) -> set[str]:
        """The settings that the task file gives."""


def tell_missing_key(settings: Endpoint) -> None:
    """Warn, before anything is sent, where no key is set and one is expected.

    One is where the task file names the variable, and at OpenAI's own address; a server on this machine needs none.
    """
    variable = settings.api_key_env
    expected = "api_key_env" in settings.model_fields_set or urlsplit(settings.base_url).hostname == _NEEDS_KEY
    if expected and not authorization(variable):
        warn(
            f"the environment variable {variable} is not set, so requests to {settings.base_url} are sent without a "
            "key", field="api_key_env", fix=f"Set {variable}, if the server asks for a key",
        )


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
