"""Commands as README and docs print them: to be run by tests word for word.

A command is a line of a block fenced as `sh`, or a code span that begins with a program.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

# Programs other than limbeck that cannot run in a test, and why.
EXCUSED: Final = {
    "podman": "builds images of many gigabytes", "kubectl": "needs a Kubernetes cluster",
    "ray": "starts a cluster", "serve": "needs a running Ray cluster", "pip": "installs from the internet",
    "curl": "needs a running service", "make": "trains, or runs all tests; its targets must exist",
    "python": "measures for minutes, or writes the docs; the script must exist and have the options",
}

PROGRAMS: Final = ("limbeck", *EXCUSED)

# What stands for a reader's own names.
PLACEHOLDERS: Final = {"TASK": "my-task.yaml", "FOLDER": "my-data", "URL": "http://127.0.0.1:8080"}


@dataclass(frozen=True)
class Command:
    """A command, and whether it is a mention in a sentence, which may leave out arguments."""

    page: str
    text: str
    mention: bool

    def words(self) -> list[str]:
        """Its words without a comment, brackets and settings of the environment; placeholders have values."""
        words = shlex.split(_without_brackets(self.text), comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        return [PLACEHOLDERS.get(w, w) for w in words]


def commands_of(page: str, text: str) -> Iterator[Command]:
    """The commands of a page.

    Raises:
        AssertionError: A block that is not fenced as `sh` has one.
    """
    prose: list[str] = []
    fence = None
    for line in text.splitlines():
        mark = re.match(r"\s*```(\w*)", line)
        if mark:
            fence = mark[1] if fence is None else None
        elif fence is None:
            prose.append(line)
        elif fence == "sh":
            if line.strip() and not line.lstrip().startswith("#"):
                yield Command(page, line.strip(), mention=False)
        else:
            first = (line.split() or [""])[0]
            assert first not in PROGRAMS, f"{page}: fence this block as sh: {line}"
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", "\n".join(prose)):
        flat = " ".join(span.split())
        if flat.split(" ")[0] in PROGRAMS and " " in flat:
            yield Command(page, flat, mention=True)


def all_commands() -> list[Command]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return list(dict.fromkeys(c for p in pages for c in commands_of(p.name, p.read_text(encoding="utf-8"))))


COMMANDS: Final = all_commands()


def documented(text: str, **names: str | Path) -> list[str]:
    """The words of a command after its program; a test that calls this runs the command as the docs print it.

    Args:
        text: The command, without its comment.
        names: What the placeholders in it stand for, such as TASK.

    Raises:
        AssertionError: No page has this command, or a placeholder has no value.
    """
    assert text in {plain(c.text) for c in COMMANDS}, f"no page has the command {text!r}"
    words = [str(names.get(w, w)) for w in shlex.split(_without_brackets(text))][1:]
    assert not any(re.fullmatch(r"[A-Z]{3,}", w) for w in words), words
    return words


def plain(text: str) -> str:
    """A command without the comment after it, with single blanks."""
    return " ".join(re.sub(r"\s+#.*", "", text).split())


def _without_brackets(text: str) -> str:
    return re.sub(r"[\[\]…]", " ", text)
