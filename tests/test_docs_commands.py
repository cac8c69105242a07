"""Every command of README and docs: run word for word in a test, or, of those that cannot, read by the command line.

The commands of the first hour run here. Others run where a test has what they need, through `tests.documented`. One
that no test runs fails, unless it is listed with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.inputs import Inputs
from task.load import load_task
from tests.documented import COMMANDS, EXCUSED, ROOT, Command, commands_of, plain
from tests.limbeck.operations.test_draft import write_furniture

# Subcommands of limbeck that are run here, in this order: each works on what those before it left.
RUN: Final = ("init", "check", "plan", "label", "ledger", "key")

# Commands that no test runs.
_MARKET = "the whole market takes minutes; TASK is run"
UNRUN: Final = {
    "limbeck run configs/market.yaml": _MARKET, "limbeck forms configs/market.yaml --steps 120": _MARKET,
    "limbeck audit-context configs/market.yaml --gold test": _MARKET,
    "limbeck run configs/queryner.yaml --set data.dir=PATH": "needs the dataset, which is not in the repository",
    "limbeck forms TASK": "trains, merges and serves three students: two minutes, each part of which another test runs",
    "limbeck run my-task.yaml": "`limbeck run TASK` is the same",
}

_NAMES: Final = frozenset({
    "A", "B", "BUNDLE", "COLUMN", "FILE", "GOLD", "NEW", "PATH", "POINTER", "PYTHON", "RUN", "VENV", "XML",
})
_OURS: Final = re.compile(r"(?:configs|deploy|tools|benchmarks|docs)/\S+\.\w+")


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


def test_every_complete_command_is_run_by_a_test_or_somebody_says_why_not() -> None:
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    elsewhere = set(re.findall(r"""documented\(\s*(?:'([^']+)'|"([^"]+)")""", tests))
    run = {"".join(x) for x in elsewhere}
    texts = {plain(c.text) for c in COMMANDS if complete(c)}
    left = {t for t in texts - run - set(UNRUN) if t.split()[1] not in RUN}
    assert not left, f"call tests.documented.documented with these in a test, or say in UNRUN why not: {sorted(left)}"
    assert set(UNRUN) <= texts - run


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
    exported = Path("my-data", "labels.csv")
    assert exported.read_text(encoding="utf-8-sig").startswith('"query","count","status"')
    task = load_task("my-task.yaml", ["data.labels=labels.csv", "teacher.backend=labels"]).task
    assert Inputs(task, tmp_path).source("labels") == exported
    assert Inputs(task, tmp_path).labels
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
    ("limbeck frobnicate", "no such command"), ("limbeck label TASK --no-such", "NoSuchOption"),
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
