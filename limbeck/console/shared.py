"""What the pages of a console share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from limbeck.console.accounts import Accounts
from limbeck.console.options import Options
from limbeck.console.review_queue import Desk
from limbeck.console.run_folders import RunFolders
from limbeck.console.side_commands import SideCommands


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages share."""

    options: Options
    accounts: Accounts
    runs: RunFolders
    desk: Desk
    commands: SideCommands


def console_of(request: Request) -> Console:
    """What the pages share."""
    return cast("Console", request.app.state.console)
