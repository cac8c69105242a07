"""Consoles for the tests: the real application, asked without a socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from limbeck.console.accounts import Accounts
from limbeck.console.app import make_app
from limbeck.console.options import Options

PASSWORD = "correct horse battery"


@contextmanager
def console(folder: Path, **options: Any) -> Iterator[TestClient]:
    """A browser at a console over the runs in a folder."""
    given = Options(**({"runs": folder, "state": folder / ".console"} | options))
    accounts = Accounts(given.state)
    scheme = "https" if given.secure else "http"
    with TestClient(
        make_app(given, accounts), base_url=f"{scheme}://127.0.0.1", follow_redirects=False, client=("127.0.0.1", 5)
    ) as client:
        yield client
    accounts.close()


def add_user(folder: Path, name: str, *roles: Any) -> None:
    accounts = Accounts(folder / ".console")
    accounts.put(name, PASSWORD, roles)
    accounts.close()


def sign_in(client: TestClient, name: str, password: str = PASSWORD, **form: str) -> Any:
    return client.post("/sign-in", data={"name": name, "password": password, "next": "/runs", **form})


def secret(client: TestClient) -> str:
    """The CSRF secret that the session's pages carry."""
    found = re.search(r'"X-CSRF-Token": "([^"]+)"', client.get("/runs").text)
    assert found
    return found[1]
