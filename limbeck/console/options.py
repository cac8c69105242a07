"""What a console is started with, and whether that is safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from limbeck.console.accounts import Accounts
from task.errors import InputError

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a console is started.

    Attributes:
        runs: The folder of run folders.
        services: Addresses of services to ask; with two, their answers are shown side by side.
        operators: Address of a service's operators' port.
        pointer: The release pointer that releases and rollbacks change.
        state: Where users, sessions and the audit log are kept.
        host: The address to listen on.
        names: More host names under which people reach the console.
        certificate: File with the TLS certificate chain; None without TLS.
        key: File with its private key.
        behind_proxy: Whether a proxy before the console ends TLS.
        user_header: Header in which that proxy names the user who signed in there; None: people sign in here.
        proxies: Addresses from which that header is believed.
        people: How many people decide about each query of a review queue.
    """

    runs: Path
    state: Path
    services: tuple[str, ...] = ()
    operators: str | None = None
    pointer: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8500
    names: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False
    user_header: str | None = None
    proxies: tuple[str, ...] = field(default=("127.0.0.1", "::1"))
    people: int = 1

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the console."""
        return self.host in LOOPBACK_NAMES

    @property
    def secure(self) -> bool:
        """Whether browsers reach it through TLS."""
        return self.certificate is not None or self.behind_proxy

    @property
    def host_names(self) -> frozenset[str]:
        """Host names that requests may be addressed to: others come from pages that only resolve to this address."""
        return LOOPBACK_NAMES | {self.host, *self.names}


def check_runs(options: Options) -> None:
    """Raise `InputError` if there are no run folders to show."""
    if not options.runs.is_dir():
        raise InputError(
            "no such folder", file=options.runs, field="RUNS", expected="the folder with run folders",
            fix="Run `limbeck label TASK` first, or name the folder that --runs named",
        )


def check(options: Options, accounts: Accounts) -> None:
    """Raise `InputError` for a console that strangers could use, or that would fail at the first request."""
    check_runs(options)
    if (options.certificate is None) != (options.key is None):
        raise InputError("a certificate and its key belong together", field="--tls-cert, --tls-key")
    for name, file in (("--tls-cert", options.certificate), ("--tls-key", options.key)):
        if file is not None and not file.is_file():
            raise InputError("no such file", file=file, field=name)
    _check_proxy(options)
    _check_addresses("--service", options.services)
    _check_addresses("--operators", [options.operators] if options.operators else [])
    if options.on_loopback and not options.behind_proxy:
        return
    if not options.secure:
        raise InputError(
            "off loopback the console needs TLS", field="--host", found=options.host,
            fix="Give --tls-cert and --tls-key, or --behind-proxy where a proxy before it ends TLS",
        )
    if not accounts.names():
        raise InputError(
            "off loopback the console needs users", file=accounts.path, field="--host", found=options.host,
            fix="Add one with `limbeck console-user NAME --role look --role label --role release`",
        )


def _check_proxy(options: Options) -> None:
    if options.user_header is not None and not options.behind_proxy:
        raise InputError(
            "a header names the user only behind a proxy that sets it", field="--user-header",
            found=options.user_header, fix="Add --behind-proxy, or leave it out",
        )
    for address in options.proxies:
        try:
            ip_address(address)
        except ValueError:
            raise InputError(
                "not an address", field="--trusted-proxy", found=address, expected="an IP address, such as 10.0.0.5"
            ) from None


def _check_addresses(field_: str, addresses: Sequence[str]) -> None:
    for address in addresses:
        if not address.startswith(("http://", "https://")):
            raise InputError(
                "not an address", field=field_, found=address, expected="a URL such as http://127.0.0.1:8080"
            )
