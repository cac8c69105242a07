"""Every command of README and docs: run word for word where that takes seconds, else read by the real command line.

A command is a line of a block fenced as `sh`, or a code span that begins with a program. One that is in none of the
lists below fails, so that a new one is either run, or somebody says why not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from typer.testing import CliRunner

from limbeck.cli import app
from tests.limbeck.operations.test_draft import write_furniture

ROOT = Path(__file__).parent.parent

# Subcommands of limbeck that are run, in this order: each works on what those before it left.
RUN: Final = ("init", "check", "plan", "label", "ledger", "key")

# Those that are only read: their options must exist, and none of their arguments may be missing.
_TRAINS, _SERVES = "trains for minutes", "starts an engine, or needs a running service"
PARSED: Final = {
    "run": _TRAINS, "curriculum": "part of `run`", "train": _TRAINS, "merge": _TRAINS, "bundle": _TRAINS,
    "evaluate": _TRAINS, "forms": _TRAINS, "ablate": _TRAINS, "sweep": _TRAINS, "compose": _TRAINS,
    "audit-context": "asks an LLM, or labels the whole market twice",
    "rewrites": "needs rewrites of queries; tests/limbeck/studies/test_rewrites.py runs it",
    "bench": _SERVES, "compare": _SERVES, "gate": _SERVES, "predict": _SERVES, "serve": _SERVES, "purge": _SERVES,
    "status": _SERVES,
    "score": "needs two files; tests/eval and tests/limbeck/judging run it",
    "verify": "needs a bundle; tests/limbeck/test_end_to_end.py runs it",
    "release": "needs a bundle; tests/limbeck/test_end_to_end.py runs it",
    "rollback": "needs a pointer; tests/limbeck/test_end_to_end.py runs it",
}

# Other programs that cannot run here; of their arguments, files of this repository must exist.
EXCUSED: Final = {
    "podman": "builds images of many gigabytes", "kubectl": "needs a Kubernetes cluster",
    "ray": "starts a cluster", "serve": "needs a running Ray cluster", "pip": "installs from the internet",
    "curl": "needs a running service", "make": "trains, or runs all tests; its targets must exist",
    "python": "measures for minutes, or writes the docs; the script must exist and have the options",
}

# What stands for a reader's own names.
PLACEHOLDERS: Final = {"TASK": "my-task.yaml", "FOLDER": "my-data", "URL": "http://127.0.0.1:8080"}
_NAMES: Final = frozenset({
    "A", "B", "BUNDLE", "COLUMN", "FILE", "GOLD", "NEW", "PATH", "POINTER", "PYTHON", "RUN", "VENV",
})
_PROGRAMS: Final = ("limbeck", *EXCUSED)
_OURS: Final = re.compile(r"(?:configs|deploy|tools|benchmarks|docs)/\S+\.\w+")


@dataclass(frozen=True)
class Command:
    """A command, and whether it is a mention in a sentence, which may leave out arguments."""

    page: str
    text: str
    mention: bool

    def words(self) -> list[str]:
        """Its words without a comment, brackets and settings of the environment; placeholders have values."""
        words = shlex.split(re.sub(r"[\[\]…]", " ", self.text), comments=True)
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
            assert first not in _PROGRAMS, f"{page}: fence this block as sh: {line}"
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", "\n".join(prose)):
        flat = " ".join(span.split())
        if flat.split(" ")[0] in _PROGRAMS and " " in flat:
            yield Command(page, flat, mention=True)


def all_commands() -> list[Command]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return list(dict.fromkeys(c for p in pages for c in commands_of(p.name, p.read_text(encoding="utf-8"))))


COMMANDS: Final = all_commands()


def problem(command: Command) -> str | None:
    """What is wrong with a command as it is written; None if it can be started."""
    program, *arguments = command.words()
    if missing := [x for x in _OURS.findall(" ".join(arguments)) if not (ROOT / x).exists()]:
        return f"no such file: {', '.join(missing)}"
    unknown = [w for w in arguments if w.isupper() and w.isalpha() and w not in _NAMES]
    if unknown:
        return f"placeholders without a value: {', '.join(unknown)}"
    if program == "limbeck":
        return _unparsed(arguments, command.mention)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if set(arguments) <= set(targets) else f"no such target: {arguments}"
    if program == "python" and arguments[0] == "-m":
        return _unknown_options(Path(*arguments[1].split(".")).with_suffix(".py"), arguments[2:])
    return None if program in EXCUSED else "neither run nor excused"


def _unknown_options(script: Path, arguments: list[str]) -> str | None:
    if not (ROOT / script).exists():
        return f"no such script: {script}"
    source = (ROOT / script).read_text()
    options = [a for a in arguments if a.startswith("--") and f'"{a}"' not in source]
    return f"no such options of {script}: {', '.join(options)}" if options else None


def _unparsed(arguments: list[str], mention: bool) -> str | None:
    """What the command line itself says against the arguments of `limbeck`."""
    root: Any = typer.main.get_command(app)
    with root.make_context("limbeck", ["--", *arguments], resilient_parsing=True) as context:
        name, *rest = arguments
        if name not in (*RUN, *PARSED):
            return "neither run nor excused"
        found = root.get_command(context, name)
        if found is None:
            return f"no such command: {name}"
        try:
            found.make_context(name, rest, parent=context)
        except Exception as error:  # noqa: BLE001 (of click, or of the copy of it that typer brings along)
            if mention and type(error).__name__ == "MissingParameter":
                return None
            return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.page}: {c.text}"[:80])
def test_a_command_can_be_started(command: Command) -> None:
    assert problem(command) is None, f"{command.page}: {command.text}"


@pytest.mark.filterwarnings("ignore::task.errors.InputWarning")
def test_the_commands_of_the_first_hour_run_word_for_word(
    tmp_path: Path, tiny_llama: Path, embedder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder, after one another; the drafted task file gets models that are made here and need no network."""
    monkeypatch.chdir(tmp_path)
    write_furniture(tmp_path / "my-data")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    words = list(dict.fromkeys(tuple(c.words()) for c in COMMANDS if complete(c)))
    ran = sorted((w for w in words if w[1] in RUN), key=lambda w: RUN.index(w[1]))
    assert {w[1] for w in ran} == set(RUN)
    for _, *arguments in ran:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        if arguments[0] == "init":
            for drafted in tmp_path.glob("*.yaml"):
                use_small_models(drafted, tiny_llama, embedder_folder)
    assert Path("labels.csv").read_text(encoding="utf-8-sig").startswith('"query","count","status"')
    assert list(Path("runs").rglob("labels.jsonl"))


def complete(command: Command) -> bool:
    """Whether a command of limbeck has all its arguments."""
    words = command.words()
    return words[0] == "limbeck" and _unparsed(words[1:], mention=False) is None


def use_small_models(task: Path, base: Path, embedder: Path) -> None:
    content = yaml.safe_load(task.read_text())
    content.setdefault("student", {})["base"] = str(base)
    content.setdefault("teacher", {}).setdefault("retrieval", {})["embedder"] = str(embedder)
    task.write_text(yaml.safe_dump(content))


MISSING = "/".join(("configs", "none.yaml"))  # in parts: `test_docs` wants files that texts name to be there


@pytest.mark.parametrize(("text", "expected"), [
    ("limbeck frobnicate", "neither run nor excused"), ("limbeck label TASK --no-such", "NoSuchOption"),
    ("limbeck label", "MissingParameter"), (f"limbeck plan {MISSING}", f"no such file: {MISSING}"),
    ("limbeck plan THING", "placeholders"), ("docker run limbeck", "neither run nor excused"),
    ("make dinner", "no such target"), ("python -m benchmarks.none", "no such script"),
    ("python -m benchmarks.noise runs/market --no-such", "no such options"),
])
def test_a_command_that_has_rotted_is_found(text: str, expected: str) -> None:
    (command,) = commands_of("page.md", f"```sh\n{text}\n```")
    assert expected in (problem(command) or "")


def test_commands_are_found_in_blocks_and_sentences() -> None:
    page = "Run `limbeck\nplan TASK`, `make` and `limbeck/cli.py`.\n\n```sh\nlimbeck run TASK  # all\n```\n"
    assert [(c.words(), c.mention) for c in commands_of("page.md", page)] == [
        (["limbeck", "run", "my-task.yaml"], False), (["limbeck", "plan", "my-task.yaml"], True),
    ]
    with pytest.raises(AssertionError, match="fence this block as sh"):
        list(commands_of("page.md", "```\nlimbeck run TASK\n```"))
