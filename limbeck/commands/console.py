"""Commands of the web console: start it, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.commands.options import RUNS

app = typer.Typer()
PANEL = "Operations"
StateFolder = Annotated[
    Path | None, typer.Option("--state", help="Where users, sessions and the audit log are; default: RUNS/.console")
]
RunsFolder = Annotated[Path, typer.Argument(metavar="RUNS", help="The folder with run folders")]
_STATE = ".console"


@app.command(rich_help_panel=PANEL)
def console(
    runs: RunsFolder = RUNS,
    service: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A service to ask in the playground; repeatable: two stand side by side"),
    ] = None,
    operators: Annotated[
        str | None, typer.Option(metavar="URL", help="The operators' port of `limbeck serve`, for the service page")
    ] = None,
    pointer: Annotated[
        Path | None, typer.Option(help="The release pointer, for releases and rollbacks from the service page")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; off loopback it needs users and TLS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one", min=0, max=65535)] = 8500,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name under which people reach the console; repeatable")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM")] = None,
    behind_proxy: Annotated[bool, typer.Option("--behind-proxy", help="A proxy before the console ends TLS")] = False,
    user_header: Annotated[
        str | None, typer.Option(help="Header in which that proxy names the user, such as X-Remote-User")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address from which --user-header is believed; repeatable; default: loopback"),
    ] = None,
    people: Annotated[int, typer.Option(help="How many people decide about each query of a queue", min=1, max=9)] = 1,
    state: StateFolder = None,
) -> None:
    """Look at labels, runs and the service in a browser; review labels; release and roll back.

    On loopback whoever is at this machine may do everything, until a user is added (`limbeck console-user`). Elsewhere
    it refuses to start without users, and without TLS or --behind-proxy. Ctrl-C ends it; no decision that the browser
    has seen acknowledged is lost.
    """
    from limbeck.console.options import Options
    from limbeck.console.server import run

    run(Options(
        runs=runs, state=state or runs / _STATE, services=tuple(service or ()), operators=operators, pointer=pointer,
        host=host, port=port, names=tuple(name or ()), certificate=tls_cert, key=tls_key, behind_proxy=behind_proxy,
        user_header=user_header, people=people, **({"proxies": tuple(trusted_proxy)} if trusted_proxy else {}),
    ))


@app.command("console-user", rich_help_panel=PANEL)
def console_user(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The user; without one, all are listed")] = None,
    runs: Annotated[Path, typer.Option(help="The folder with run folders")] = RUNS,
    role: Annotated[
        list[str] | None,
        typer.Option(help="look: see everything; label: decide about labels; release: release, roll back; repeatable"),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the user and end their sessions")] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="The user signs in at the proxy only (--user-header)")
    ] = False,
    state: StateFolder = None,
) -> None:
    """Add, change or remove a user of the console, or list all.

    The password is asked for, or read from standard input where that is no terminal. A user that exists gets the new
    password and roles, and signs in again.
    """
    from limbeck.commands.options import listed
    from limbeck.console.accounts import ROLES, Accounts, role_of
    from task.errors import InputError

    accounts = Accounts(state or runs / _STATE)
    try:
        if name is None:
            for known in accounts.names():
                print(f"{known}\t{', '.join(sorted(accounts.roles(known)))}")
            return
        if remove:
            if not accounts.remove(name):
                raise InputError("no such user", file=accounts.path, field="NAME", found=name)
            accounts.note("command line", "user removed", name)
            return
        roles = listed("--role", role, role_of, f"one of: {', '.join(ROLES)}")
        if not roles:
            raise InputError("what the user may do is missing", field="--role", expected=f"one of: {', '.join(ROLES)}")
        accounts.put(name, None if no_password else _password(), roles)
        accounts.note("command line", "user added or changed", name, after=sorted(set(roles)))
    finally:
        accounts.close()


def _password() -> str:
    import sys

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
