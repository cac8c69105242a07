"""`limbeck --help`: commands by panel, as plain text.

Typer formats help with rich, whose Markdown and traceback modules take twice as long to import as everything else that
the command line needs. Plain text is printed at once, and looks the same in a terminal, a pipe and a log.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from typer.core import TyperGroup

_DEFAULT_PANEL = "A run and its stages"
_WHOLE = 1_000  # characters: the first sentence is wrapped, not cut


class PanelGroup(TyperGroup):
    """A group of commands whose help lists them by their `rich_help_panel`, in the order of registration."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel."""
        panels: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command) for name, command in commands if command is not None and not command.hidden]
        for name, command in shown:
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else _DEFAULT_PANEL
            panels[title].append((name, command.get_short_help_str(_WHOLE)))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)
